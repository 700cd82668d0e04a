"""Check that the files beside a card are those that were published, and that the predictions are the model's."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from ham_hf.evaluation.patients import Patients, read_patients
from ham_hf.evaluation.predictions import Predictions, in_order_of, read_predictions
from ham_hf.hub.published_files import CHECKSUMS, files_in, is_published
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, Finding
from ham_hf.system.errors import InputError
from ham_hf.system.files import file_digest
from ham_hf.system.serialization import read_text

_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-][\w./ -]*)")
_SAME = 0.005  # probabilities of two computations: other hardware moves one by less


def check_checksums(folder: Path) -> list[Finding]:
    """Return every file in `folder` that is not the one of its SHA256SUMS, is missing, or came later.

    Whether a changed file says something untrue is for the other checks to find.
    """
    try:
        lines = read_text(folder / CHECKSUMS).splitlines()
    except InputError as error:
        return [Finding(CHECKSUMS, CANNOT_TELL, str(error))]
    parsed = [match for match in map(_LINE.fullmatch, lines) if match]
    if not parsed or len(parsed) < len(lines) or any(".." in PurePosixPath(line[2]).parts for line in parsed):
        words = "is not as `ham-hf push` writes it, so no file was compared with it"
        return [Finding(CHECKSUMS, CANNOT_TELL, words)]
    found, listed = [], {line[2]: line[1] for line in parsed}
    for name, sha256 in listed.items():
        if not (folder / name).is_file():
            found.append(Finding(name, CANNOT_TELL, f"is missing, and was there when {CHECKSUMS} was written"))
        elif file_digest(folder / name) != sha256:
            found.append(Finding(name, CANNOT_TELL, f"was changed after {CHECKSUMS} was written"))
    later = [name for name in sorted(files_in(folder)) if name not in listed and is_published(name)]
    return found + [Finding(name, CANNOT_TELL, f"was added after {CHECKSUMS} was written") for name in later]


# Predictions and patients


def check_predictions(
    folder: Path, measured: Mapping[str, tuple[Predictions, Patients]], hashes: Mapping[str, str], report: Mapping
) -> list[Finding]:
    """Return what predictions_*.csv and patients_*.csv in `folder` say otherwise than the model and the images.

    Args:
        folder: with the files; missing ones are skipped.
        measured: by split, the predictions made now and the patients of this copy of the data.
        hashes: by split, the SHA-256 of the images here.
        report: report.json's content; where it is about other images, `check_results` says so.
    """
    found = []
    for split, (predictions, patients) in measured.items():
        if report["run"]["data"]["splits"][split]["sha256"] != hashes[split]:
            continue
        name = f"predictions_{split}.csv"
        if (folder / name).is_file():
            found += _check_predictions(folder / name, predictions)
        name = f"patients_{split}.csv"
        if (folder / name).is_file():
            found += _check_patients(folder / name, predictions, patients)
    return found


def _check_predictions(path: Path, measured: Predictions) -> list[Finding]:
    try:
        published = in_order_of(measured, read_predictions(path, measured.names), "the data", path.name)
    except InputError as error:
        return [Finding(path.name, FALSE, str(error))]
    different = np.abs(published.probabilities - measured.probabilities).max(axis=1) > _SAME
    if not different.any():
        return []
    first = measured.image_ids[int(different.argmax())]
    words = f"{different.sum():,} of {len(different):,} predictions are not the model's, such as that of {first}"
    return [Finding(path.name, FALSE, words)]


def _check_patients(path: Path, predictions: Predictions, measured: Patients) -> list[Finding]:
    try:
        published = read_patients(path, predictions.image_ids)
    except InputError as error:
        return [Finding(path.name, CANNOT_TELL, str(error))]
    ages = [None if age is None else float(f"{age:g}") for age in measured.ages]
    if published != measured._replace(ages=ages):
        return [Finding(path.name, CANNOT_TELL, "its patients are not those of this copy of the data")]
    return []
