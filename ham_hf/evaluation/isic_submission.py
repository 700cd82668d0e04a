"""Predictions as a submission to ISIC 2018 Task 3, in the format of the challenge's own scorer."""

import logging
from pathlib import Path

import numpy as np
from datasets import Dataset

from ham_hf.config.arguments import DataArguments
from ham_hf.data.image_hashes import check_images
from ham_hf.data.sources.folder import find_unscored
from ham_hf.data.sources.isic import CHALLENGE_COLUMNS, NOT_SCORED
from ham_hf.data.spreadsheet import csv_text
from ham_hf.evaluation.predictions import Predictions
from ham_hf.inference.batches import image_reader
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import probabilities
from ham_hf.system.files import replace_file

logger = logging.getLogger("ham_hf.evaluate")

KEY = "not_scored"  # in the facts about the data


def write_submission(path: Path, predictions: Predictions) -> None:
    """Write the probabilities of the seven diagnoses with the challenge's columns: image, MEL, NV, BCC, …"""
    order = [predictions.names.index(code) for code in CHALLENGE_COLUMNS.values()]
    probabilities = predictions.probabilities[:, order].tolist()
    rows = [[image_id, *row] for image_id, row in zip(predictions.image_ids, probabilities, strict=True)]
    replace_file(path, csv_text([["image", *CHALLENGE_COLUMNS], *rows]))


def add_unscored(predictions: Predictions, data: DataArguments, classifier: Classifier) -> tuple[Predictions, dict]:
    """Return the predictions with a row for the image that the scorer requires but does not score.

    The official ground truth lists 1,512 images and the scorer requires a row for each, including ISIC_0035068, to
    which it gives no weight. Its row is the model's prediction, or 1/7 for each diagnosis if the image is missing or
    broken. It is not part of any metric.

    Returns:
        The predictions, unchanged if the metadata table does not list the image, and the entry for the facts about
        the data.
    """
    assert data.data_dir is not None  # its images were predicted
    folder = Path(data.data_dir).expanduser()
    table = Path(data.metadata_csv).expanduser() if data.metadata_csv else None
    images = find_unscored(folder, table) if folder.is_dir() else None
    if images is None or NOT_SCORED in predictions.image_ids:
        return predictions, {}
    row = _predict(images, classifier)
    predicted = row is not None
    if row is None:
        count = len(predictions.names)
        row = np.full((1, count), 1 / count)
        logger.warning(
            "%s, which the challenge does not score, has no readable image here: its row of the submission is a "
            "placeholder, 1/%d for each diagnosis",
            NOT_SCORED,
            count,
        )
    at = int(np.searchsorted(predictions.image_ids, NOT_SCORED))
    ids, lesions = list(predictions.image_ids), list(predictions.lesion_ids)
    return (
        predictions._replace(
            image_ids=[*ids[:at], NOT_SCORED, *ids[at:]],
            lesion_ids=[*lesions[:at], NOT_SCORED, *lesions[at:]],
            labels=np.insert(predictions.labels, at, -1),
            probabilities=np.insert(predictions.probabilities, at, row, axis=0),
        ),
        {KEY: {"image_id": NOT_SCORED, "predicted": predicted}},
    )


def _predict(images: Dataset, classifier: Classifier) -> np.ndarray | None:
    """Return the probabilities (1, C), or None if the image is missing or does not decode."""
    if not len(images) or check_images(images)[NOT_SCORED].error is not None:
        return None
    return probabilities(classifier, range(1), read=image_reader(images))
