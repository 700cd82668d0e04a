"""A folder with a table and images, in the layouts that people really have."""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from datasets import Dataset, Features, Image

from ham_hf.data.isic import NOT_SCORED, from_ground_truth, from_isic
from ham_hf.data.table import build_dataset, clean_table, read_csv, require_columns
from ham_hf.errors import InputError
from ham_hf.labels import diagnosis_code

_OFFICIAL = ("ham10000_metadata", "ham10000_metadata.csv", "ham10000_metadata.tab", "ham10000_metadata.tsv")
_GROUND_TRUTH = ("_groundtruth.csv", "_groundtruth.tab")
_LOOKED_FOR = (
    "HAM10000_metadata.csv (or HAM10000_metadata, HAM10000_metadata.tab), "
    "the metadata.csv of an ISIC Archive export (with a column isic_id), or ISIC 2018's …_GroundTruth.csv; "
    "--metadata_csv names any other"
)
_OPTIONAL = ("dx_type", "age", "sex", "localization")  # of a table of one's own
_SUFFIXES = (".jpg", ".jpeg", ".png")
_DEPTH = 3  # images lie in the folder itself or up to two folders below
# Of an image in a zip: HAM10000's have 0.3 MB, and compress by a hundredth
_MOST_BYTES = 100_000_000
_MOST_RATIO = 100


class ZipMember(NamedTuple):
    """A file in a zip."""

    archive: Path
    name: str


def read_folder(
    folder: Path, metadata_csv: Path | None = None, lesions_unknown: bool = False
) -> tuple[str, pd.DataFrame, Dataset]:
    """Read the table of `folder` and find the images.

    Args:
        folder: with the images, and the table under one of its usual names.
        metadata_csv: the table, where it has another name: columns image_id, lesion_id and dx, and any of dx_type,
            age, sex and localization.
        lesions_unknown: whether that table may lack lesion_id; every image is then a lesion of its own.

    Returns:
        "folder", "isic" or "isic2018"; the clean table, sorted by image_id; the canonical Dataset in the same
        order. Images on disk stay paths, those in a zip are read into the datasets cache as they are, and absent ones
        are None.

    Raises:
        InputError: no table, several, or one that does not fit; no image at all; two different files for an image.
    """
    path = metadata_csv or _find_table(folder)
    raw = _read_table(path)
    if path.name.lower().endswith(_GROUND_TRUTH) and "image_id" in raw.columns:
        # Harvard Dataverse's, in HAM10000's columns: it knows no lesion of this row, and has no image
        raw = raw[raw["image_id"] != NOT_SCORED]
    match raw.columns:
        case columns if "isic_id" in columns:
            kind, raw = "isic", from_isic(raw, path.name)
        case columns if {"image", "MEL", "NV"} <= set(columns):
            kind, raw = "isic2018", from_ground_truth(raw, path.name)
        case _:
            kind, raw = "folder", raw if metadata_csv is None else _with_optional(raw, path.name, lesions_unknown)
    table = clean_table(raw, f"{path.name}, line")
    table = table.sort_values("image_id", kind="stable", ignore_index=True)
    found = _find_images(folder, set(table["image_id"]))
    if not found:
        raise InputError(
            f"{folder} has a table of {len(table)} images and none of them: expected <image_id>.jpg in the folder, "
            "up to two folders below it, or in .zip files beside the table"
        )
    table["has_image"] = table["image_id"].isin(found.keys())
    return kind, table, build_dataset(table, _image_column([found.get(image_id) for image_id in table["image_id"]]))


def find_unscored(folder: Path, metadata_csv: Path | None = None) -> Dataset | None:
    """Return the one image that ISIC 2018 does not score, which `read_folder` leaves out.

    Returns:
        Columns image_id and image, without a row where the image is not there; None where the table does not list it.
    """
    path = metadata_csv or _find_table(folder)
    raw = _read_table(path)
    column = "image" if "image" in raw.columns else "image_id"
    if not path.name.lower().endswith(_GROUND_TRUTH) or column not in raw.columns:
        return None
    if NOT_SCORED not in raw[column].str.strip().tolist():
        return None
    images = _image_column([file for file in [_find_images(folder, {NOT_SCORED}).get(NOT_SCORED)] if file])
    return images.add_column("image_id", [NOT_SCORED] * len(images))


def _with_optional(raw: pd.DataFrame, name: str, lesions_unknown: bool) -> pd.DataFrame:
    require_columns(raw, ("image_id", "dx") if lesions_unknown else ("image_id", "lesion_id", "dx"), name)
    missing = {column: "" for column in _OPTIONAL if column not in raw.columns}
    if "lesion_id" not in raw.columns:
        missing["lesion_id"] = raw["image_id"]
    return raw.assign(**missing, dx=raw["dx"].map(lambda dx: diagnosis_code(dx) or dx))


def _find_table(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tables = [path for path in files if path.name.lower() in _OFFICIAL]
    if not tables:
        tables = [path for path in files if path.suffix.lower() == ".csv" and "isic_id" in _header(path)]
    if not tables:
        tables = [path for path in files if path.name.lower().endswith(_GROUND_TRUTH)]
    if not tables:
        tables = [path for path in files if path.name.lower() == "metadata.csv"]
    if not tables:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise InputError(f"no table of images in {folder}: looked for {_LOOKED_FOR}; found {there}")
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise InputError(f"several tables of images in {folder}: {names}; expected one, move the others elsewhere")
    return tables[0]


def _header(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline()


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is not there: expected a CSV with the columns image_id, lesion_id and dx")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: expected {_LOOKED_FOR}")
    raw = read_csv(path, "\t" if "\t" in _header(path) else ",")
    raw.index = range(2, len(raw) + 2)  # the header is line 1
    return raw


def _find_images(folder: Path, wanted: set[str]) -> dict[str, Path | ZipMember]:
    """Links are followed: images may lie elsewhere. A name of two different files is refused."""
    found: dict[str, Path | ZipMember] = {}
    contents: dict[str, tuple[int, int | None]] = {}  # bytes, and in a zip the checksum

    def add(image_id: str, file: Path | ZipMember, size: int, crc: int | None) -> None:
        # Kaggle's copy has every image twice, in HAM10000_images_part_1/ and ham10000_images_part_1/
        first, (first_size, first_crc) = found.setdefault(image_id, file), contents.setdefault(image_id, (size, crc))
        if size != first_size or (None not in (crc, first_crc) and crc != first_crc):
            raise InputError(f"two different files for image {image_id}: {first} and {file}; remove one")

    for depth in range(1, _DEPTH + 1):
        for path in sorted(folder.glob("/".join("*" * depth))):
            if path.suffix.lower() in _SUFFIXES and path.stem in wanted and path.is_file():
                add(path.stem, path, path.stat().st_size, None)
    for archive in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file()):
        for member in sorted(_members(archive, wanted), key=lambda member: member.filename):
            add(_stem(member), ZipMember(archive, member.filename), member.file_size, member.CRC)
    return found


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
        raise InputError(f"{archive} is no readable zip ({error}): download it again") from error
    members = [of for of in members if of.filename.lower().endswith(_SUFFIXES) and _stem(of) in wanted]
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
