"""Read the layouts of `datasets`' `imagefolder` builder: a folder for each class, or metadata.csv with file_name."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from ham_hf.data.schema import some, without_suffix
from ham_hf.labels import diagnosis_code
from ham_hf.system.errors import InputError

FILE_NAME = "file_name"  # the column that makes a metadata.csv one of imagefolder's
LABEL_COLUMNS = ("dx", "label", "diagnosis", "class")


def from_file_names(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a metadata.csv of imagefolder's with the columns image_id (see `image_ids`) and dx as it is there.

    Without a column for the diagnosis, it is the name of the file's folder.

    Raises:
        InputError: neither names the diagnosis, or one contradicts the other.
    """
    files = raw[FILE_NAME].str.strip().str.replace("\\", "/", regex=False)
    folders = files.map(lambda file: PurePosixPath(file).parent.name)
    given = [column for column in LABEL_COLUMNS if column in raw.columns]
    if not given and (folders == "").any():
        raise InputError(
            f"{name} lacks a column with the diagnosis: it has {', '.join(map(repr, raw.columns))}; expected one of "
            f"{', '.join(LABEL_COLUMNS)}, or a folder for each diagnosis in {FILE_NAME}"
        )
    named = raw[given].assign(**{"its folder": folders})
    for line, row in zip(named.index, named.itertuples(index=False, name=None), strict=True):
        values = zip(named.columns, row, strict=True)
        known = {code: f"{value!r} ({column})" for column, value in values if (code := _code(value))}
        if len(known) > 1:
            raise InputError(
                f"{name}, line {line}: {files[line]} has the diagnoses {' and '.join(known.values())}; correct one"
            )
    ids = image_ids(files)
    return raw.assign(**{FILE_NAME: files, "image_id": files.map(ids), "dx": raw[given[0]] if given else folders})


def _code(value: str) -> str | None:
    return diagnosis_code(value) if value.strip() else None


def without_folders(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table whose image_id may be the path of a file, such as images/a.jpg, with the file's name alone.

    Raises:
        InputError: two files of different folders have one name.
    """
    paths = raw["image_id"].str.strip().str.replace("\\", "/", regex=False)
    if not paths.str.contains("/", regex=False).any():
        return raw
    names = paths.map(lambda path: without_suffix(PurePosixPath(path).name))
    several = names[names.duplicated(keep=False) & ~paths.duplicated(keep=False)]
    if len(several):
        raise InputError(
            f"{name} has files of one name in several folders: {some(sorted(set(several)))}; expected the paths in a "
            f"column {FILE_NAME} in place of image_id"
        )
    return raw.assign(image_id=names)


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
