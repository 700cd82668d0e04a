"""How good are these probabilities? The definition of every figure that this project reports, from scikit-learn.

Rules for what is undefined, here and in `bootstrap`: every figure of a diagnosis without an image is NaN, and
so is the precision of one that was never predicted; macro figures and balanced accuracy are means over the diagnoses
present. The prediction is the diagnosis with the highest probability, the first of them in a tie.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from ham_hf.config.metric_names import HEADLINE
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError

SPECIFICITIES = (90, 95)  # percent
CALIBRATION_BINS = 15
COLLAPSED_SHARE = 0.995  # of the images with one and the same answer, at two evaluations running: collapsed


def compute_scores(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str] = LABELS) -> dict:
    """Every metric, flat, from `probabilities` (N, C) and `labels` (N,), indices into the C `names`.

    - `accuracy`, `balanced_accuracy` (mean recall), `macro_f1`, `macro_auroc`; `precision_`, `recall_`, `f1_`,
      `auroc_` (one against the rest) and `support_` (images) with the diagnosis' code
    - `melanoma_sensitivity_at_{90,95}_specificity`: the highest that a threshold with at least that specificity
      reaches on these images; left out when "mel" is none of `names`
    - `log_loss`: natural logarithm, rows scaled to sum to 1, probabilities clipped as scikit-learn does
    - `brier`: squared error summed over the C classes, mean over images (0 to 2; for two classes twice the binary one)
    - `ece`: |accuracy - mean confidence| of the predicted class, over 15 bins of equal mass, weighted by images
    - `confusion_matrix`: counts, rows are the truth, columns the prediction

    Raises:
        InputError: the probabilities are not finite, below 0, or do not sum to 1 within 0.001.
    """
    probabilities, labels = checked(probabilities, labels, names)
    classes = range(len(names))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, average=None, zero_division=np.nan
    )
    absent = support == 0
    precision[absent], recall[absent], f1[absent] = np.nan, np.nan, np.nan
    auroc = np.array([_auroc(labels == number, probabilities[:, number]) for number in classes])
    scores = {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": mean_of_defined(recall),
        "macro_f1": mean_of_defined(f1),
        "macro_auroc": mean_of_defined(auroc),
    }
    for number, name in enumerate(names):
        scores[f"auroc_{name}"] = float(auroc[number])
        scores[f"precision_{name}"] = float(precision[number])
        scores[f"recall_{name}"] = float(recall[number])
        scores[f"f1_{name}"] = float(f1[number])
        scores[f"support_{name}"] = float(support[number])
    if "mel" in names:
        melanoma = list(names).index("mel")
        for percent in SPECIFICITIES:
            scores[f"melanoma_sensitivity_at_{percent}_specificity"] = sensitivity_at_specificity(
                labels == melanoma, probabilities[:, melanoma], percent
            )
    one_hot = np.eye(len(names))[labels]
    scores["log_loss"] = float(
        log_loss(labels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=list(classes))
    )
    scores["brier"] = float(((probabilities - one_hot) ** 2).sum(axis=1).mean())
    confidence, accuracy, count = calibration_bins(probabilities, labels)
    scores["ece"] = float((count * abs(accuracy - confidence)).sum() / count.sum())
    scores["confusion_matrix"] = confusion_matrix(labels, predicted, labels=list(classes)).tolist()
    return scores


def constant_scores(answer: str, labels: np.ndarray, names: Sequence[str] = LABELS) -> dict[str, float]:
    """The headline figures of always giving `answer` probability 1; `log_loss` is NaN, for it would be infinite."""
    probabilities = np.tile(np.eye(len(names))[list(names).index(answer)], (len(labels), 1))
    scores = compute_scores(probabilities, labels, names) | {"log_loss": np.nan}
    return {name: scores[name] for name in HEADLINE if name in scores}


def prediction_spread(probabilities: np.ndarray) -> dict[str, float]:
    """Does the answer depend on the image at all? From `probabilities` (N, C).

    - `predicted_class_entropy`: of the distribution of the predicted classes, in nats: 0 for one and the same answer
      to every image, ln C when each class is predicted equally often
    - `top_class_share`: of the images, those given the class that is predicted most often; 1 / C to 1
    """
    shares = np.bincount(probabilities.argmax(axis=1)) / len(probabilities)
    shares = shares[shares > 0]
    return {
        "predicted_class_entropy": float(-(shares * np.log(shares)).sum()) + 0.0,  # no -0.0
        "top_class_share": float(shares.max()),
    }


def collapsed_steps(history: Sequence[Mapping]) -> list[int]:
    """The steps, in the Trainer's log `history`, of evaluations with a `top_class_share` of at least COLLAPSED_SHARE
    that follow on another such evaluation."""
    evaluations = [entry for entry in history if "eval_top_class_share" in entry]
    same = [entry["eval_top_class_share"] >= COLLAPSED_SHARE for entry in evaluations]
    return [evaluations[i]["step"] for i in range(1, len(same)) if same[i - 1] and same[i]]


def checked(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The two as float64 (N, C) and integer (N,) arrays; see `compute_scores` for what is refused."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if probabilities.shape != (len(labels), len(names)) or len(labels) == 0:
        raise ValueError(
            f"probabilities {probabilities.shape}, labels {labels.shape}: expected (N, {len(names)}) and (N,), N > 0"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}: expected 0 to {len(names) - 1}")
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{(~finite).sum()} of {len(finite)} images have probabilities that are not finite: if this is training, "
            "it diverged; try a lower learning_rate, or warmup_steps"
        )
    if (probabilities < 0).any() or (abs(probabilities.sum(axis=1) - 1) > 1e-3).any():
        raise InputError("probabilities are below 0 or do not sum to 1: expected the model's softmax, not its logits")
    return probabilities, labels


def sensitivity_at_specificity(positive: np.ndarray, score: np.ndarray, percent: int) -> float:
    """The best sensitivity among the thresholds "score at least t" whose specificity is at least `percent`."""
    if positive.all() or not positive.any():
        return np.nan
    false_positive_rate, sensitivity, _ = roc_curve(positive, score, drop_intermediate=False)
    # The tolerance is for the division: 10 of 100 is allowed at 90 %
    return float(sensitivity[false_positive_rate <= 1 - percent / 100 + 1e-12].max())


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and images of each of up to 15 bins of equal mass, by the predicted class.

    Images with the same confidence share a bin, the one that holds the middle of them, so that no figure depends on
    the order of the images; bins left empty by that are dropped.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    _, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = 2 * np.cumsum(size) - size  # twice, to stay with integers
    number = (CALIBRATION_BINS * middle // (2 * len(labels)))[group]
    count = np.bincount(number, minlength=CALIBRATION_BINS)
    used = count > 0
    totals = [
        np.bincount(number, weights=values, minlength=CALIBRATION_BINS)[used] for values in (confidence, correct)
    ]
    return totals[0] / count[used], totals[1] / count[used], count[used]


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not NaN, NaN if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _auroc(positive: np.ndarray, score: np.ndarray) -> float:
    return np.nan if positive.all() or not positive.any() else float(roc_auc_score(positive, score))
