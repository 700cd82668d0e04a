"""The entries of run.json about a model."""

from typing import Any

from PIL import Image

from ham_hf.evaluation import calibration
from ham_hf.inference.batches import image_processor
from ham_hf.inference.classifier import THRESHOLD, Classifier
from ham_hf.inference.tta import which_views
from ham_hf.models.build import count_parameters
from ham_hf.system.environment import hardware, versions


def evaluation_facts(name: str, commit: str | None, classifier: Classifier, data: dict, argv: list[str]) -> dict:
    """Return the content of run.json for a model that was evaluated, not trained."""
    return {
        "recipe": None,
        "argv": argv,
        "seed": None,
        "versions": versions(),
        "hardware": hardware(classifier.model.device),
        "data": data,
        "model": {"name": name, "revision": commit, **model_facts(classifier)},
        "training": None,
    }


def model_facts(classifier: Classifier) -> dict:
    """Return what run.json says about a saved model."""
    model: Any = classifier.model  # not an OnnxModel: it has parameters
    example = image_processor(classifier.processor)(Image.new("RGB", (600, 450)), return_tensors="pt")
    return {
        "architecture": type(model).__name__,
        **count_parameters(model),
        "labels": list(classifier.labels),
        "image_size": example["pixel_values"].shape[-1],
        "test_time_augmentation": which_views(model),
        calibration.KEY: calibration.calibration_of(model),
        THRESHOLD: classifier.threshold,
    }
