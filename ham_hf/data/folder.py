"""A folder with a table and images, in the layouts that people really have."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from datasets import Dataset, Features, Image

from ham_hf.data.diagnoses import Diagnosed, DiagnosisMap, code_diagnoses
from ham_hf.data.image_folder import FILE_NAME, from_class_folders, from_file_names, inside
from ham_hf.data.isic import NOT_SCORED, from_ground_truth, from_isic
from ham_hf.data.lesions import Grouping, compare_lesions
from ham_hf.data.spreadsheet import read_column_names, read_table
from ham_hf.data.table import (
    REQUIRED,
    Source,
    build_dataset,
    clean_table,
    lesion_or_none,
    require_columns,
    some,
    text_or_none,
    without_suffix,
)
from ham_hf.errors import InputError
from ham_hf.formats import LFS_POINTER, UNREADABLE_SUFFIXES, is_lfs_pointer
from ham_hf.labels import diagnosis_code
from ham_hf.photos import SUFFIXES

_OFFICIAL = ("ham10000_metadata", "ham10000_metadata.csv", "ham10000_metadata.tab", "ham10000_metadata.tsv")
_GROUND_TRUTH = ("_groundtruth.csv", "_groundtruth.tab")
_GROUPINGS = "lesiongroupings.csv"  # ISIC 2018: image, lesion_id, diagnosis_confirm_type
_IMAGE_COLUMNS = ("image_id", "isic_id", "image")  # of tables that name lesions
_LOOKED_FOR = (
    "HAM10000_metadata.csv (or HAM10000_metadata, HAM10000_metadata.tab), "
    "the metadata.csv of an ISIC Archive export (with a column isic_id), or ISIC 2018's …_GroundTruth.csv; "
    "--metadata_csv names any other"
)
_OPTIONAL = ("dx_type", "age", "sex", "localization")  # of a table of one's own
_DEPTH = 3  # images lie in the folder itself or up to two folders below
# Of an image in a zip: HAM10000's have 0.3 MB, and compress by a hundredth
_MOST_BYTES = 100_000_000
_MOST_RATIO = 100


class ZipMember(NamedTuple):
    """A file in a zip."""

    archive: Path
    name: str


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
    path = metadata_csv or _find_table(folder)
    if path is None:
        name, rows_are, raw, groupings = folder.name, "image", from_class_folders(_class_files(folder)), {}
    else:
        name, rows_are, raw, groupings = path.name, "line", _read_table(path), _groupings_beside(path, folder)
    where = f"{name}, {rows_are}"
    kind, (rows, dropped) = _diagnosed(raw, where, metadata_csv is not None, diagnosis_map or {})
    table = clean_table(rows, where, groupings.values())
    for other, grouping in groupings.items():
        if separated := compare_lesions(table, grouping).separated:
            raise InputError(
                f"{name} has {len(separated)} lesions of {other} under several lesion_ids: {some(separated)}; "
                "correct one of the two tables, or move one elsewhere"
            )
    if kind == "imagefolder":
        found = _named_files(folder, rows)
    else:
        found = _find_images(folder, set(table["image_id"]))
    table = table.sort_values("image_id", kind="stable", ignore_index=True)
    if not found:
        raise InputError(
            f"{folder} has a table of {len(table)} images and none of them: expected <image_id>.jpg in the folder, "
            "up to two folders below it, or in .zip files beside the table; other suffixes of images: "
            f"{', '.join(SUFFIXES[1:])}"
        )
    table["has_image"] = table["image_id"].isin(found.keys())
    images = _image_column([found.get(image_id) for image_id in table["image_id"]])
    return Source(kind, table, build_dataset(table, images), dropped)


def find_unscored(folder: Path, metadata_csv: Path | None = None) -> Dataset | None:
    """Return the one image that ISIC 2018 does not score, which `read_folder` leaves out.

    Returns:
        Columns image_id and image, without a row where the image is not there; None where the table does not list it.
    """
    path = metadata_csv or _find_table(folder)
    if path is None:
        return None
    raw = _read_table(path)
    column = "image" if "image" in raw.columns else "image_id"
    if not path.name.lower().endswith(_GROUND_TRUTH) or column not in raw.columns:
        return None
    if NOT_SCORED not in raw[column].str.strip().map(without_suffix).tolist():
        return None
    images = _image_column([file for file in [_find_images(folder, {NOT_SCORED}).get(NOT_SCORED)] if file])
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
            kind, raw = "folder", _with_optional(raw, name)
        case _:
            kind = "folder"
            require_columns(raw, REQUIRED, name)
    if name.lower().endswith(_GROUND_TRUTH):
        # Harvard Dataverse's, in HAM10000's columns: it knows no lesion of this row, and has no image
        raw = raw[raw["image_id"].str.strip().map(without_suffix) != NOT_SCORED]
    return kind, code_diagnoses(raw, raw["dx"], diagnosis_map, {}, where)


def _with_optional(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    require_columns(raw, ("image_id", "dx"), name)
    missing = {column: "" for column in _OPTIONAL if column not in raw.columns}
    return raw.assign(**missing)


def _groupings_beside(table: Path, folder: Path) -> dict[Path, Grouping]:
    """Return image_id → lesion_id of every other table in these folders that is known to have it, by its path."""
    files = {path.resolve() for place in (table.parent, folder) for path in place.iterdir() if path.is_file()}
    found = {}
    for path in sorted(files - {table.resolve()}, key=lambda path: (not path.name.lower().endswith(_GROUPINGS), path)):
        is_groupings = path.name.lower().endswith(_GROUPINGS)
        if not is_groupings and path.name.lower() not in (*_OFFICIAL, "metadata.csv"):
            continue
        rows = _read_table(path)
        column = next((name for name in _IMAGE_COLUMNS if name in rows.columns), None)
        if column and "lesion_id" in rows.columns:
            found[path] = _grouping(rows, column, path)
        elif is_groupings:
            require_columns(rows, ("image", "lesion_id"), path.name)
    return found


def _grouping(rows: pd.DataFrame, column: str, path: Path) -> Grouping:
    images = rows[column].map(text_or_none).map(without_suffix, na_action="ignore")
    pairs = pd.DataFrame({"image": images, "lesion": rows["lesion_id"].map(lesion_or_none)})
    pairs = pairs.dropna().drop_duplicates()
    if twice := sorted(set(pairs.loc[pairs["image"].duplicated(), "image"])):
        raise InputError(f"{path} has {len(twice)} images in several lesions: {some(twice)}; expected one lesion each")
    return dict(zip(pairs["image"], pairs["lesion"], strict=True))


def _find_table(folder: Path) -> Path | None:
    """Return the table of `folder`, None where folders of images stand for the diagnoses."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tables = [path for path in files if path.name.lower() in _OFFICIAL]
    if not tables:
        tables = [path for path in files if path.suffix.lower() == ".csv" and "isic_id" in read_column_names(path)]
    if not tables:
        tables = [path for path in files if path.name.lower().endswith(_GROUND_TRUTH)]
    if not tables:
        tables = [path for path in files if path.name.lower() == "metadata.csv"]
    if not tables and any(diagnosis_code(PurePosixPath(file).parent.name) for file in _class_files(folder)):
        return None
    if not tables:
        if packed := _packed_table(folder):
            raise InputError(f"{packed}: unpack it, and name the folder with the table and the images")
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise InputError(f"no table of images in {folder}: looked for {_LOOKED_FOR}; found {there}")
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise InputError(f"several tables of images in {folder}: {names}; expected one, move the others elsewhere")
    return tables[0]


def _class_files(folder: Path) -> list[str]:
    """Return the images in folders below `folder`, by their paths relative to it."""
    paths = (path for depth in range(2, _DEPTH + 1) for path in folder.glob("/".join("*" * depth)))
    files = [path.relative_to(folder) for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)]


def _named_files(folder: Path, rows: pd.DataFrame) -> dict[str, Path]:
    """Return image_id → file for the images of an imagefolder that are there."""
    files = {image_id: inside(folder, file) for image_id, file in zip(rows["image_id"], rows[FILE_NAME], strict=True)}
    return {without_suffix(image_id): path for image_id, path in files.items() if path.is_file()}


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
            if base in (*_OFFICIAL, "metadata.csv") or base.endswith((*_GROUND_TRUTH, ".zip")):
                return f"{archive} holds {name}, which is not read inside a zip"
    return None


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is not there: expected a CSV with the columns image_id, lesion_id and dx")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: expected {_LOOKED_FOR}")
    return read_table(path)


def _find_images(folder: Path, wanted: set[str]) -> dict[str, Path | ZipMember]:
    """Return image_id → its file. Links are followed: images may lie elsewhere.

    A file whose suffix says that it cannot be read (DICOM, raw) is taken where there is no other, so that the check of
    all images says so instead of calling it missing.

    Raises:
        InputError: two different files have the name of one image.
    """
    found: dict[str, Path | ZipMember] = {}
    checksums: dict[str, tuple[int, int | None]] = {}  # bytes, and in a zip the CRC-32

    def add(image_id: str, file: Path | ZipMember, size: int, crc: int | None) -> None:
        # Kaggle's copy has every image twice, in HAM10000_images_part_1/ and ham10000_images_part_1/
        first = found.setdefault(image_id, file)
        first_size, first_crc = checksums.setdefault(image_id, (size, crc))
        if first is not file and (size != first_size or not _is_same(first, first_crc, file, crc)):
            raise InputError(f"two different files for image {image_id}: {_name(first)} and {_name(file)}; remove one")

    files = [path for depth in range(1, _DEPTH + 1) for path in sorted(folder.glob("/".join("*" * depth)))]
    for path in files:
        if path.suffix.lower() in SUFFIXES and path.stem in wanted and path.is_file():
            add(path.stem, path, path.stat().st_size, None)
    for archive in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file()):
        for member in sorted(_members(archive, wanted), key=lambda member: member.filename):
            add(_stem(member), ZipMember(archive, member.filename), member.file_size, member.CRC)
    for path in files:
        if path.suffix.lower() in UNREADABLE_SUFFIXES and path.stem in wanted - found.keys() and path.is_file():
            found[path.stem] = path
    return found


def _is_same(first: Path | ZipMember, first_crc: int | None, second: Path | ZipMember, crc: int | None) -> bool:
    """Return whether two files of the same size have the same content; by CRC-32 where one is in a zip."""
    match first, second:
        case Path(), Path():
            return first.samefile(second) or _content(first) == _content(second)
        case Path(), ZipMember():
            return zlib.crc32(_content(first)) == crc
    return first_crc == crc


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _name(file: Path | ZipMember) -> str:
    return f"{file.archive}/{file.name}" if isinstance(file, ZipMember) else str(file)


def _stem(member: zipfile.ZipInfo) -> str:
    return member.filename.rpartition("/")[2].rpartition(".")[0]


def _members(archive: Path, wanted: set[str]) -> list[zipfile.ZipInfo]:
    """The members that are called like wanted images, wherever they lie: nothing is ever unpacked under its name.

    Raises:
        InputError: the zip cannot be read, or a member is none that an image could be.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
    except Exception as error:  # besides BadZipFile, whatever a broken directory makes of zipfile's arithmetic
        if is_lfs_pointer(archive.read_bytes()[:100]):
            raise InputError(f"{archive} is {LFS_POINTER}") from error
        raise InputError(f"{archive} is no readable zip ({error}): download it again") from error
    members = [of for of in members if of.filename.lower().endswith(SUFFIXES) and _stem(of) in wanted]
    for member in members:
        if wrong := _wrong_with(member):
            raise InputError(f"{archive}/{member.filename} {wrong}")
    if sum(member.compress_size for member in members) > archive.stat().st_size:
        raise InputError(f"{archive} has members that overlap, as no zip program makes them: download it again")
    return members


def _wrong_with(member: zipfile.ZipInfo) -> str | None:
    """What no image in a zip is, and a small file that unpacks to a huge one may be."""
    if member.flag_bits & 1:
        return "is encrypted: unpack the zip"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}: expected stored or deflated; zip it again"
    if member.file_size > _MOST_BYTES:
        return f"has {member.file_size:,} bytes: expected an image of {_MOST_BYTES:,} at most; leave it out"
    if member.file_size > _MOST_RATIO * max(member.compress_size, 10_000):
        return (
            f"unpacks from {member.compress_size:,} bytes to {member.file_size:,}: expected {_MOST_RATIO} times as "
            "many at most, for an image hardly compresses; leave it out"
        )
    return None


def _image_column(files: list[Path | ZipMember | None]) -> Dataset:
    features = Features({"image": Image()})
    if any(isinstance(file, ZipMember) for file in files):
        # Onto disk, once, and mapped from there: the two official zips hold 2.8 GB
        return Dataset.from_generator(
            _cells,
            features=features,
            gen_kwargs={"files": tuple(files)},  # a list would be taken for shards: one call, and one open zip, a file
            fingerprint=_fingerprint(files),
        )
    cells = [None if file is None else {"bytes": None, "path": str(file)} for file in files]
    return Dataset.from_dict({"image": cells}, features=features)


def _fingerprint(files: list[Path | ZipMember | None]) -> str:
    archives = {file.archive for file in files if isinstance(file, ZipMember)}
    stamps = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in archives)
    return hashlib.sha256(repr((stamps, list(map(str, files)))).encode()).hexdigest()[:32]


def _cells(files: tuple[Path | ZipMember | None, ...]) -> Iterator[dict]:
    with ExitStack() as stack:
        archives = {
            path: stack.enter_context(zipfile.ZipFile(path))
            for path in {file.archive for file in files if isinstance(file, ZipMember)}
        }
        for file in files:
            match file:
                case None:
                    yield {"image": None}
                case ZipMember(archive, name):
                    yield {"image": {"bytes": _read_member(archives[archive], name), "path": f"{archive}/{name}"}}
                case path:
                    yield {"image": {"bytes": None, "path": str(path)}}


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception:  # besides BadZipFile, whatever zipfile and zlib make of damaged bytes
        return b""  # no image: the check of all images names it with the other broken ones
