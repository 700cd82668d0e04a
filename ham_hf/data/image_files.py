"""Find the image files of a table, in a folder, in those below it and in zips, and read them."""

import hashlib
import logging
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, Image

from ham_hf.data.file_formats import LFS_POINTER, UNREADABLE_SUFFIXES, is_lfs_pointer
from ham_hf.data.image_io import SUFFIXES, list_suffixes
from ham_hf.data.schema import without_suffix
from ham_hf.system.errors import InputError

logger = logging.getLogger("ham_hf.data")

_DEPTH = 3  # images lie in the folder itself or up to two folders below
# Of an image in a zip: HAM10000's have 0.3 MB, and compress by a hundredth
_MOST_BYTES = 100_000_000
_MOST_RATIO = 100


class ZipMember(NamedTuple):
    """A file in a zip."""

    archive: Path
    name: str


def files_below(folder: Path) -> list[Path]:
    """Return the entries of `folder` and of the folders below it, without hidden ones and those that macOS adds."""
    paths = (path for depth in range(1, _DEPTH + 1) for path in sorted(folder.glob("/".join("*" * depth))))
    return [path for path in paths if not _is_hidden(path.relative_to(folder).parts)]


def class_files(folder: Path) -> list[str]:
    """Return the images in folders below `folder`, by their paths relative to it.

    Broken links are among them, and files that are recognized and never read (DICOM, raw), so that they are reported:
    the latter only without an image of the same name beside them, such as the movie of a live photo has.
    """
    files = [path for path in files_below(folder) if path.parent != folder and (path.is_file() or path.is_symlink())]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    there = {path.with_suffix("") for path in images}
    unreadable = [path for path in files if path.suffix.lower() in UNREADABLE_SUFFIXES]
    images += [path for path in unreadable if path.with_suffix("") not in there]
    return [path.relative_to(folder).as_posix() for path in images]


def warn_of_others(folder: Path, images: Iterable[str]) -> None:
    """Name what class folders hold beside `images`, and the zips beside them: nobody should miss a class."""
    read = {folder / image for image in images}
    others = [path for path in files_below(folder) if path.is_file() and path not in read]
    others = [path for path in others if path.parent != folder or path.suffix.lower() == ".zip"]
    if others:
        counts = list_suffixes(Counter(path.suffix.lower() for path in others))
        logger.warning("%s: files that are not read as images of class folders: %s", folder, counts)


def near_miss(folder: Path, image_ids: Iterable[str]) -> str:
    """Return a sentence about a file that is probably one of the images that were not found, or ""."""
    wanted = {_rough(image_id): image_id for image_id in image_ids}
    for path in files_below(folder):
        if _rough(path.name) in wanted and path.is_file():
            name = wanted[_rough(path.name)]
            return f". Is {path.name} image {name!r}? Then make the names agree: expected {name}.jpg"
    return ""


def _rough(name: str) -> str:
    """Return a name without what gets lost: case, suffixes, leading zeros, and the .0 that pandas adds to numbers."""
    stem = unicodedata.normalize("NFC", without_suffix(without_suffix(name)).casefold())
    return stem.removesuffix(".0").lstrip("0")


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def find_images(folder: Path, wanted: set[str]) -> dict[str, Path | ZipMember]:
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

    files = files_below(folder)
    for path in files:
        if path.suffix.lower() in SUFFIXES and path.stem in wanted and path.is_file():
            add(path.stem, path, path.stat().st_size, None)
    unreadable: dict[str, Path | ZipMember] = {}
    for archive in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file()):
        for member in sorted(_members(archive, wanted), key=lambda member: member.filename):
            if member.filename.lower().endswith(SUFFIXES):
                add(_stem(member), ZipMember(archive, member.filename), member.file_size, member.CRC)
            else:
                unreadable.setdefault(_stem(member), ZipMember(archive, member.filename))
    for path in files:
        if path.suffix.lower() in UNREADABLE_SUFFIXES and path.stem in wanted and path.is_file():
            unreadable.setdefault(path.stem, path)
    return unreadable | found


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
    """Return the members named like wanted images, in any folder; nothing is ever unpacked under its own name.

    Raises:
        InputError: the zip cannot be read, or a member is none that an image could be.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
    except Exception as error:  # besides BadZipFile, whatever a broken directory makes of zipfile's arithmetic
        if is_lfs_pointer(archive.read_bytes()[:100]):
            raise InputError(f"{archive} is {LFS_POINTER}") from error
        raise InputError(f"{archive} is not a readable zip file ({error}): download it again") from error
    known = (*SUFFIXES, *UNREADABLE_SUFFIXES)
    members = [member for member in members if member.filename.lower().endswith(known) and _stem(member) in wanted]
    members = [member for member in members if not _is_hidden(member.filename.split("/")[-1:])]
    members = [member for member in members if "__MACOSX" not in member.filename.split("/")]
    for member in members:
        if wrong := _wrong_with(member):
            raise InputError(f"{archive}/{member.filename} {wrong}")
    if sum(member.compress_size for member in members) > archive.stat().st_size:
        raise InputError(f"{archive} has members that overlap, as no zip program makes them: download it again")
    return members


def _wrong_with(member: zipfile.ZipInfo) -> str | None:
    """Return why a member cannot be an image, such as a small file that unpacks to a huge one; None if it can."""
    if member.flag_bits & 1:
        return "is encrypted: unpack the zip"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}: expected stored or deflated; zip it again"
    if member.file_size > _MOST_BYTES:
        return f"has {member.file_size:,} bytes: expected at most {_MOST_BYTES:,}; remove it from the zip"
    if member.file_size > _MOST_RATIO * max(member.compress_size, 10_000):
        return (
            f"unpacks from {member.compress_size:,} bytes to {member.file_size:,}: expected {_MOST_RATIO} times as "
            "many at most, because images hardly compress; remove it from the zip"
        )
    return None


def image_column(files: list[Path | ZipMember | None]) -> Dataset:
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
                    yield {"image": {"bytes": read_member(archives[archive], name), "path": f"{archive}/{name}"}}
                case path:
                    yield {"image": {"bytes": None, "path": str(path)}}


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception:  # besides BadZipFile, whatever zipfile and zlib make of damaged bytes
        return b""  # no image: the check of all images names it with the other broken ones
