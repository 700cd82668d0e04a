"""Read the melanoma threshold from a model's config."""

from typing import TYPE_CHECKING

from ham_hf.system.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


KEY = "melanoma_threshold"  # in config.json and run.json


def threshold_of(model: "PreTrainedModel") -> float | None:
    """Return the threshold in the model's config, or None.

    Raises:
        InputError: it is not a probability.
    """
    threshold = model.config.to_dict().get(KEY)
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"config.json has {KEY} {threshold!r}: expected a probability, from 0 to 1")
    return float(threshold)


def suspicion(threshold: float) -> str:
    """Return the sentence about a threshold that is printed with the probabilities."""
    return f"Melanoma is to be suspected where its probability is at least {threshold:.4f}, whatever is likeliest."
