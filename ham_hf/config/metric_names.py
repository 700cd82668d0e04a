"""The metrics in words, and which of them each report, table and option uses.

A metric's definition is in `evaluation/metrics.py`; HEADLINE makes it part of every report, card and comparison of
folds.
"""

# In the order in which a report shows them
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
METRIC_NAMES = HEADLINE | {"recall_mel": "melanoma recall"}

LOWER_IS_BETTER = ("loss", "log_loss", "brier", "ece")  # the loss is the Trainer's
# Metrics on validation by which settings, ensemble members or a calibration can be chosen
SELECTION_METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "macro_auroc")
SUBGROUP_METRICS = ("accuracy", "balanced_accuracy", "recall_mel")
ABLATION_METRICS = ("balanced_accuracy", "macro_f1", "accuracy")  # of the confusion matrix alone
COMPARED_METRICS = ("balanced_accuracy", "macro_f1", "accuracy", "macro_auroc", "recall_mel", "log_loss", "ece")
