"""The layouts of the `imagefolder` builder of `datasets`: a folder for each class, or metadata.csv with file_name."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from ham_hf.errors import InputError

FILE_NAME = "file_name"  # the column that makes a metadata.csv one of imagefolder's
_LABELS = ("dx", "label", "diagnosis", "class")


def label_column(columns: Iterable[str], name: str) -> str:
    """Return the column of a metadata.csv that holds the diagnosis.

    Raises:
        InputError: there is none.
    """
    found = next((column for column in _LABELS if column in columns), None)
    if found is None:
        raise InputError(
            f"{name} lacks a column with the diagnosis: it has {', '.join(map(repr, columns))}; expected one of "
            f"{', '.join(_LABELS)}"
        )
    return found


def from_file_names(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a metadata.csv of imagefolder's with the columns image_id (see `image_ids`) and dx as it is there."""
    label = label_column([column for column in raw.columns if column != FILE_NAME], name)
    files = raw[FILE_NAME].str.strip().str.replace("\\", "/", regex=False)
    ids = image_ids(files)
    return raw.assign(**{FILE_NAME: files, "image_id": files.map(ids), "dx": raw[label]})


def from_class_folders(files: Iterable[str]) -> pd.DataFrame:
    """Return a row for each image file (paths relative to the data folder): file_name, image_id and dx, its folder."""
    files = sorted(files)
    ids = image_ids(files)
    rows = [(file, ids[file], PurePosixPath(file).parent.name) for file in files]
    return pd.DataFrame(rows, columns=[FILE_NAME, "image_id", "dx"])


def image_ids(files: Iterable[str]) -> Mapping[str, str]:
    """Return file → image_id: its name without suffix where no other file has that name, else its path without suffix.

    nv/001.jpg and mel/001.jpg are two images; ISIC_0024306.jpg is HAM10000's wherever it lies.
    """
    files = list(files)
    stems = pd.Series([PurePosixPath(file).stem for file in files], dtype=str)
    several = set(stems[stems.duplicated()])
    return {
        file: str(PurePosixPath(file).with_suffix("")) if stem in several else stem
        for file, stem in zip(files, stems, strict=True)
    }


def inside(folder: Path, file: str) -> Path:
    """Return the path of a file that a table names.

    Raises:
        InputError: it leads out of the folder.
    """
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or ":" in file:
        raise InputError(f"file_name {file!r} leads out of {folder}: expected a path below it")
    return folder / file
