"""Load a classifier from a run folder or the Hub, and check that it can be used."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ham_hf.inference.classifier import Classifier, threshold_of
from ham_hf.inference.engine import probabilities
from ham_hf.labels import LABELS, NEVUS_OR_OTHER, diagnosis_code, label_set
from ham_hf.models import safe_loading
from ham_hf.models.loading import load_image_processor, load_weights, locate
from ham_hf.system.errors import InputError

if TYPE_CHECKING:  # it takes seconds to import, and an error about a misspelled file name should not
    from transformers import PreTrainedConfig


def find_classifier(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Return (folder or Hub id, commit) of a model, without loading or downloading it.

    Raises:
        InputError: there is no such folder or Hub id, or the folder holds no model.
    """
    located = locate(name, revision, with_processor=True)
    return located.location, located.source.get("revision")  # a folder in the cache has no revisions


def load_classifier(
    name: str, revision: str | None = None, label_map: Mapping[str, str | None] | None = None, *, altered: bool = False
) -> Classifier:
    """Return a classifier of the seven diagnoses, or of nevus or other.

    The model is in float32, in evaluation mode, and on the GPU if there is one. Its config's `id2label` has our codes.

    Args:
        name: a run folder or a Hub id.
        revision: commit, branch or tag on the Hub.
        label_map: code for each of the model's labels that `diagnosis_code` does not know; None drops a label.
        altered: accept weights that differ from those in the folder's run.json, for `ham-hf verify`, which reports it.

    Raises:
        InputError: the model is not available, is no image classifier or has other labels (checked before its weights
            are downloaded), or its files are damaged.
    """
    located = locate(name, revision, with_processor=True)
    import torch
    from transformers import AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    from ham_hf.inference.tta import which_views
    from ham_hf.models.mmbt.modeling_mmbt import PatientModel
    from ham_hf.models.multimodal import load_patient_processor
    from ham_hf.system.hardware import prefers_channels_last

    config = safe_loading.read_config(name, located.location, **located.source)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"{name} is a {config.model_type} model, not an image classifier: expected a run folder of `ham-hf train` "
            "or a model that AutoModelForImageClassification supports"
        )
    _check_labels(name, config)
    config.id2label = _codes(name, config.id2label, label_map or {})
    model, _ = load_weights(located, AutoModelForImageClassification, config, altered=altered)
    processor = (
        load_patient_processor(config, located) if isinstance(model, PatientModel) else load_image_processor(located)
    )
    which_views(model)  # both raise if the config has an invalid value
    threshold_of(model)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if prefers_channels_last(device):
        model.to(memory_format=torch.channels_last)  # convolutions run 1.5 to 3 times as fast on a CPU
    classifier = Classifier(model.to(device).eval(), processor)
    _check_prediction(name, classifier)
    return classifier


def _check_labels(name: str, config: "PreTrainedConfig") -> None:
    """Raise InputError if it is ambiguous which output has which label."""
    labels = config.id2label
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise InputError(f"{name}: config.json has id2label {str(labels)[:80]}: expected a label for each number")
    if sorted(labels) != list(range(len(labels))):
        raise InputError(
            f"{name}: config.json has id2label with the numbers {str(sorted(labels))[:80]}: expected 0 to "
            f"{len(labels) - 1}, each once, for the model's {len(labels)} outputs"
        )
    backward = config.label2id if isinstance(config.label2id, dict) else {}
    for number, label in labels.items():
        if label in backward and str(backward[label]) != str(number) and list(labels.values()).count(label) == 1:
            raise InputError(
                f"{name}: config.json contradicts itself: id2label calls output {number} {label!r}, but label2id says "
                f"that {label!r} is {backward[label]!r}; correct the one that is wrong"
            )


def _check_prediction(name: str, classifier: Classifier) -> None:
    """Raise InputError if model and processor do not work together, before any of the user's images is read."""
    from ham_hf.inference.batches import image_processor

    safe_loading.check_processor(name, image_processor(classifier.processor))
    try:
        [row] = probabilities(classifier, [Image.new("RGB", (80, 60), "gray")])
    except Exception as error:  # raised by any layer that a config's value does not suit
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{name} cannot process an image ({reason}): its config.json, preprocessor_config.json and weights do not "
            "fit together"
        ) from error
    if not np.isfinite(row).all():
        raise InputError(
            f"{name} predicts {row.tolist()} for an image: expected probabilities; check image_mean and image_std in "
            "its preprocessor_config.json"
        )


def _codes(name: str, id2label: dict[int, str], label_map: Mapping[str, str | None]) -> dict[int, str | None]:
    """Return the code of each output; several may share a code, and a dropped one has None."""
    found = list(id2label.values())
    if unknown := sorted(set(label_map) - set(found)):
        raise InputError(f"--label_map names {unknown[0]!r}, which is not a label of {name}: expected {found}")
    codes = {i: label_map[label] if label in label_map else diagnosis_code(label) for i, label in id2label.items()}
    unmapped = [id2label[i] for i, code in codes.items() if code is None and id2label[i] not in label_map]
    if unmapped or label_set(filter(None, codes.values())) is None:
        shown = ", ".join(map(str, found[:10])) + (", …" if len(found) > 10 else "")
        raise InputError(
            f"{name} has {len(found)} labels ({shown}): expected the seven diagnoses {', '.join(LABELS)}, or "
            f"{', '.join(NEVUS_OR_OTHER)}. "
            "Fine-tune it with `ham-hf train` first, or say what its labels mean with --label_map"
        )
    return codes
