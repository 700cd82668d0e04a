"""`ham-hf data`: the commands about a copy of HAM10000."""
