"""Temperature scaling and post-hoc logit adjustment, fitted on validation images and folded into the last layer.

Because the published weights themselves are calibrated, transformers' pipeline and ONNX give calibrated probabilities
too. The model's config records what was folded in.

Sources: temperature, Guo et al., 2017, https://arxiv.org/abs/1706.04599; post-hoc logit adjustment, Menon et al.,
2021, https://arxiv.org/abs/2007.07314.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import nn
from transformers import PreTrainedModel

from ham_hf.evaluation.metrics import compute_scores
from ham_hf.inference.batches import PATIENT, image_reader
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import all_view_logits
from ham_hf.models.build import classifier_of
from ham_hf.system.errors import InputError

KEY = "calibration"  # in config.json and run.json
TEMPERATURES = (0.05, 20.0)
STRENGTHS = np.linspace(-1, 1, 41)  # of the adjustment; the smallest wins a tie


class Calibration(NamedTuple):
    """Logits z become (z - prior_strength * log(prior)) / temperature."""

    temperature: float
    prior_strength: float
    images: int  # validation images that the two were fitted on


def calibration_of(model: PreTrainedModel) -> dict | None:
    """Return what was folded in according to the config; None if it has no such entry, or another one of that name."""
    fitted = model.config.to_dict().get(KEY)
    if not isinstance(fitted, dict) or fitted.keys() != set(Calibration._fields):
        return None
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in fitted.values()]
    return fitted if all(numbers) else None


def last_linear(model: PreTrainedModel) -> nn.Linear:
    """Return the layer whose output is the logits.

    Raises:
        InputError: the model's classifier does not end in a linear layer with a bias.
    """
    layers = [layer for part in classifier_of(model) for layer in part.modules() if not list(layer.children())]
    layers = [layer for layer in layers if not isinstance(layer, nn.Dropout)]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    linear = [layer for layer in linear if layer.out_features == model.config.num_labels]
    if len(linear) != 1 or linear[0] is not layers[-1] or linear[0].bias is None:
        raise InputError(
            f"calibration requires a model that ends in one linear layer with a bias, but "
            f"{type(model).__name__} ends in {', '.join(type(layer).__name__ for layer in layers) or 'another way'}: "
            "do not set calibration"
        )
    return linear[0]


def calibrate(classifier: Classifier, split: Dataset, prior: Sequence[float] | None, metric: str) -> Calibration:
    """Fit on `split`, fold the result into the model and record it in its config.

    Args:
        classifier: from `load_classifier`.
        split: the validation images, canonical columns.
        prior: share of each diagnosis among the training images, to fit the adjustment too; None to fit only the
            temperature.
        metric: the metric of `compute_scores` that the adjustment maximizes.
    """
    patients = zip(*(split[column][:] for column in PATIENT), strict=True)
    logits = all_view_logits(
        classifier, range(len(split)), patients, read=image_reader(split), total=len(split), description="calibration"
    )
    labels = np.array(split["label"][:])
    shift = np.zeros(logits.shape[-1]) if prior is None else _log_prior(prior)
    strength = 0.0 if prior is None else fit_strength(logits, labels, shift, metric, classifier.labels)
    calibration = Calibration(fit_temperature(logits - strength * shift, labels), strength, len(split))
    apply(classifier.model, calibration, prior)
    return calibration


def apply(model: PreTrainedModel, calibration: Calibration, prior: Sequence[float] | None) -> None:
    """Fold a calibration into the model and record it in its config; `prior` is needed only with a strength."""
    shift = np.zeros(model.config.num_labels)
    if calibration.prior_strength:
        assert prior is not None
        shift = calibration.prior_strength * _log_prior(prior)
    fold(model, calibration.temperature, shift)
    model.config.calibration = calibration._asdict()


def _log_prior(prior: Sequence[float]) -> np.ndarray:
    return np.log(np.maximum(prior, 1e-6))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the lowest log loss, from logits (N, views, C) and labels (N,)."""

    def log_loss(log_temperature: float) -> float:
        of_views = log_softmax(logits / np.exp(log_temperature), axis=2)
        true = np.take_along_axis(of_views, labels[:, None, None], axis=2)[..., 0]  # (N, views)
        return -np.mean(np.logaddexp.reduce(true, axis=1) - np.log(true.shape[1]))

    return float(np.exp(minimize_scalar(log_loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def fit_strength(
    logits: np.ndarray, labels: np.ndarray, log_prior: np.ndarray, metric: str, names: Sequence[str]
) -> float:
    """Return the strength of the adjustment with the best `metric`, the smallest one in a tie."""
    strengths = sorted(STRENGTHS, key=abs)
    scores = [
        compute_scores(softmax(logits - strength * log_prior, axis=2).mean(1), labels, names)[metric]
        for strength in strengths
    ]
    return float(strengths[int(np.argmax(scores))])


@torch.no_grad()
def fold(model: PreTrainedModel, temperature: float, shift: np.ndarray) -> None:
    """Change the last layer so that the model's logits become (logits - shift) / temperature."""
    layer = last_linear(model)
    bias: torch.Tensor = layer.bias  # changed in place
    bias -= torch.from_numpy(shift).to(bias)
    bias /= temperature
    layer.weight /= temperature
