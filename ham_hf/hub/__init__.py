"""Upload models, datasets and Spaces, and verify model cards."""
