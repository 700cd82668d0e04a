"""The predictions of a run as a CSV: image_id, lesion_id, label (a code), and a probability for each diagnosis."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ham_hf.data.spreadsheet import csv_text, read_rows
from ham_hf.system.errors import InputError
from ham_hf.system.files import lines_digest, replace_file

KEYS = ("image_id", "lesion_id", "label")


class Predictions(NamedTuple):
    """A model's predictions for N images: true `labels` (N,) index `names`; `probabilities` are (N, C)."""

    image_ids: list[str]
    lesion_ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...]


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write one row for each image, atomically; every digit of a probability is kept."""
    image_ids, lesion_ids, labels, probabilities, names = predictions
    rows = zip(image_ids, lesion_ids, labels, probabilities.tolist(), strict=True)
    cells = [[image_id, lesion_id, names[label], *row] for image_id, lesion_id, label, row in rows]
    replace_file(path, csv_text([[*KEYS, *names], *cells]))


def read_predictions(path: str | Path, names: Sequence[str] | None = None) -> Predictions:
    """Read and check the file of `write_predictions`; `names` are the expected diagnoses, None for any.

    Raises:
        InputError: the file is missing, empty or malformed; the message names the row (the header is row 1) and value.
    """
    path = Path(path)
    rows = read_rows(path)
    names = _names_of(rows[0] if rows else [], names, path)
    if len(rows) < 2:
        raise InputError(f"{path} has a header and no row: expected a row for each image")
    index = {name: number for number, name in enumerate(names)}
    first_row: dict[str, int] = {}
    labels, probabilities = [], []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, row {number}"
        if len(row) != len(KEYS) + len(names):
            raise InputError(f"{where} has {len(row)} values: expected {len(KEYS) + len(names)}, as in the header")
        image_id, lesion_id, label, *values = row
        if not image_id or not lesion_id:
            raise InputError(f"{where}: {'lesion_id' if image_id else 'image_id'} is empty: expected an identifier")
        if image_id in first_row:
            raise InputError(
                f"{where}: image_id {image_id!r} is already in row {first_row[image_id]}: expected it once"
            )
        if label not in index:
            raise InputError(f"{where}: label {label!r} is unknown: expected one of {', '.join(names)}")
        first_row[image_id] = number
        labels.append(index[label])
        probabilities.append(_probabilities_of(values, names, where))
    return Predictions(
        image_ids=list(first_row),
        lesion_ids=[row[1] for row in rows[1:]],
        labels=np.array(labels, dtype=np.int64),
        probabilities=np.array(probabilities, dtype=np.float64),
        names=names,
    )


def rows_sha256(predictions: Predictions) -> str:
    """Return the hash of the images of a split, their lesions and labels, as in run.json."""
    labels = [predictions.names[label] for label in predictions.labels]
    return lines_digest(map(",".join, sorted(zip(predictions.image_ids, predictions.lesion_ids, labels, strict=True))))


def check_rows(predictions: Predictions, data: Mapping, split: str, path: Path) -> None:
    """Raise InputError if the predictions in `path` are for other images than those of `split` in run.json.

    `data` are the facts about the data in run.json; older runs lack the hash and pass.
    """
    expected = data["splits"][split].get("rows_sha256")
    if expected is not None and rows_sha256(predictions) != expected:
        raise InputError(
            f"{path} does not match the {split} images, lesions and labels of run.json in its folder: restore the "
            "file that this run wrote"
        )


def in_order_of(
    first: Predictions, second: Predictions, first_name: str | Path, second_name: str | Path
) -> Predictions:
    """Return `second` with its images in the order of `first`; the two names are for messages.

    Raises:
        InputError: the images, lesions, labels or diagnoses differ.
    """
    if first.names != second.names:
        raise InputError(
            f"{second_name} has the diagnoses {', '.join(second.names)}, {first_name} has {', '.join(first.names)}: "
            "expected the same ones"
        )
    missing, added = set(first.image_ids) - set(second.image_ids), set(second.image_ids) - set(first.image_ids)
    if missing or added:
        raise InputError(
            f"{first_name} and {second_name} have different images: {len(missing)} are only in the first and "
            f"{len(added)} only in the second, such as {min(missing | added)}; expected the same split of the same "
            "data"
        )
    row = {image_id: number for number, image_id in enumerate(second.image_ids)}
    order = [row[image_id] for image_id in first.image_ids]
    same = Predictions(
        first.image_ids,
        [second.lesion_ids[number] for number in order],
        second.labels[order],
        second.probabilities[order],
        second.names,
    )
    for column, ours, theirs in (
        ("lesion_id", first.lesion_ids, same.lesion_ids),
        ("label", [first.names[label] for label in first.labels], [same.names[label] for label in same.labels]),
    ):
        for image_id, one, other in zip(first.image_ids, ours, theirs, strict=True):
            if one != other:
                raise InputError(
                    f"{column} of {image_id} is {one!r} in {first_name} and {other!r} in {second_name}: expected the "
                    "same in both"
                )
    return same


def _names_of(header: list[str], expected: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    names = tuple(header[len(KEYS) :])
    wrong = names != tuple(expected) if expected is not None else len(names) < 2 or len(set(names)) < len(names)
    if tuple(header[: len(KEYS)]) != KEYS or wrong:
        diagnoses = "a column for each diagnosis" if expected is None else ",".join(expected)
        found = ",".join(header) if header else "nothing"
        raise InputError(f"{path}: columns are {found}: expected {','.join(KEYS)}, then {diagnoses}")
    return names


def _probabilities_of(values: list[str], names: Sequence[str], where: str) -> list[float]:
    row = []
    for name, value in zip(names, values, strict=True):
        try:
            probability = float(value)
        except ValueError:
            probability = math.nan
        if not 0 <= probability <= 1:  # false for NaN as well
            raise InputError(f"{where}: {name} is {value!r}: expected a probability from 0 to 1")
        row.append(probability)
    if abs(math.fsum(row) - 1) > 1e-3:
        raise InputError(f"{where}: probabilities sum to {math.fsum(row):.6g}: expected 1 (within 0.001)")
    return row
