"""The patients of the evaluated images, as a CSV: image_id, age, sex, localization, dx_type."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ham_hf.data.spreadsheet import csv_text, read_rows
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file

COLUMNS = ("image_id", "age", "sex", "localization", "dx_type")
SEXES = ("female", "male", "unknown")
OLDEST = 120  # years


class Patients(NamedTuple):
    """Metadata of N images: `ages` in years, None if missing; other missing values are "unknown"."""

    ages: list[float | None]
    sexes: list[str]
    sites: list[str]
    dx_types: list[str]


def write_patients(path: str | Path, image_ids: Sequence[str], patients: Patients) -> None:
    """Write one row for each image, atomically. A missing age is empty."""
    rows = [
        [image_id, "" if age is None else f"{age:g}", *others]  # :g, because ages were float32: 45.3, not 45.299999
        for image_id, age, *others in zip(image_ids, *patients, strict=True)
    ]
    replace_file(path, csv_text([COLUMNS, *rows]))


def read_patients(path: str | Path, image_ids: Sequence[str]) -> Patients:
    """Read and check the file of `write_patients`, in the order of `image_ids`, the images of the predictions.

    Raises:
        InputError: the file is malformed, or lists other images; the message names the row (the header is row 1) and
            the value.
    """
    path = Path(path)
    rows = read_rows(path)
    if not rows or tuple(rows[0]) != COLUMNS:
        found = ",".join(rows[0]) if rows else "nothing"
        raise InputError(f"{path}: columns are {found}: expected {','.join(COLUMNS)}")
    expected, patients = set(image_ids), {}
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, row {number}"
        if len(row) != len(COLUMNS):
            raise InputError(f"{where} has {len(row)} values: expected {len(COLUMNS)}, as in the header")
        image_id, age, sex, site, dx_type = row
        if image_id in patients:
            raise InputError(f"{where}: image_id {image_id!r} occurs twice: expected it once")
        if image_id not in expected:
            raise InputError(f"{where}: image_id {image_id!r} is not among the predictions: expected the same images")
        patients[image_id] = _checked(age, sex, site, dx_type, where)
    missing = [image_id for image_id in image_ids if image_id not in patients]
    if missing:
        raise InputError(f"{path} has no row for {len(missing)} of the predicted images, such as {missing[0]!r}")
    return Patients(*map(list, zip(*(patients[image_id] for image_id in image_ids), strict=True)))


def _checked(age: str, sex: str, site: str, dx_type: str, where: str) -> tuple[float | None, str, str, str]:
    if sex not in SEXES:
        raise InputError(f"{where}: sex is {sex!r}: expected one of {', '.join(SEXES)}")
    for column, value in (("localization", site), ("dx_type", dx_type)):
        if not value:
            raise InputError(f"{where}: {column} is empty: expected 'unknown' if it is not known")
    return _age_of(age, where), sex, site, dx_type


def _age_of(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        age = float(text)
    except ValueError:
        age = math.nan
    if not 0 <= age <= OLDEST:  # false for NaN as well
        raise InputError(f"{where}: age is {text!r}: expected 0 to {OLDEST} years, or nothing")
    return age
