"""The predictions of a model for each split, as the files that a report is made from."""

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.metadata_ablation import write_ablations
from ham_hf.evaluation.patients import Patients, write_patients
from ham_hf.evaluation.predictions import Predictions, write_predictions
from ham_hf.inference.batches import PATIENT, image_reader
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import probabilities


def predict_rows(classifier: Classifier, rows: Dataset, description: str) -> tuple[Predictions, Patients]:
    """Return the model's predictions for images with known diagnoses, and the patients of the images.

    `description` is for the progress bar.
    """
    predicted = probabilities(
        classifier,
        range(len(rows)),
        zip(*(rows[column][:] for column in PATIENT), strict=True),
        read=image_reader(rows),
        total=len(rows),
        description=description,
    )
    labels = np.array(rows["label"][:])
    dx_types = [dx_type or "unknown" for dx_type in rows["dx_type"][:]]
    return (
        Predictions(rows["image_id"][:], rows["lesion_id"][:], labels, predicted, classifier.labels),
        Patients(rows["age"][:], rows["sex"][:], rows["localization"][:], dx_types),
    )


def predict_splits(folder: Path, classifier: Classifier, splits: DatasetDict) -> None:
    """Write predictions, patients and ablations of the validation and test images into `folder`."""
    for name in EVALUATION_SPLITS:
        if len(splits[name]):
            predictions, patients = predict_rows(classifier, splits[name], name)
            write_predictions(folder / f"predictions_{name}.csv", predictions)
            write_patients(folder / f"patients_{name}.csv", predictions.image_ids, patients)
    if classifier.reads_patients and len(splits["validation"]):
        write_ablations(folder / "ablation", classifier, splits["validation"])
