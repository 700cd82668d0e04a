"""What run.json says of a model."""

from typing import TYPE_CHECKING

from PIL import Image
from transformers import BaseImageProcessor

from ham_hf.evaluation import calibration
from ham_hf.inference import thresholds
from ham_hf.inference.batches import image_processor
from ham_hf.inference.classifier import labels_of
from ham_hf.inference.tta import which_views
from ham_hf.models.build import count_parameters
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.system.environment import hardware, versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def evaluation_facts(
    name: str,
    commit: str | None,
    model: "PreTrainedModel",
    processor: BaseImageProcessor | PatientProcessor,
    data: dict,
    bf16_difference: float | None,
    argv: list[str],
) -> dict:
    """run.json of what was judged and not trained."""
    return {
        "recipe": None,
        "argv": argv,
        "seed": None,
        "versions": versions(),
        "hardware": hardware(model.device),
        "data": data,
        "model": {"name": name, "revision": commit, **model_facts(model, processor, bf16_difference)},
        "training": None,
    }


def model_facts(
    model: "PreTrainedModel", processor: BaseImageProcessor | PatientProcessor, bf16_difference: float | None
) -> dict:
    """What run.json says of a saved model, whoever trained it."""
    return {
        "architecture": type(model).__name__,
        **count_parameters(model),
        "labels": list(labels_of(model)),
        "image_size": _input_size(processor),
        "test_time_augmentation": which_views(model),
        calibration.KEY: calibration.calibration_of(model),
        thresholds.KEY: thresholds.threshold_of(model),
        "bf16_difference": bf16_difference,
    }


def _input_size(processor: BaseImageProcessor | PatientProcessor) -> int:
    return image_processor(processor)(Image.new("RGB", (600, 450)), return_tensors="pt")["pixel_values"].shape[-1]
