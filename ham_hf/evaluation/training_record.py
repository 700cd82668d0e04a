"""The images that a model was trained on, and how many of those it is evaluated on are among them.

Training writes `training_images.csv` into the run folder before the first step: a row for each training image, and for
each validation image on which the checkpoint, the temperature or the threshold is chosen. Models fine-tuned from that
model, and ensembles with it, add its rows to their own.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.lesions import is_ham10000, official_lesions
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.data.spreadsheet import csv_text, read_rows
from ham_hf.inference.run_files import find_run_file
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file

FILE = "training_images.csv"
ROLES = ("train", "validation")
UNLISTED = "unlisted"  # the split of a last row without an image: the file does not list all training images
_IDS = ("image_id", "lesion_id")
_MOST_BYTES = 500_000_000  # limit for downloaded files: two million images


class TrainingImage(NamedTuple):
    """An image that was used for training, or for choosing the checkpoint: `split` is "train" or "validation".

    `lesion_id` is empty where the lesion is unknown. The hashes are those of `ImageCheck`.
    """

    image_id: str
    lesion_id: str
    split: str
    sha256: str
    pixels_sha256: str


class TrainingRecord(NamedTuple):
    """`complete` is false if images that the model was trained on are missing from `images`."""

    images: list[TrainingImage]
    complete: bool


def images_of(rows: Dataset, checks: Mapping[str, ImageCheck], split: str) -> list[TrainingImage]:
    """Return the record of `rows` (canonical columns); `checks` are those of `load_checked`."""
    image_ids = rows["image_id"][:]
    return [  # `load_checked` rejects images without a hash of the pixels
        TrainingImage(image_id, lesion, split, checks[image_id].sha256, str(checks[image_id].pixels_sha256))
        for image_id, lesion in zip(image_ids, _lesions(image_ids, rows["lesion_id"][:]), strict=True)
    ]


def join_records(records: Iterable[TrainingRecord]) -> TrainingRecord:
    """Return the union of several records; an image with both roles counts as a training image."""
    records = list(records)
    images: dict[tuple[str, str], TrainingImage] = {}
    for image in sorted((image for record in records for image in record.images), key=lambda image: image.split):
        images.setdefault((image.image_id, image.sha256), image)  # "train" sorts before "validation"
    return TrainingRecord(sorted(images.values()), all(record.complete for record in records))


def public_record(record: TrainingRecord) -> TrainingRecord:
    """Return the part that may be published: the images of HAM10000, which are public.

    The hash of a private photograph would confirm to anyone with a copy of it that it was used.
    """
    images = [image for image in record.images if is_ham10000(image.image_id)]
    return TrainingRecord(images, record.complete and len(images) == len(record.images))


def render_record(record: TrainingRecord) -> str:
    """Return the content of the file."""
    last = [] if record.complete else [["", "", UNLISTED, "", ""]]
    return csv_text([TrainingImage._fields, *record.images, *last])


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write the file into the run folder `folder`, atomically."""
    replace_file(folder / FILE, render_record(record))


def record_of(name: str, revision: str | None = None) -> TrainingRecord | None:
    """Return the record of a model (a run folder, one of its checkpoints, or a Hub id), or None if it has none.

    Raises:
        InputError: the file is malformed, or cannot be downloaded.
    """
    path = find_run_file(name, FILE, revision)
    return None if path is None else read_record(path)


def read_record(path: Path) -> TrainingRecord:
    """Read the file that `write_record` wrote.

    Raises:
        InputError: it is malformed; the message names the row (the header is row 1) and the value.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes: expected {_MOST_BYTES:,} at most")
    header, *rows = read_rows(path) or [[]]
    if tuple(header) != TrainingImage._fields:
        raise InputError(f"{path} has the columns {','.join(header)}: expected {','.join(TrainingImage._fields)}")
    complete = not rows or rows[-1] != ["", "", UNLISTED, "", ""]
    return TrainingRecord(
        [_image(row, f"{path}, row {number}") for number, row in enumerate(rows if complete else rows[:-1], start=2)],
        complete,
    )


def _image(row: list[str], where: str) -> TrainingImage:
    if len(row) != len(TrainingImage._fields):
        raise InputError(f"{where} has {len(row)} values: expected {len(TrainingImage._fields)}, as in the header")
    image = TrainingImage(*row)
    if image.split not in ROLES:
        raise InputError(f"{where}: split is {image.split!r}: expected one of {', '.join(ROLES)}")
    for name in ("sha256", "pixels_sha256"):
        if not re.fullmatch("[0-9a-f]{64}", getattr(image, name)):
            raise InputError(f"{where}: {name} is {getattr(image, name)[:80]!r}: expected a SHA-256 in hexadecimal")
    return image


def find_overlap(
    record: TrainingRecord, splits: Mapping[str, Dataset], checks: Mapping[str, ImageCheck]
) -> dict[str, dict[str, int]]:
    """Count the images to evaluate that a model has seen.

    Two images are the same if the bytes of the files or the decoded pixels are equal, whatever their names, or if both
    have the same id of HAM10000, so that a copy in another size or compression is found as well.

    Args:
        record: of the model.
        splits: of `load_checked`, and so `checks`.

    Returns:
        By split (validation, test) the number of `images`; of those that were training images (`train`); of those on
        which the model's checkpoint or calibration was chosen (`validation`); and of `siblings`: other images of a
        lesion with a training image.
    """
    keys = {
        role: {key for image in record.images if image.split == role for key in keys_of(image.image_id, image)}
        for role in ROLES
    }
    lesions = {
        name
        for image in record.images
        if image.split == "train"
        for name in lesion_names(image.image_id, image.lesion_id)
    }
    image_ids, lesion_ids = ([value for split in splits.values() for value in split[name][:]] for name in _IDS)
    rows = [
        _Evaluated(image_id, lesion_names(image_id, lesion), keys_of(image_id, checks[image_id]))
        for image_id, lesion in zip(image_ids, _lesions(image_ids, lesion_ids), strict=True)
    ]
    # If two tables name lesions differently, an image that is in both shows which lesion is which
    lesions |= {name for row in rows if row.keys & keys["train"] for name in row.lesions}
    of_image = {row.image_id: row for row in rows}
    return {
        part: _count([of_image[image_id] for image_id in splits[part]["image_id"][:]], keys, lesions)
        for part in EVALUATION_SPLITS
    }


class _Evaluated(NamedTuple):
    image_id: str
    lesions: set[str]
    keys: set[str]


def _count(rows: list[_Evaluated], keys: Mapping[str, set[str]], lesions: set[str]) -> dict[str, int]:
    counts = {"images": len(rows), "train": 0, "validation": 0, "siblings": 0}
    for row in rows:
        if row.keys & keys["train"]:
            counts["train"] += 1
        elif row.keys & keys["validation"]:
            counts["validation"] += 1
        elif row.lesions & lesions:
            counts["siblings"] += 1
    return counts


def _lesions(image_ids: list[str], lesion_ids: list[str]) -> list[str]:
    """Return the lesion of each image, "" if it is unknown: it then has the image's id, and no other image."""
    images = Counter(lesion_ids)
    return [
        "" if lesion_id == image_id and images[lesion_id] == 1 else lesion_id
        for image_id, lesion_id in zip(image_ids, lesion_ids, strict=True)
    ]


def lesion_names(image_id: str, lesion_id: str) -> set[str]:
    """Return the names of a lesion, in its table and in HAM10000's own, because copies name lesions differently."""
    return {name for name in (lesion_id, official_lesions().get(image_id)) if name}


def keys_of(image_id: str, hashes: TrainingImage | ImageCheck) -> set[str]:
    """Return what another copy of an image has in common with it."""
    official = image_id if is_ham10000(image_id) else None
    return {key for key in (hashes.sha256, hashes.pixels_sha256, official) if key}
