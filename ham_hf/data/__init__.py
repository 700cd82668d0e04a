"""HAM10000 in any layout as one `datasets.Dataset`, with splits by lesion, an audit and a pixel cache."""
