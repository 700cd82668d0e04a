"""Read the predictions of a cross-validation, and check that no fold has seen a lesion that it teaches or we evaluate.

The predictions of a model for images that it was trained on say little more than their labels do, and one that was
trained on an evaluated lesion would pass on its label. So soft labels are accepted only with the records beside them:
the folder of each fold, with its own predictions and its training_images.csv.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import DatasetDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.same_lesion import ImagePair
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.predictions import Predictions, check_rows, read_predictions
from ham_hf.evaluation.training_record import (
    TrainingImage,
    TrainingRecord,
    images_of,
    join_records,
    keys_of,
    lesion_names,
    record_of,
)
from ham_hf.inference.run_files import training_data_of
from ham_hf.system.errors import InputError
from ham_hf.training.members import is_cross_validation

EXPECTED = (
    "expected the predictions_train.csv that `ham-hf cross-validate RECIPE --training_lesions_only` writes, with the "
    "data and the --split of this run"
)


class Teachers(NamedTuple):
    """The pooled `predictions` of a cross-validation in the file `path`, and the models that made them.

    `teacher_of` is image_id → number of the model in `runs`, which are the folders of the folds, and in `records`.
    """

    path: Path
    predictions: Predictions
    teacher_of: Mapping[str, int]
    runs: list[Path]
    records: list[TrainingRecord]

    @property
    def record(self) -> TrainingRecord:
        """Return what all of them together have seen."""
        return join_records(self.records)


def read_teachers(path: Path, names: Collection[str]) -> Teachers:
    """Read the predictions in `path`, of the classes `names`, and the records in its folder.

    Raises:
        InputError: the file is missing or malformed, has other classes, or is not what the folds beside it predicted;
            or it is not known what they were trained on.
    """
    if not path.is_file():
        raise InputError(f"soft_labels is {str(path)!r}, which is not a file: {EXPECTED}")
    predictions = read_predictions(path, tuple(names))
    folder = path.resolve().parent
    if not is_cross_validation(folder):
        raise InputError(f"{path}: {_why_not(folder, predictions)}: {EXPECTED}")
    runs = [run for run in folder.glob("fold_*") if re.fullmatch(r"fold_\d+", run.name)]
    runs.sort(key=lambda run: int(run.name.removeprefix("fold_")))
    parts, records = [], []
    for run in runs:
        facts, record = training_data_of(str(run)), record_of(str(run))
        if facts is None or record is None or not record.complete:
            raise InputError(
                f"{run} does not record all images that its model has seen (in run.json and training_images.csv), so "
                f"it cannot be a teacher: {EXPECTED}"
            )
        own = run / "predictions_validation.csv"
        parts.append(read_predictions(own, tuple(names)))
        check_rows(parts[-1], facts, "validation", own)
        records.append(record)
    return Teachers(path, predictions, _teacher_of(path, predictions, parts), runs, records)


def _why_not(folder: Path, predictions: Predictions) -> str:
    """Return why predictions outside of the folder of a cross-validation are not accepted."""
    record = record_of(str(folder))
    if record is None:
        return "nothing beside it says what the teachers have seen"
    seen = sorted({image.image_id for image in record.images} & set(predictions.image_ids))
    if not seen:
        return "it has the predictions of a single run"
    return f"it was written by a model that has seen {seen[0]}, one of {len(seen):,} such images"


def _teacher_of(path: Path, predictions: Predictions, parts: Iterable[Predictions]) -> dict[str, int]:
    """Return the number of the part that each prediction is from, exactly as it is there."""
    source = {
        image_id: (number, row)
        for number, part in enumerate(parts)
        for image_id, row in zip(part.image_ids, part.probabilities, strict=True)
    }
    for image_id, row in zip(predictions.image_ids, predictions.probabilities, strict=True):
        if image_id not in source or not np.array_equal(source[image_id][1], row):
            raise InputError(
                f"{path}: the probabilities of {image_id} are not those that a fold beside it predicted: restore the "
                "file that `ham-hf cross-validate` wrote"
            )
    return {image_id: source[image_id][0] for image_id in predictions.image_ids}


def check_unseen(
    teachers: Teachers, splits: DatasetDict, checks: Mapping[str, ImageCheck], pairs: Collection[ImagePair]
) -> None:
    """Check that no teacher has seen the lesion of a training image that it teaches, nor one that is evaluated.

    Args:
        teachers: of `read_teachers`.
        splits: of a run, and `checks` of their images, as `load_checked` returns them.
        pairs: images that show one lesion under two lesion ids.

    Raises:
        InputError: a teacher has; the message names the teacher and an image.
    """
    ours = {name: images_of(splits[name], checks, name) for name in ("train", *EVALUATION_SPLITS)}
    everything = [image for images in (*ours.values(), teachers.record.images) for image in images]
    lesion = _number_lesions(everything, pairs)
    for number, (run, record) in enumerate(zip(teachers.runs, teachers.records, strict=True)):
        seen = {lesion[image.sha256]: image.image_id for image in record.images}
        taught = [image for image in ours["train"] if teachers.teacher_of.get(image.image_id) == number]
        for images, what in (
            *((ours[split], f"a {split} image of this run") for split in EVALUATION_SPLITS),
            (taught, "whose soft label it predicted"),
        ):
            if leaks := [image for image in images if lesion[image.sha256] in seen]:
                first, other = leaks[0].image_id, seen[lesion[leaks[0].sha256]]
                which = first if other == first else f"{other}, of the lesion of {first}"
                raise InputError(f"{run} has seen {which}, {what} ({len(leaks):,} such images): {EXPECTED}")


def _number_lesions(images: Iterable[TrainingImage], pairs: Collection[ImagePair]) -> dict[str, int]:
    """Return name → number of its lesion, for the names (see `_names`) of images and of their lesions.

    Images show one lesion if they are copies, have a lesion_id in common, or are a pair.
    """
    groups = [_names(image) for image in images] + [set(map(_listed, pair)) for pair in pairs]
    column: dict[str, int] = {}
    for names in groups:
        for name in names:
            column.setdefault(name, len(column))
    rows = [row for row, names in enumerate(groups) for _ in names]
    columns = [column[name] for names in groups for name in names]
    # Each group of names is a node as well, beside the names
    nodes = len(groups) + len(column)
    edges = coo_array((np.ones(len(rows)), (rows, np.array(columns) + len(groups))), shape=(nodes, nodes))
    _, number = connected_components(edges, directed=False)
    return {name: int(number[len(groups) + at]) for name, at in column.items()}


def _names(image: TrainingImage) -> set[str]:
    """Return what an image has in common with others of its lesion."""
    return keys_of(image.image_id, image) | lesion_names(image.image_id, image.lesion_id) | {_listed(image.image_id)}


def _listed(image_id: str) -> str:
    """Return the name of an image in a list of duplicates, which no hash and no lesion has."""
    return f"image {image_id}"
