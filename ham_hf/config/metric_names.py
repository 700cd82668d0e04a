"""Names of metrics."""

# The figures a reader looks at first, in this order, with the words for them
HEADLINE = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "melanoma_sensitivity_at_90_specificity": "melanoma sensitivity at 90 % specificity",
    "melanoma_sensitivity_at_95_specificity": "melanoma sensitivity at 95 % specificity",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
}
