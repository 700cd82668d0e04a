"""Mix the probabilities of teachers into the labels of the training images.

Knowledge distillation, Hinton et al., 2015, https://arxiv.org/abs/1503.02531, at temperature 1.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from datasets import DatasetDict

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.same_lesion import ImagePair
from ham_hf.evaluation.training_record import TrainingRecord
from ham_hf.system.errors import InputError
from ham_hf.system.files import file_digest
from ham_hf.training.teachers import Teachers, check_unseen


class SoftLabels(NamedTuple):
    """The `targets` (N, classes) float32 of the training images, in their order.

    `facts` are for run.json; `record` has the images that the teachers were trained on.
    """

    targets: torch.Tensor
    facts: dict
    record: TrainingRecord


def match(
    teachers: Teachers,
    splits: DatasetDict,
    checks: Mapping[str, ImageCheck],
    pairs: Collection[ImagePair],
    weight: float,
) -> SoftLabels:
    """Return the soft labels of the training images: 1 - `weight` of the diagnosis, and `weight` of the teachers.

    Args:
        teachers: of `read_teachers`.
        splits: of the run, and `checks` of their images, as `load_checked` returns them.
        pairs: images that show one lesion under two lesion ids.
        weight: above 0, at most 1.

    Raises:
        InputError: a training image has no probabilities, or another label; or a teacher has seen what it must not.
    """
    path, predictions = teachers.path, teachers.predictions
    image_ids, labels = splits["train"]["image_id"][:], np.array(splits["train"]["label"][:])
    row_of = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
    missing = [image_id for image_id in image_ids if image_id not in row_of]
    if len(missing) == len(image_ids):
        raise InputError(
            f"{path} is for other images: it has a row for none of the {len(image_ids):,} training images"
        )
    check_unseen(teachers, splits, checks, pairs)
    if missing:
        raise InputError(
            f"{path} has no row for {missing[0]}, one of {len(missing):,} such training images: expected a row for "
            f"each of the {len(image_ids):,}"
        )
    rows = [row_of[image_id] for image_id in image_ids]
    if others := np.flatnonzero(predictions.labels[rows] != labels).tolist():
        image_id, names = image_ids[others[0]], predictions.names
        raise InputError(
            f"{path}: label of {image_id} is {names[predictions.labels[rows[others[0]]]]!r}, and in the data "
            f"{names[labels[others[0]]]!r} ({len(others):,} such images): expected predictions of models trained on "
            "these labels"
        )
    targets = (1 - weight) * np.eye(len(predictions.names))[labels] + weight * predictions.probabilities[rows]
    facts = {"teachers": path.resolve().parent.name, "weight": weight, "sha256": file_digest(path)}
    return SoftLabels(torch.from_numpy(targets).float(), facts, teachers.record)
