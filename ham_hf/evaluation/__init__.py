"""How good predictions are, and which images a model has seen."""
