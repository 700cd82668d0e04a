"""A trained model together with its processor: all that is needed to predict."""

from typing import TYPE_CHECKING, NamedTuple, cast

from ham_hf.labels import label_set
from ham_hf.system.errors import InputError

if TYPE_CHECKING:  # these take seconds to import, and an error about a misspelled file name should not
    from transformers import BaseImageProcessor, PreTrainedModel

    from ham_hf.inference.onnx import OnnxModel
    from ham_hf.models.mmbt.processing_mmbt import PatientProcessor

THRESHOLD = "melanoma_threshold"  # in config.json and run.json

Patient = tuple[float | None, str | None, str | None]  # age in years, sex, body site; None if unknown


class Classifier(NamedTuple):
    """A model in evaluation mode, whose `config.id2label` has our codes, and the processor saved with it."""

    model: "PreTrainedModel | OnnxModel"
    processor: "BaseImageProcessor | PatientProcessor"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the codes that the columns of its probabilities stand for."""
        return labels_of(self.model)

    @property
    def threshold(self) -> float | None:
        """Return the probability from which on melanoma is suspected; None if the model has no such threshold."""
        return threshold_of(self.model)

    @property
    def reads_patients(self) -> bool:
        """Return whether the model reads age, sex and body site beside the image."""
        from ham_hf.models.mmbt.modeling_mmbt import PatientModel

        return isinstance(self.model, PatientModel)


def labels_of(model: "PreTrainedModel | OnnxModel") -> tuple[str, ...]:
    """Return the codes that a model predicts, in this project's order."""
    labels = label_set(filter(None, model.config.id2label.values()))
    return cast("tuple[str, ...]", labels)  # checked where the model was loaded


def threshold_of(model: "PreTrainedModel | OnnxModel") -> float | None:
    """Return the threshold in the model's config, or None.

    Raises:
        InputError: it is not a probability.
    """
    threshold = model.config.to_dict().get(THRESHOLD)
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"config.json has {THRESHOLD} {threshold!r}: expected a probability, from 0 to 1")
    return float(threshold)


def suspicion(threshold: float) -> str:
    """Return the sentence about a threshold that is printed with the probabilities."""
    return (
        f"Suspect melanoma if its probability is at least {threshold:.4f}, even if another diagnosis is more likely."
    )
