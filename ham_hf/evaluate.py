"""What does a model answer on images with known diagnoses? At the end of a training, and by `ham-hf evaluate`.

ham-hf evaluate you/your-model --data_dir path/to/HAM10000 --output_dir runs/evaluation
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import BaseImageProcessor

from ham_hf.config.arguments import DataArguments
from ham_hf.evaluation import calibration, thresholds
from ham_hf.evaluation.contamination import load_unseen
from ham_hf.evaluation.isic_submission import add_unscored, write_submission
from ham_hf.evaluation.metadata_ablation import write_ablations
from ham_hf.evaluation.patients import Patients, write_patients
from ham_hf.evaluation.predictions import Predictions, read_predictions, write_predictions
from ham_hf.inference.batches import image_reader
from ham_hf.inference.classifier import find_classifier, labels_of, load_classifier, probabilities
from ham_hf.inference.tta import which_views
from ham_hf.labels import LABELS
from ham_hf.models.build import count_parameters
from ham_hf.models.color_constancy import ColorConstancyImageProcessor
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.reporting.report import SPLITS, split_results, strict, write_report
from ham_hf.system.environment import hardware, versions
from ham_hf.system.errors import InputError
from ham_hf.system.files import check_new_folder, new_folder, replace_file
from ham_hf.system.hardware import supports_bf16
from ham_hf.training.transforms import PATIENT, image_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("ham_hf.evaluate")

BF16_IMAGES = 512  # enough to see how far bfloat16 goes; all 1,992 would cost half of an evaluation again


def evaluate_model(
    name: str,
    data: DataArguments,
    folder: Path,
    *,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    argv: list[str],
) -> dict:
    """Judge the model `name` on the validation and test images of `data`, write the report into the new `folder`.

    Args:
        name: a folder or a Hub id, of any image classifier with safetensors weights.
        data: which images; an empty `split` becomes that of the model's training (see `load_unseen`), `classes` what
            the model tells apart.
        folder: gets predictions, patients, report and pictures, and for the seven diagnoses a submission to ISIC.
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.
        argv: the command line, for the report.

    Returns:
        What report.json holds.

    Raises:
        InputError: the folder holds something, or the model or the data cannot be used.
    """
    check_new_folder(folder)
    location, commit = find_classifier(name, revision)
    model, processor = load_classifier(location, commit, label_map)
    labels = labels_of(model)
    data.classes = "diagnoses" if labels == LABELS else "nevus_or_other"
    splits, facts = load_unseen(data, name, revision)
    if not any(len(splits[split]) for split in SPLITS):
        raise InputError(f"{data.data_dir} has no validation and no test image under the split {data.split!r}")
    with new_folder(folder) as unfinished:
        bf16_difference = write_answers(unfinished, model, processor, splits)
        if labels == LABELS:
            for split in SPLITS:
                if len(splits[split]):
                    predictions = read_predictions(unfinished / f"predictions_{split}.csv", LABELS)
                    if split == "test":
                        predictions, said = add_unscored(predictions, data, model, processor)
                        facts |= said
                    write_submission(unfinished / f"submission_{split}.csv", predictions)
        run = evaluation_facts(name, commit, model, processor, facts, bf16_difference, argv)
        replace_file(unfinished / "run.json", json.dumps(run, indent=2) + "\n")
        return write_report(unfinished)


def evaluate_run(
    name: str | Path,
    data_dir: str | Path,
    *,
    part: str = "validation",
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    **data: Any,
) -> dict[str, dict]:
    """Judge a model on images with known diagnoses, as `evaluate_model` does, and write nothing.

    Args:
        name: a run folder or a Hub id, of any image classifier with safetensors weights.
        data_dir: a folder, or a Hub dataset id; further keywords (`split`, …) are those of `load_ham10000`. Without a
            `split` it is that of the model's training: see `load_unseen`.
        part: "validation" or "test".
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.

    Returns:
        Metric → {"value": …, "interval": [low, high]}: 95 % intervals, of a bootstrap over lesions; None for what is
        undefined. The metrics are those of report.json.

    Raises:
        InputError: the model or the data cannot be used, or there is no such image.
    """
    if part not in SPLITS:
        raise InputError(f"part is {part!r}: expected one of {', '.join(SPLITS)}")
    model, processor = load_classifier(str(name), revision, label_map)
    classes = "diagnoses" if labels_of(model) == LABELS else "nevus_or_other"
    given = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
    arguments = DataArguments(**{"data_dir": str(data_dir), "split": "", **given, "classes": classes})
    splits, facts = load_unseen(arguments, str(name), revision)
    if not len(splits[part]):
        raise InputError(
            f"{data_dir} has no {part} image under the split {facts['split']!r}: choose another part or split"
        )
    unknown = facts["splits"][part]["unknown_lesions"]
    return strict(measure(model, processor, splits[part], part, unknown)["metrics"])


def measure(
    model: "PreTrainedModel",
    processor: BaseImageProcessor | PatientProcessor,
    rows: Dataset,
    description: str,
    unknown_lesions: int,
) -> dict:
    """What report.json would say of these images; `description` is for the progress bar.

    `unknown_lesions` is the number of images whose lesion is unknown.
    """
    predictions, patients = predict_rows(model, processor, rows, description)
    return split_results(predictions, patients, thresholds.threshold_of(model), unknown_lesions=unknown_lesions)


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
        "color_constancy": isinstance(image_processor(processor), ColorConstancyImageProcessor),
        "test_time_augmentation": which_views(model),
        calibration.KEY: calibration.calibration_of(model),
        thresholds.KEY: thresholds.threshold_of(model),
        "bf16_difference": bf16_difference,
    }


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
    for name in SPLITS:
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


def _input_size(processor: BaseImageProcessor | PatientProcessor) -> int:
    return image_processor(processor)(Image.new("RGB", (600, 450)), return_tensors="pt")["pixel_values"].shape[-1]
