"""The probability threshold at which melanoma is suspected, chosen for a given sensitivity.

It is fitted on the validation images and kept in the model's config. The prediction remains the most probable
diagnosis; the suspicion comes in addition.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ham_hf.evaluation.bootstrap import DRAWS, lesion_weights
from ham_hf.evaluation.predictions import Predictions
from ham_hf.inference.classifier import THRESHOLD
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fit_threshold(predictions: Predictions, sensitivity: float) -> float:
    """Return the highest threshold t for which "probability of mel at least t" finds this share of the melanomas.

    It is half-way to the next lower probability, so that rounding on another machine changes nothing.

    Raises:
        InputError: there is no melanoma, or it is not one of the model's classes.
    """
    positive, score = _melanoma(predictions)
    if not positive.any():
        raise InputError("melanoma_sensitivity: no melanoma among the validation images to fit a threshold on")
    wanted = math.ceil(sensitivity * positive.sum() - 1e-9)  # the product may be a rounding error too large
    highest = np.sort(score[positive])[-wanted]
    return float((highest + score[score < highest].max(initial=0)) / 2)


def threshold_results(predictions: Predictions, threshold: float) -> dict:
    """Return `sensitivity` and `specificity` at the threshold, each with a `value` and a 95 % `interval` over lesions.

    Those without images are None.
    """
    positive, score = _melanoma(predictions)
    weights = lesion_weights(predictions.lesion_ids, DRAWS, seed=0)  # (N, draws)
    called = score >= threshold
    return {
        "threshold": threshold,
        "sensitivity": _rate(called, positive, weights),
        "specificity": _rate(~called, ~positive, weights),
    }


def keep_threshold(folder: Path, model: "PreTrainedModel", threshold: float) -> None:
    """Record the threshold in the config of the model and of its copy in `folder`."""
    setattr(model.config, THRESHOLD, threshold)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {THRESHOLD: threshold}
    replace_file(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _melanoma(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    if "mel" not in predictions.names:
        raise InputError("melanoma_sensitivity requires a model of the seven diagnoses: do not set it")
    number = list(predictions.names).index("mel")
    return predictions.labels == number, predictions.probabilities[:, number]


def _rate(right: np.ndarray, of: np.ndarray, weights: np.ndarray) -> dict:
    drawn = weights[of].sum(axis=0)  # (draws,)
    rates = weights[right & of].sum(axis=0)[drawn > 0] / drawn[drawn > 0]
    interval = None if not len(rates) else [float(end) for end in np.percentile(rates, [2.5, 97.5])]
    return {"value": float(right[of].mean()) if of.any() else None, "interval": interval}
