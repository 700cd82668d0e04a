"""How sure are the figures? 95 % intervals from a bootstrap over lesions.

Images of one lesion resemble each other, so the lesion is what is drawn, with all its images: a bootstrap over images
would give intervals that are too narrow. A draw is a whole number for each image, how often its lesion was drawn; all
metrics of all draws then come from a few array operations, equal to `compute_scores` on the resampled images (tested).
"""

from collections.abc import Sequence

import numpy as np

from ham_hf.evaluation.metrics import CALIBRATION_BINS, SPECIFICITIES, checked
from ham_hf.labels import LABELS

DRAWS = 1000


def bootstrap_intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    names: Sequence[str] = LABELS,
    draws: int = DRAWS,
    seed: int = 0,
    decisions_only: bool = False,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of every scalar metric of `compute_scores` but the supports, or see `weighted_scores`.

    A draw in which a figure is undefined (its diagnosis was not drawn) is left out of that figure's interval; a figure
    that is undefined in all of them has the interval (NaN, NaN).
    """
    probabilities, labels = checked(probabilities, labels, names)
    weights = lesion_weights(lesion_ids, draws, seed)
    scores = _scores_in_parts(probabilities, labels, weights, names, decisions_only)
    return {name: _percentiles(values) for name, values in scores.items()}


def paired_intervals(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    names: Sequence[str] = LABELS,
    draws: int = DRAWS,
    seed: int = 0,
    decisions_only: bool = False,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `second` minus `first`, for the metrics of `bootstrap_intervals`.

    Each side is one or more models, as a list of their probabilities (N, C) on the same N images. Every draw of
    lesions is the same for all of them, and a side's figure in a draw is the mean of its models' figures.
    """
    weights = lesion_weights(lesion_ids, draws, seed)
    sides = []
    for models in (first, second):
        scores = [
            _scores_in_parts(*checked(probabilities, labels, names), weights, names, decisions_only)
            for probabilities in models
        ]
        sides.append({name: np.mean([of_model[name] for of_model in scores], axis=0) for name in scores[0]})
    return {name: _percentiles(sides[1][name] - sides[0][name]) for name in sides[0]}


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def lesion_weights(lesion_ids: Sequence[str], draws: int, seed: int) -> np.ndarray:
    """How often each image is in each draw, (N, draws): as many lesions as there are, drawn with replacement."""
    lesions, lesion = np.unique(np.asarray(lesion_ids), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(lesions), size=(draws, len(lesions)))
    drawn += np.arange(draws)[:, None] * len(lesions)
    count = np.bincount(drawn.ravel(), minlength=draws * len(lesions)).reshape(draws, len(lesions))
    return np.ascontiguousarray(count.T)[lesion]


def _scores_in_parts(probabilities, labels, weights, names, decisions_only) -> dict[str, np.ndarray]:
    # 200 draws at a time: 2,000 images x 200 draws x 8 bytes is 3 MB, which stays in the processor's cache
    parts = [
        weighted_scores(probabilities, labels, weights[:, at : at + 200], names, decisions_only)
        for at in range(0, weights.shape[1], 200)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def weighted_scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str] = LABELS,
    decisions_only: bool = False,
) -> dict[str, np.ndarray]:
    """The scalar metrics of D draws at once, each (D,), for `weights` (N, D) of whole numbers.

    `decisions_only` leaves out what takes most of the time: AUROCs, sensitivities at a specificity, calibration error.
    """
    scores = _decision_scores(probabilities, labels, weights.astype(np.float64), names)
    if decisions_only:
        return scores
    for number, name in enumerate(names):
        ranking = _ranking_scores(probabilities[:, number], labels == number, weights, name == "mel")
        scores[f"auroc_{name}"] = ranking.pop("auroc")
        scores |= ranking
    scores["macro_auroc"] = _mean_of_defined(np.stack([scores[f"auroc_{name}"] for name in names]))
    scores["ece"] = _calibration_errors(probabilities, labels, weights)
    return scores


def _decision_scores(probabilities, labels, weights, names) -> dict[str, np.ndarray]:
    """What follows from each draw's confusion matrix, and the means over images."""
    size, total = len(names), weights.sum(axis=0)
    cell = np.eye(size * size)[labels * size + probabilities.argmax(axis=1)]  # (N, C * C)
    matrix = (cell.T @ weights).reshape(size, size, -1)  # (truth, prediction, D)
    hits = matrix[np.arange(size), np.arange(size)]  # (C, D)
    support, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    present = support > 0
    recall = _divide(hits, support, present)
    precision = _divide(hits, predicted, present & (predicted > 0))
    f1 = _divide(2 * hits, support + predicted, present)
    scores = {
        "accuracy": hits.sum(axis=0) / total,
        "balanced_accuracy": _mean_of_defined(recall),
        "macro_f1": _mean_of_defined(f1),
    }
    for number, name in enumerate(names):
        scores[f"precision_{name}"] = precision[number]
        scores[f"recall_{name}"] = recall[number]
        scores[f"f1_{name}"] = f1[number]
    own = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    tiny = np.finfo(np.float64).eps  # as scikit-learn clips
    scores["log_loss"] = -np.log(own.clip(tiny, 1 - tiny)) @ weights / total
    scores["brier"] = ((probabilities - np.eye(size)[labels]) ** 2).sum(axis=1) @ weights / total
    return scores


def _ranking_scores(score, positive, weights, sensitivities: bool) -> dict[str, np.ndarray]:
    """AUROC of one class against the rest, and on demand its sensitivities at given specificities."""
    draws = weights.shape[1]
    order = np.argsort(score[~positive], kind="stable")
    below = np.zeros((len(order) + 1, draws), dtype=np.int64)  # below[k]: the k lowest negatives' weight
    np.cumsum(weights[~positive][order], axis=0, out=below[1:])
    negatives = below[-1]
    weight = weights[positive]  # (P, D)
    positives = weight.sum(axis=0)
    ranks = score[~positive][order]
    lower = below[np.searchsorted(ranks, score[positive], side="left")]  # negatives below each positive, (P, D)
    not_above = below[np.searchsorted(ranks, score[positive], side="right")]
    defined = (positives > 0) & (negatives > 0)
    # A tie counts half
    wins = (weight * (lower + not_above)).sum(axis=0)
    scores = {"auroc": _divide(wins, 2.0 * positives * negatives, defined)}
    if sensitivities:
        for percent in SPECIFICITIES:
            # With the threshold at a positive's score, the negatives from there upwards are false alarms
            allowed = 100 * (negatives - lower) <= (100 - percent) * negatives
            scores[f"melanoma_sensitivity_at_{percent}_specificity"] = _divide(
                (weight * allowed).sum(axis=0), positives, defined
            )
    return scores


def _calibration_errors(probabilities, labels, weights) -> np.ndarray:
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence, kind="stable")
    values, first = np.unique(confidence[order], return_index=True)
    size = np.add.reduceat(weights[order], first, axis=0)  # (G, D), G different confidences
    hits = np.add.reduceat(weights[order] * correct[order, None], first, axis=0)
    total = weights.sum(axis=0)
    middle = 2 * np.cumsum(size, axis=0) - size
    # A group of weight 0 behind all others would have bin 15; it adds nothing to whichever it is put in
    number = (CALIBRATION_BINS * middle // (2 * total)).clip(max=CALIBRATION_BINS - 1)
    number += np.arange(weights.shape[1]) * CALIBRATION_BINS
    gap = np.bincount(
        number.ravel(), weights=(hits - size * values[:, None]).ravel(), minlength=CALIBRATION_BINS * weights.shape[1]
    )
    return abs(gap.reshape(-1, CALIBRATION_BINS)).sum(axis=1) / total


def _divide(numerator, denominator, defined) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=defined)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Column means of (C, D) without the NaNs; NaN where a column has nothing else."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0), defined.any(axis=0))
