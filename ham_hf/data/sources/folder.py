"""Read a folder with a table and images, in the layouts that people really have."""

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pandas as pd
from datasets import Dataset

from ham_hf.data.diagnoses import Diagnosed, DiagnosisMap, code_diagnoses, is_known
from ham_hf.data.image_files import (
    ZipMember,
    class_files,
    files_below,
    find_images,
    image_column,
    near_miss,
    warn_of_others,
)
from ham_hf.data.image_io import SUFFIXES
from ham_hf.data.lesions import Grouping, compare_lesions
from ham_hf.data.schema import (
    COLUMNS,
    REQUIRED,
    Source,
    build_dataset,
    clean_table,
    require_columns,
    some,
    text_or_none,
    without_suffix,
)
from ham_hf.data.sources.image_folder import (
    FILE_NAME,
    LABEL_COLUMNS,
    from_class_folders,
    from_file_names,
    inside,
    without_folders,
)
from ham_hf.data.sources.isic import (
    CHALLENGE_COLUMNS,
    DIAGNOSIS_COLUMNS,
    NOT_SCORED,
    OTHER_CHALLENGE_COLUMNS,
    SITE_COLUMNS,
    from_ground_truth,
    from_isic,
)
from ham_hf.data.spreadsheet import read_column_names, read_table
from ham_hf.system.errors import InputError

_OFFICIAL = ("ham10000_metadata", "ham10000_metadata.csv", "ham10000_metadata.tab", "ham10000_metadata.tsv")
_GROUND_TRUTH = ("_groundtruth.csv", "_groundtruth.tab")
_GROUPINGS = "lesiongroupings.csv"  # ISIC 2018: image, lesion_id, diagnosis_confirm_type
_IMAGE_COLUMNS = ("image_id", "isic_id", "image")  # of tables that name lesions
_LOOKED_FOR = (
    "HAM10000_metadata.csv (or HAM10000_metadata, HAM10000_metadata.tab), "
    "the metadata.csv of an ISIC Archive export (with a column isic_id), ISIC 2018's …_GroundTruth.csv, or a folder "
    "of images for each diagnosis; --metadata_csv names any other table, --diagnosis_map says what other folders hold"
)
# Recognized in any case: "Image ID" is image_id
_COLUMNS = (
    *(*COLUMNS, FILE_NAME, *LABEL_COLUMNS, "isic_id", "image", "age_approx", "diagnosis_confirm_type"),
    *(*CHALLENGE_COLUMNS, *OTHER_CHALLENGE_COLUMNS, *DIAGNOSIS_COLUMNS, *SITE_COLUMNS),
)
_OPTIONAL = ("dx_type", "age", "sex", "localization")  # of a user's own table


def read_folder(folder: Path, metadata_csv: Path | None = None, diagnosis_map: DiagnosisMap | None = None) -> Source:
    """Read the table of `folder` and find the images.

    Args:
        folder: with the images, and the table under one of its usual names; or with a folder of images for each
            diagnosis.
        metadata_csv: the table, where it has another name: columns image_id and dx, and any of lesion_id, dx_type,
            age, sex and localization.
        diagnosis_map: code of each diagnosis that is not known; None for one whose rows are dropped.

    Returns:
        The source, of the kind "folder", "imagefolder", "isic" or "isic2018", with a clean table (see `clean_table`).
        Images on disk stay paths, those in a zip are read into the datasets cache as they are, and absent ones are
        None.

    Raises:
        InputError: no table, several, or one that does not fit or contradicts the tables of lesions beside it; no
            image at all; two different files for an image.
    """
    path = metadata_csv or _find_table(folder, diagnosis_map or {})
    if path is None:
        images = class_files(folder)
        warn_of_others(folder, images)
        name, rows_are, raw = folder.name, "image", from_class_folders(images)
    else:
        name, rows_are, raw = path.name, "line", _read_table(path)
    groupings = _groupings_beside(path, folder)
    where = f"{name}, {rows_are}"
    kind, (rows, dropped) = _diagnosed(raw, where, metadata_csv is not None, diagnosis_map or {})
    table = clean_table(rows, where, groupings.values())
    for other, grouping in groupings.items():
        if separated := compare_lesions(table, grouping).separated:
            raise InputError(
                f"{name} has {len(separated)} lesions of {other} under several lesion_ids: {some(separated)}; "
                "correct one of the two tables, or move one elsewhere"
            )
    found: Mapping[str, Path | ZipMember]
    if kind == "imagefolder":
        found = _named_files(folder, rows)
    else:
        found = find_images(folder, set(table["image_id"]))
    table = table.sort_values("image_id", kind="stable", ignore_index=True)
    if not found:
        raise InputError(
            f"{folder} has a table of {len(table)} images and none of them: expected <image_id>.jpg in the folder, "
            "up to two folders below it, or in .zip files beside the table; other suffixes of images: "
            f"{', '.join(SUFFIXES[1:])}{near_miss(folder, table['image_id'])}"
        )
    table["has_image"] = table["image_id"].isin(found.keys())
    images = image_column([found.get(image_id) for image_id in table["image_id"]])
    return Source(kind, table, build_dataset(table, images), dropped)


def find_unscored(folder: Path, metadata_csv: Path | None = None) -> Dataset | None:
    """Return the one image that ISIC 2018 does not score, which `read_folder` leaves out.

    Returns:
        Columns image_id and image, without a row if the image is missing; None if the table does not list it.
    """
    path = metadata_csv or _find_table(folder, {})
    if path is None:
        return None
    raw = _read_table(path)
    column = "image" if "image" in raw.columns else "image_id"
    if not path.name.lower().endswith(_GROUND_TRUTH) or column not in raw.columns:
        return None
    if NOT_SCORED not in raw[column].str.strip().map(without_suffix).tolist():
        return None
    images = image_column([file for file in [find_images(folder, {NOT_SCORED}).get(NOT_SCORED)] if file])
    return images.add_column("image_id", [NOT_SCORED] * len(images))


def _diagnosed(raw: pd.DataFrame, where: str, own: bool, diagnosis_map: DiagnosisMap) -> tuple[str, Diagnosed]:
    """Return the kind of a table, and it with HAM10000's columns and codes; `own` ones may lack optional columns."""
    name = where.split(",")[0]
    match raw.columns:
        case columns if "isic_id" in columns:
            return "isic", from_isic(raw, name, diagnosis_map)
        case columns if {"image", "MEL", "NV"} <= set(columns):
            return "isic2018", from_ground_truth(raw, name, diagnosis_map)
        case columns if FILE_NAME in columns and "image_id" not in columns:
            kind, raw = "imagefolder", _with_optional(from_file_names(raw, name), name)
        case columns if FILE_NAME in columns:
            kind, raw = "imagefolder", _with_optional(raw, name)
        case _ if own:
            kind, raw = "folder", without_folders(_with_optional(raw, name), name)
        case _:
            require_columns(raw, REQUIRED, name)
            kind, raw = "folder", without_folders(raw, name)
    if name.lower().endswith(_GROUND_TRUTH):
        # Harvard Dataverse's, in HAM10000's columns: it knows no lesion of this row, and has no image
        raw = raw[raw["image_id"].str.strip().map(without_suffix) != NOT_SCORED]
    return kind, code_diagnoses(raw, raw["dx"], diagnosis_map, {}, where)


def _with_optional(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    require_columns(raw, ("image_id", "dx"), name)
    missing = {column: "" for column in _OPTIONAL if column not in raw.columns}
    return raw.assign(**missing)


def _groupings_beside(table: Path | None, folder: Path) -> dict[Path, Grouping]:
    """Return image_id → lesion_id of every other table in these folders that is known to have it, by its path."""
    places = {folder} if table is None else {table.parent, folder}
    files = {path.resolve() for place in places for path in place.iterdir() if path.is_file()}
    files -= set() if table is None else {table.resolve()}
    found = {}
    for path in sorted(files, key=lambda path: (not path.name.lower().endswith(_GROUPINGS), path)):
        name = path.name.lower()
        if name.startswith(".") or not (_is_table(name) or name.endswith((_GROUPINGS, "_metadata.csv"))):
            continue
        columns = read_column_names(path, _COLUMNS)
        column = next((name for name in _IMAGE_COLUMNS if name in columns), None)
        if column and "lesion_id" in columns:
            found[path] = _grouping(_read_table(path), column, path)
        elif name.endswith(_GROUPINGS):
            require_columns(_read_table(path), ("image", "lesion_id"), path.name)
    return found


def _grouping(rows: pd.DataFrame, column: str, path: Path) -> Grouping:
    images = rows[column].map(text_or_none).map(without_suffix, na_action="ignore")
    pairs = pd.DataFrame({"image": images, "lesion": rows["lesion_id"].map(text_or_none)})
    pairs = pairs.dropna().drop_duplicates()
    if twice := sorted(set(pairs.loc[pairs["image"].duplicated(), "image"])):
        raise InputError(f"{path} has {len(twice)} images in several lesions: {some(twice)}; expected one lesion each")
    return dict(zip(pairs["image"], pairs["lesion"], strict=True))


def _find_table(folder: Path, diagnosis_map: DiagnosisMap) -> Path | None:
    """Return the table of `folder`, None where folders of images stand for the diagnoses."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    ground_truths = [path for path in files if path.name.lower().endswith(_GROUND_TRUTH)]
    tables = [path for path in files if path.name.lower() in _OFFICIAL]
    if not tables:
        names = {path: read_column_names(path, _COLUMNS) for path in files if path.suffix.lower() == ".csv"}
        tables = [path for path in names if "isic_id" in names[path]]
        if ground_truths:  # without diagnoses, an export only tells more about the same images
            tables = [path for path in tables if set(DIAGNOSIS_COLUMNS) & set(names[path])] + ground_truths
    if not tables:
        tables = [path for path in files if path.name.lower() == "metadata.csv"]
    if not tables:
        folders = {PurePosixPath(file).parent.name for file in class_files(folder)}
        if any(is_known(name, diagnosis_map) for name in folders):
            return None
        raise InputError(_no_table(folder, files))
    if len(tables) > 1:
        listed = ", ".join(path.name for path in tables)
        raise InputError(f"several tables of images in {folder}: {listed}; choose one with --metadata_csv")
    return tables[0]


def _no_table(folder: Path, files: list[Path]) -> str:
    if packed := _packed_table(folder):
        return f"{packed}: unpack it, and use the folder with the table and the images"
    message = f"no table of images in {folder}: "
    if other := [path for path in files if path.stem.lower() in ("metadata", "ham10000_metadata")]:
        return f"{message}{other[0].name} is not supported; save it as {other[0].stem}.csv"
    if below := [path for path in files_below(folder) if _is_table(path.name.lower()) and path.is_file()]:
        return f"{message}{below[0].relative_to(folder)} is in a subfolder; use {below[0].parent} instead"
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    return f"{message}looked for {_LOOKED_FOR}; found {there}"


def _is_table(name: str) -> bool:
    return name in (*_OFFICIAL, "metadata.csv") or name.endswith(_GROUND_TRUTH)


def _named_files(folder: Path, rows: pd.DataFrame) -> dict[str, Path]:
    """Return image_id → file for the existing images of an imagefolder."""
    files = {image_id: inside(folder, file) for image_id, file in zip(rows["image_id"], rows[FILE_NAME], strict=True)}
    try:
        return {without_suffix(image_id): path for image_id, path in files.items() if path.is_file()}
    except OSError as error:  # of a name that is too long
        raise InputError(f"file_name {Path(error.filename).name[:80]!r}: {error.strerror}") from error


def _packed_table(folder: Path) -> str | None:
    """Return what a zip in `folder` holds that should lie beside it: a table of images, or the zips of Dataverse."""
    for archive in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file()):
        try:
            with zipfile.ZipFile(archive) as file:
                names = file.namelist()
        except (OSError, zipfile.BadZipFile):
            continue  # named when its images are looked for
        for name in names:
            base = name.rpartition("/")[2].lower()
            if _is_table(base) or base.endswith(".zip"):
                return f"{archive} contains {name}, which cannot be read inside a zip"
    return None


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a CSV with the columns image_id, lesion_id and dx")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: expected {_LOOKED_FOR}")
    return read_table(path, _COLUMNS)
