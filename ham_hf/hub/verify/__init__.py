"""Check the claims of a model card against its weights and the data."""
