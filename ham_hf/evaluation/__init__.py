"""Metrics of predictions, and which of the evaluated images a model has seen."""
