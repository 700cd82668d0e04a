"""Predict the diagnoses of photographs, with a model from a run folder or the Hub.

ham-hf predict runs/quickstart photo.jpg folder/ --csv out.csv
"""

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ham_hf.data.image_io import check_photos, find_photos, read_photo
from ham_hf.inference.classifier import Classifier, Patient
from ham_hf.inference.engine import DType, iterate_probabilities, progress
from ham_hf.inference.load import find_classifier, load_classifier
from ham_hf.inference.run_files import is_trained_on_synthetic_images
from ham_hf.labels import DISCLAIMER, FULL_NAMES, LABELS
from ham_hf.system.errors import InputError
from ham_hf.system.outputs import writing_table
from ham_hf.system.terminal import printable

logger = logging.getLogger("ham_hf.inference.predict")

IMAGE_ALONE = "this model uses only the photograph: remove --age, --sex, --site and --patients"
SYNTHETIC_ALONE = (
    "This model was trained on synthetic images: it has never seen a lesion, and its numbers mean nothing."
)


def predict(
    name: str | Path,
    photos: str | Path | Sequence[str | Path],
    *,
    patients: Sequence[Patient] | None = None,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    dtype: DType = "float32",
) -> dict[str, dict[str, float]]:
    """Return the probabilities of photographs, as `ham-hf predict` does. They are no diagnosis.

    Args:
        name: a run folder or a Hub id.
        photos: an image file, a folder with image files, or several of these.
        patients: (age in years, sex, body site) of each photograph, None if unknown, for models that read them.
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.
        dtype: precision of the computation.

    Returns:
        Path of each photograph → code of each diagnosis → its probability.

    Raises:
        InputError: the model or a photograph cannot be used, or does not fit the patients.
    """
    files, _ = find_photos([photos] if isinstance(photos, str | Path) else photos)
    if patients is not None and len(patients) != len(files):
        raise InputError(f"{len(patients)} patients for {len(files)} photographs: expected one each")
    find_classifier(str(name), revision)
    check_photos(files)
    classifier = load_classifier(str(name), revision, label_map)
    if patients is not None:
        check_patients(classifier, patients)
    if is_trained_on_synthetic_images(str(name), revision):
        logger.warning(SYNTHETIC_ALONE)
    logger.warning(DISCLAIMER)
    rows = predict_photos(classifier, files, patients=patients, dtype=dtype)
    return {str(file): dict(zip(classifier.labels, row.tolist(), strict=True)) for file, row in rows}


def predict_photos(
    classifier: Classifier,
    photos: Sequence[Path],
    csv_path: Path | None = None,
    patients: Sequence[Patient] | None = None,
    dtype: DType = "float32",
) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield each photograph and its probabilities (C,), and write them to a CSV file as `writing_table` does."""
    rows = iterate_probabilities(classifier, photos, patients, read=read_photo, dtype=dtype)
    results = zip(photos, progress(rows, len(photos), "predicting"), strict=True)
    return results if csv_path is None else _copied_to_csv(results, csv_path, classifier.labels)


def read_patients(path: Path, photos: Sequence[Path]) -> list[Patient]:
    """Return the patient of each photograph, from a CSV with the columns file, age, sex and localization.

    `file` is the photograph's path, or its name where no other has it; empty cells are unknown.

    Raises:
        InputError: the file is not readable, lacks a column or a photograph, has two rows for one or one for two, or
            an age is no number.
    """
    # pandas takes a while to import, and only this option needs it
    from ham_hf.data.spreadsheet import read_table

    columns = ("file", "age", "sex", "localization")
    table = read_table(path, columns)
    if not set(columns) <= set(table.columns) or table.empty:
        found = "a header and no row" if set(columns) <= set(table.columns) else ", ".join(table.columns)
        raise InputError(
            f"--patients {path} has {found}: expected the columns {', '.join(columns)}, and a row per file"
        )
    by_file: dict[str, Patient] = {}
    for line, file, age, sex, site in table[list(columns)].itertuples(name=None):
        where = f"--patients {path}, line {line}"
        if file in by_file:
            raise InputError(f"{where}: there is a row for {file!r} above: expected one each")
        by_file[file] = _patient_of(age, sex, site, where)
    named = [str(photo) if str(photo) in by_file else photo.name for photo in photos]
    missing = [str(photo) for photo, name in zip(photos, named, strict=True) if name not in by_file]
    if missing:
        raise InputError(
            f"--patients {path} has no row for {len(missing)} photographs, such as {missing[0]}: "
            "add a row with its path or name under file; cells may be empty"
        )
    photo_of: dict[str, Path] = {}
    for photo, name in zip(photos, named, strict=True):
        if (other := photo_of.setdefault(name, photo)) != photo:
            raise InputError(
                f"--patients {path}: the row for {name!r} matches both {other} and {photo}: expected a row each, "
                "with their paths under file"
            )
    return [by_file[name] for name in named]


def _patient_of(age: str, sex: str, site: str, where: str) -> Patient:
    from ham_hf.data.schema import age_or_none, spell_sex, text_or_none

    years = None if text_or_none(age) is None else age_or_none(age.strip())
    if years is None and text_or_none(age) is not None:
        raise InputError(f"{where}: age is {age!r}: expected a number of years, or nothing")
    known_sex, known_site = text_or_none(sex), text_or_none(site)
    return years, known_sex and spell_sex(known_sex), known_site and known_site.lower()


def check_patients(classifier: Classifier, patients: Sequence[Patient]) -> None:
    """Raise InputError if the model does not know a value, or reads no patient data."""
    if not classifier.reads_patients:
        raise InputError(IMAGE_ALONE)
    for patient in set(patients):
        try:
            classifier.processor.encode_patients(*([value] for value in patient))
        except ValueError as error:
            raise InputError(str(error)) from None


def _copied_to_csv(
    results: Iterable[tuple[Path, np.ndarray]], path: Path, labels: Sequence[str]
) -> Iterator[tuple[Path, np.ndarray]]:
    with writing_table(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "prediction", *labels])
        for photo, row in results:
            writer.writerow([photo, labels[int(row.argmax())], *row.tolist()])
            yield photo, row


def table(photo: Path, row: np.ndarray, labels: Sequence[str] = LABELS) -> str:
    """Return the photograph's name and its diagnoses, the likeliest first, as text."""
    width = max(len(FULL_NAMES[label]) for label in labels)
    lines = [printable(str(photo))]
    for i in np.argsort(-row, kind="stable"):
        lines.append(f"  {labels[i]:<5}  {FULL_NAMES[labels[i]]:<{width}}  {row[i]:.4f}")
    return "\n".join(lines)
