"""95 % intervals of the metrics, from a bootstrap over lesions.

Images of one lesion resemble each other, so the lesion is what is drawn, with all its images: a bootstrap over images
would give intervals that are too narrow. A draw is a whole number for each image, how often its lesion was drawn; all
metrics of all draws then come from a few array operations.
"""

from collections.abc import Sequence

import numpy as np

from ham_hf.evaluation.metrics import Draws, checked, score_draws
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
    """Return the 95 % percentile interval of every scalar metric of `compute_scores` except the supports.

    A draw in which a metric is undefined (its diagnosis was not drawn) is left out of that metric's interval; a metric
    that is undefined in all of them has the interval (NaN, NaN).
    """
    scores = mean_draws([probabilities], labels, lesion_ids, names, draws, seed, decisions_only)
    return {name: percentiles(values) for name, values in scores.items()}


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
    """Return the 95 % percentile intervals of `second` minus `first`, for the metrics of `bootstrap_intervals`.

    Each side is one or more models, as a list of their probabilities (N, C) on the same N images. All models share the
    drawn lesions, and a side's figure in a draw is the mean of its models' figures.
    """
    a, b = (mean_draws(side, labels, lesion_ids, names, draws, seed, decisions_only) for side in (first, second))
    return {name: percentiles(b[name] - a[name]) for name in a}


def mean_draws(
    models: Sequence[np.ndarray],
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    names: Sequence[str] = LABELS,
    draws: int = DRAWS,
    seed: int = 0,
    decisions_only: bool = False,
) -> dict[str, np.ndarray]:
    """Return the mean figure of several models in each draw, (draws,), for the metrics of `bootstrap_intervals`.

    `models` are their probabilities (N, C) for the same N images; equal `lesion_ids` and seeds give the same draws.
    """
    weights = lesion_weights(lesion_ids, draws, seed)
    scores = [
        _score_in_parts(*checked(probabilities, labels, names), names, weights, decisions_only)
        for probabilities in models
    ]
    return {name: np.mean([of_model[name] for of_model in scores], axis=0) for name in scores[0]}


def lesion_weights(lesion_ids: Sequence[str], draws: int, seed: int) -> np.ndarray:
    """Return how often each draw holds each image, (N, draws): as many lesions as there are, with replacement."""
    lesions, lesion = np.unique(np.asarray(lesion_ids), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(lesions), size=(draws, len(lesions)))
    drawn += np.arange(draws)[:, None] * len(lesions)
    count = np.bincount(drawn.ravel(), minlength=draws * len(lesions)).reshape(draws, len(lesions))
    return np.ascontiguousarray(count.T)[lesion]


def _score_in_parts(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], weights: np.ndarray, decisions_only: bool
) -> dict[str, np.ndarray]:
    # 200 draws at a time: 2,000 images x 200 draws x 8 bytes is 3 MB, which stays in the processor's cache
    parts = [
        score_draws(Draws(probabilities, labels, names, weights[:, at : at + 200]), decisions_only)
        for at in range(0, weights.shape[1], 200)
    ]
    names_of_scores = [name for name in parts[0] if not name.startswith("support_")]
    return {name: np.concatenate([part[name] for part in parts]) for name in names_of_scores}


def percentiles(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)
