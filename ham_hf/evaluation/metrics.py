"""The metrics of every report: each is defined once, for the value and for its bootstrap.

A metric is a function of `Draws`: N images, each with a weight in each of D draws. A value is the metric of one draw
that holds every image once; an interval comes from many draws (see `bootstrap`). To add a metric, write its function,
enter it in one of the tables below, and name it in `config/metric_names.py`.

What is undefined is NaN: every figure of a diagnosis without images, and the precision of a diagnosis that was never
predicted. Macro figures and balanced accuracy are means over the diagnoses that are present. The predicted diagnosis
is the one with the highest probability, the first of them in a tie.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from ham_hf.config.metric_names import HEADLINE
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError

CALIBRATION_BINS = 15
COLLAPSED_SHARE = 0.995  # a model that predicts one class for this share of the images, twice in a row, has collapsed


class Draws:
    """N images in D draws, and what several metrics need of them.

    Args:
        probabilities: (N, C), see `checked`.
        labels: (N,), indices into `names`.
        names: the C diagnoses.
        weights: (N, D) whole numbers, how often each draw holds each image.
    """

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], weights: np.ndarray):
        self.probabilities, self.labels, self.names, self.weights = probabilities, labels, names, weights
        self.total = weights.sum(axis=0)  # (D,)
        self._of_melanoma: tuple[np.ndarray, ...] | None = None

    @cached_property
    def _float_weights(self) -> np.ndarray:
        return self.weights.astype(np.float64)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Weights of the images by true and predicted diagnosis, (C, C, D)."""
        size = len(self.names)
        cell = np.eye(size * size)[self.labels * size + self.probabilities.argmax(axis=1)]  # (N, C * C)
        return (cell.T @ self._float_weights).reshape(size, size, -1)

    @cached_property
    def auroc(self) -> np.ndarray:
        """Area under the ROC curve of each diagnosis against the rest, (C, D)."""
        return np.stack([self._auroc(number) for number in range(len(self.names))])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the means (D,) of a figure of each image, (N,)."""
        return values @ self._float_weights / self.total

    def sensitivity_at(self, percent: int, number: int) -> np.ndarray:
        """Return the highest sensitivity (D,) for a class of the thresholds with at least this specificity."""
        weight, negatives, lower, _ = self._ranked(number)
        # With the threshold at a positive's score, the negatives from there upwards are false alarms
        allowed = 100 * (negatives - lower) <= (100 - percent) * negatives
        positives = weight.sum(axis=0)
        return divide((weight * allowed).sum(axis=0), positives, (positives > 0) & (negatives > 0))

    def _auroc(self, number: int) -> np.ndarray:
        weight, negatives, lower, not_above = self._ranked(number)
        positives = weight.sum(axis=0)
        wins = (weight * (lower + not_above)).sum(axis=0)  # a tie counts half
        return divide(wins, 2.0 * positives * negatives, (positives > 0) & (negatives > 0))

    def _ranked(self, number: int) -> tuple[np.ndarray, ...]:
        """Return the weights (P, D) of the images of a class; the weight of all others, the negatives, (D,); and the
        weights of the negatives with a lower score than each of the P images, and with no higher one, (P, D)."""
        if self._of_melanoma is not None and self.names[number] == "mel":
            return self._of_melanoma
        score, positive = self.probabilities[:, number], self.labels == number
        order = np.argsort(score[~positive], kind="stable")
        below = np.zeros((len(order) + 1, self.weights.shape[1]), dtype=np.int64)  # below[k]: the k lowest
        np.cumsum(self.weights[~positive][order], axis=0, out=below[1:])
        ranks = score[~positive][order]
        lower, not_above = (below[np.searchsorted(ranks, score[positive], side)] for side in ("left", "right"))
        ranked = self.weights[positive], below[-1], lower, not_above
        if self.names[number] == "mel":  # kept for the sensitivities; to keep all would slow the bootstrap down
            self._of_melanoma = ranked
        return ranked


# Metrics: each returns (D,), those by diagnosis (C, D)


def accuracy(draws: Draws) -> np.ndarray:
    return _hits(draws).sum(axis=0) / draws.total


def balanced_accuracy(draws: Draws) -> np.ndarray:
    return mean_of_defined(recall(draws))


def macro_f1(draws: Draws) -> np.ndarray:
    return mean_of_defined(f1(draws))


def macro_auroc(draws: Draws) -> np.ndarray:
    return mean_of_defined(draws.auroc)


def support(draws: Draws) -> np.ndarray:
    """Return the images of each diagnosis."""
    return draws.confusion.sum(axis=1)


def precision(draws: Draws) -> np.ndarray:
    predicted = draws.confusion.sum(axis=0)
    return divide(_hits(draws), predicted, (support(draws) > 0) & (predicted > 0))


def recall(draws: Draws) -> np.ndarray:
    return divide(_hits(draws), support(draws), support(draws) > 0)


def f1(draws: Draws) -> np.ndarray:
    return divide(2 * _hits(draws), support(draws) + draws.confusion.sum(axis=0), support(draws) > 0)


def auroc(draws: Draws) -> np.ndarray:
    return draws.auroc


def log_loss(draws: Draws) -> np.ndarray:
    """Return the log loss, natural logarithm; rows are scaled to sum to 1 and clipped as in scikit-learn."""
    own = draws.probabilities[np.arange(len(draws.labels)), draws.labels] / draws.probabilities.sum(axis=1)
    tiny = np.finfo(np.float64).eps
    return draws.mean(-np.log(own.clip(tiny, 1 - tiny)))


def brier(draws: Draws) -> np.ndarray:
    """Return the squared error summed over the C classes, 0 to 2 (for two classes twice the binary Brier score)."""
    return draws.mean(((draws.probabilities - np.eye(len(draws.names))[draws.labels]) ** 2).sum(axis=1))


def ece(draws: Draws) -> np.ndarray:
    """Return |accuracy - mean confidence| of the predicted class, over 15 bins of equal mass, weighted by images."""
    confidence, correct = _confidence(draws.probabilities, draws.labels)
    order = np.argsort(confidence, kind="stable")
    values, first = np.unique(confidence[order], return_index=True)
    size = np.add.reduceat(draws.weights[order], first, axis=0)  # (G, D), G different confidences
    hits = np.add.reduceat(draws.weights[order] * correct[order, None], first, axis=0)
    count = size.shape[1]
    number = _bins(size)
    number += np.arange(count) * CALIBRATION_BINS
    gaps = np.bincount(
        number.ravel(), weights=(hits - size * values[:, None]).ravel(), minlength=CALIBRATION_BINS * count
    )
    return abs(gaps.reshape(-1, CALIBRATION_BINS)).sum(axis=1) / draws.total


# In the order of report.json. The first two tables follow from the confusion matrix alone, and are fast
DECISIONS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
DECISIONS_BY_DIAGNOSIS = {"precision": precision, "recall": recall, "f1": f1, "support": support}
RANKING = {"macro_auroc": macro_auroc}
RANKING_BY_DIAGNOSIS = {"auroc": auroc}
OF_MELANOMA = {  # sensitivities
    "melanoma_sensitivity_at_90_specificity": 90,
    "melanoma_sensitivity_at_95_specificity": 95,
}
OF_PROBABILITIES = {"log_loss": log_loss, "brier": brier, "ece": ece}


def score_draws(draws: Draws, decisions_only: bool = False) -> dict[str, np.ndarray]:
    """Return every scalar metric, each (D,); with `decisions_only` those of the confusion matrix alone."""
    overall = DECISIONS if decisions_only else DECISIONS | RANKING
    by_diagnosis = DECISIONS_BY_DIAGNOSIS if decisions_only else RANKING_BY_DIAGNOSIS | DECISIONS_BY_DIAGNOSIS
    scores = {name: metric(draws) for name, metric in overall.items()}
    figures = {name: metric(draws) for name, metric in by_diagnosis.items()}
    for number, code in enumerate(draws.names):
        scores |= {f"{name}_{code}": values[number] for name, values in figures.items()}
    if decisions_only:
        return scores
    if "mel" in draws.names:
        melanoma = list(draws.names).index("mel")
        scores |= {name: draws.sensitivity_at(percent, melanoma) for name, percent in OF_MELANOMA.items()}
    return scores | {name: metric(draws) for name, metric in OF_PROBABILITIES.items()}


def compute_scores(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str] = LABELS, decisions_only: bool = False
) -> dict:
    """Return every metric by name, with `confusion_matrix`: counts, rows are the truth, columns the prediction.

    Args:
        probabilities: (N, C).
        labels: (N,), indices into `names`.
        names: the C diagnoses; without "mel" there are no figures of melanoma.
        decisions_only: leave out what needs more than the predicted diagnoses.

    Raises:
        InputError: the probabilities are not finite, below 0, or do not sum to 1 within 0.001.
    """
    probabilities, labels = checked(probabilities, labels, names)
    draws = Draws(probabilities, labels, names, np.ones((len(labels), 1), dtype=np.int64))
    scores: dict = {name: float(values[0]) for name, values in score_draws(draws, decisions_only).items()}
    return scores | {"confusion_matrix": draws.confusion[:, :, 0].astype(int).tolist()}


def constant_scores(prediction: str, labels: np.ndarray, names: Sequence[str] = LABELS) -> dict[str, float]:
    """Return the headline figures of giving `prediction` probability 1 for every image.

    `log_loss` would be infinite, and is NaN.
    """
    probabilities = np.tile(np.eye(len(names))[list(names).index(prediction)], (len(labels), 1))
    scores = compute_scores(probabilities, labels, names) | {"log_loss": np.nan}
    return {name: scores[name] for name in HEADLINE if name in scores}


def prediction_spread(probabilities: np.ndarray) -> dict[str, float]:
    """Return how much the predictions vary with the image, from `probabilities` (N, C).

    - `predicted_class_entropy`: entropy of the distribution of the predicted classes, in nats: 0 if every image gets
      the same prediction, ln C if each class is predicted equally often
    - `top_class_share`: share of the images whose prediction is the most frequent one, 1 / C to 1
    """
    shares = np.bincount(probabilities.argmax(axis=1)) / len(probabilities)
    shares = shares[shares > 0]
    return {
        "predicted_class_entropy": float(-(shares * np.log(shares)).sum()) + 0.0,  # no -0.0
        "top_class_share": float(shares.max()),
    }


def collapsed_steps(history: Sequence[Mapping]) -> list[int]:
    """Return the steps at which the predictions had collapsed, from the Trainer's log `history`.

    These are the evaluations with a `top_class_share` of at least COLLAPSED_SHARE that follow another such one.
    """
    evaluations = [entry for entry in history if "eval_top_class_share" in entry]
    same = [entry["eval_top_class_share"] >= COLLAPSED_SHARE for entry in evaluations]
    return [evaluations[i]["step"] for i in range(1, len(same)) if same[i - 1] and same[i]]


def checked(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two as float64 (N, C) and integer (N,) arrays; see `compute_scores` for the errors."""
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


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean confidence, accuracy and images of each of the bins of `ece` that hold an image, up to 15."""
    confidence, correct = _confidence(probabilities, labels)
    _, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    number = _bins(size[:, None])[group, 0]
    count = np.bincount(number, minlength=CALIBRATION_BINS)
    used = count > 0
    totals = [
        np.bincount(number, weights=values, minlength=CALIBRATION_BINS)[used] for values in (confidence, correct)
    ]
    return totals[0] / count[used], totals[1] / count[used], count[used]


def divide(numerator: np.ndarray, denominator: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Return the quotient where it is `defined`, and NaN elsewhere."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=defined)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the column means of (C, D) without the NaNs, NaN where a column has nothing else."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0), defined.any(axis=0))


def _hits(draws: Draws) -> np.ndarray:
    size = np.arange(len(draws.names))
    return draws.confusion[size, size]  # (C, D)


def _confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def _bins(size: np.ndarray) -> np.ndarray:
    """Return the bin of equal mass of each confidence, from the weight (G, D) of the images with each, in order.

    Images with the same confidence share a bin, the one that holds the middle of them, so that no figure depends on
    the order of the images; a bin may stay empty.
    """
    middle = 2 * np.cumsum(size, axis=0) - size  # twice, to stay with integers
    # A confidence of weight 0 above all others would have bin 15; it adds nothing to whichever it is put in
    return (CALIBRATION_BINS * middle // (2 * size.sum(axis=0))).clip(max=CALIBRATION_BINS - 1)
