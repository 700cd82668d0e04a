"""Load a trained classifier and predict, without scikit-learn or a trainer."""
