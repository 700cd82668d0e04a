"""The melanoma threshold that a model's config has, and the sentence about it."""

from typing import TYPE_CHECKING

from ham_hf.system.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


KEY = "melanoma_threshold"  # in config.json and run.json


def threshold_of(model: "PreTrainedModel") -> float | None:
    """What the model's config says; None where it says nothing.

    Raises:
        InputError: it says something that is no probability.
    """
    threshold = model.config.to_dict().get(KEY)
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"config.json has {KEY} {threshold!r}: expected a probability, from 0 to 1")
    return float(threshold)


def suspicion(threshold: float) -> str:
    """The sentence for whoever reads the probabilities."""
    return f"Melanoma is to be suspected where its probability is at least {threshold:.4f}, whatever is likeliest."
