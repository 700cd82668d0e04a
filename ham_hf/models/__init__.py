"""Build and load models and their processors."""
