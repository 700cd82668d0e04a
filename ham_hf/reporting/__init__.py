"""From the predictions in a run folder to its report, model card, figures and comparisons; no model is loaded."""
