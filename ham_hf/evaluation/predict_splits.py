"""A model's predictions for the images of each split, as the files that a report is made of."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor

from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.metadata_ablation import write_ablations
from ham_hf.evaluation.patients import Patients, write_patients
from ham_hf.evaluation.predictions import Predictions, read_predictions, write_predictions
from ham_hf.inference.batches import PATIENT, image_reader
from ham_hf.inference.classifier import labels_of, probabilities
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.system.hardware import supports_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel


BF16_IMAGES = 512  # enough to see how far bfloat16 goes; all 1,992 would cost half of an evaluation again


def predict_rows(
    model: "PreTrainedModel",
    processor: BaseImageProcessor | PatientProcessor,
    rows: Dataset,
    description: str,
) -> tuple[Predictions, Patients]:
    """Return the model's predictions for images with known diagnoses, and whose images they are."""
    answers = probabilities(
        model,
        processor,
        range(len(rows)),
        zip(*(rows[column][:] for column in PATIENT), strict=True),
        read=image_reader(rows),
        total=len(rows),
        description=description,
    )
    labels = np.array(rows["label"][:])
    dx_types = [dx_type or "unknown" for dx_type in rows["dx_type"][:]]
    return (
        Predictions(rows["image_id"][:], rows["lesion_id"][:], labels, answers, labels_of(model)),
        Patients(rows["age"][:], rows["sex"][:], rows["localization"][:], dx_types),
    )


def write_answers(
    folder: Path,
    model: "PreTrainedModel",
    processor: BaseImageProcessor | PatientProcessor,
    splits: DatasetDict,
) -> float | None:
    """Write predictions, patients and ablations of the validation and test images into `folder`.

    Returns:
        How far bfloat16 moves a probability at most, for `ham-hf predict`: see `bf16_difference`.
    """
    for name in EVALUATION_SPLITS:
        if len(splits[name]):
            _write_split(folder, name, model, processor, splits[name])
    if isinstance(model, PatientModel) and len(splits["validation"]):
        write_ablations(folder / "ablation", model, processor, splits["validation"], labels_of(model))
    return bf16_difference(model, processor, splits["validation"], folder)


def bf16_difference(
    model: "PreTrainedModel", processor: BaseImageProcessor | PatientProcessor, split: Dataset, folder: Path
) -> float | None:
    """The largest difference of a probability computed in bfloat16 from that in float32, in `folder`'s predictions.

    Of the validation images, up to BF16_IMAGES, evenly spread. None where there are none, or no hardware for it.
    """
    if not len(split) or not supports_bf16(use_cpu=model.device.type == "cpu"):
        return None
    exact = read_predictions(folder / "predictions_validation.csv", labels_of(model)).probabilities
    some = range(0, len(split), math.ceil(len(split) / BF16_IMAGES))
    patients = zip(*(split[column][some] for column in PATIENT), strict=True)
    rows = probabilities(
        model,
        processor,
        some,
        patients,
        read=image_reader(split),
        bf16_difference=-1,  # no answer is too close: none is computed again
        total=len(some),
        description="in bfloat16",
    )
    return float(abs(rows - exact[some]).max())


def _write_split(
    folder: Path,
    name: str,
    model: "PreTrainedModel",
    processor: BaseImageProcessor | PatientProcessor,
    split: Dataset,
) -> None:
    labels = labels_of(model)
    write_predictions(
        folder / f"predictions_{name}.csv",
        split["image_id"][:],
        split["lesion_id"][:],
        [labels[label] for label in split["label"][:]],
        probabilities(
            model,
            processor,
            range(len(split)),
            zip(*(split[column][:] for column in PATIENT), strict=True),
            read=image_reader(split),
            total=len(split),
            description=name,
        ),
        labels,
    )
    write_patients(
        folder / f"patients_{name}.csv",
        split["image_id"][:],
        split["age"][:],
        split["sex"][:],
        split["localization"][:],
        [dx_type or "unknown" for dx_type in split["dx_type"][:]],
    )
