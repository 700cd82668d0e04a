"""Decoded images on disk, so that no epoch decodes them again: one memory map, bit for bit what decoding gives.

A cache is one file in the datasets cache: the pixels of every image one after another, at full resolution, then an
index and its checksum. Its name says what is in it: the contents of the images, and what decoded them. It is written
under another name and renamed when it is whole.

There is no lossless tile cache (JPEGs with restart markers, of which only the crop's tiles are decoded) beside it. To
write one takes jpegtran's lossless transcoding, and no package on PyPI was found that brings it: simplejpeg decodes
whole images, PyTurboJPEG and jpegtran call a library or a program that has to be on the machine, jpegtran-cffi (2015)
did not build. It would save disk, not time: the map reads faster than tiles decode.
"""

import hashlib
import json
import logging
import mmap
import os
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import datasets
import numpy as np
import PIL.Image
from datasets.utils import tqdm

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.image_io import DECODING, encoded_bytes, image_size, read_image
from ham_hf.system.errors import InputError, MachineError, error_kind
from ham_hf.system.files import one_at_a_time

logger = logging.getLogger("ham_hf.data")

_FORMAT = 1
_MAGIC = f"ham_hf pixels {_FORMAT:2}".encode()
# Another Pillow may bring another libjpeg, and with it other pixels
PIXELS: dict[str, Any] = {
    "what": "pixels",
    "format": _FORMAT,
    "decoding": DECODING,
    "versions": {"pillow": version("pillow")},
}
_TRAILER = struct.Struct("<16sQ32s")  # magic, bytes of the index before it, SHA-256 of the index
_REMEDY = "make room there, set HF_DATASETS_CACHE to a folder on a larger disk, or go on without the cache"


class _Damaged(ValueError):
    pass


class PixelCache:
    """Decoded images, full resolution, uint8, memory-mapped.

    Threads may share one. A copy that was pickled for a worker process opens the file again when it is first asked.
    """

    def __init__(self, path: Path):
        self.path = path
        self._map()

    @classmethod
    def open(cls, sha256s: Sequence[str]) -> "PixelCache | None":
        """The cache that holds all these images (by SHA-256 of the encoded bytes), None if none does."""
        return find_cache(PIXELS, sha256s)

    def __getitem__(self, sha256: str) -> np.ndarray:
        """(H, W, 3) uint8, a read-only view into the map, no copy. KeyError for an image that is not in it."""
        if self._pixels is None:
            self._map_again()
        offset, height, width = self._images[sha256]
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    def __contains__(self, sha256: object) -> bool:
        if self._pixels is None:
            self._map_again()
        return sha256 in self._images

    def __len__(self) -> int:
        if self._pixels is None:
            self._map_again()
        return len(self._images)

    def __getstate__(self) -> dict:
        return {"path": self.path, "_pixels": None}

    def _map_again(self) -> None:
        """Map the file in a worker process, which opens it later than its parent did."""
        try:
            self._map()
        except (OSError, _Damaged) as error:
            raise MachineError(
                f"the pixel cache {self.path} is gone or damaged ({error}): run the same command again, a training "
                "with --resume, and it is built again"
            ) from error

    def _map(self) -> None:
        with self.path.open("rb") as file:
            self.kind, self._images, size = _read_index(file)
            pixels = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8, size)
        self._pixels = pixels  # last: another thread goes by it


class CacheFile(NamedTuple):
    """A file of the cache folder. `what` is "pixels" or "crops", and None where `state` is not "complete"."""

    path: Path
    nbytes: int
    state: str
    images: int
    what: str | None


class EncodedImages:
    """The images of `dataset` that decode, each content once, by the SHA-256 of its encoded bytes.

    Args:
        dataset: canonical columns.
        checks: what `check_images` found, by image_id.
    """

    def __init__(self, dataset: datasets.Dataset, checks: Mapping[str, ImageCheck]):
        self._rows: dict[str, int] = {}
        for row, image_id in enumerate(dataset["image_id"][:]):
            if image_id in checks and checks[image_id].error is None:
                self._rows.setdefault(checks[image_id].sha256, row)
        self._cells = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))

    @property
    def sha256s(self) -> Collection[str]:
        """Of every content, once."""
        return self._rows.keys()

    def read(self, sha256: str) -> bytes:
        """The encoded bytes."""
        return encoded_bytes(self._cells[self._rows[sha256]]["image"])


def build_cache(dataset: datasets.Dataset, checks: Mapping[str, ImageCheck]) -> PixelCache:
    """The cache of all images of `dataset` that decode; built, with a progress bar, where there is none yet.

    Of several processes that ask at once one builds, and the others wait for it.

    Args:
        dataset: canonical columns.
        checks: what `check_images` found in it, by image_id.

    Raises:
        MachineError: the disk is too small (known before the first image is decoded) or filled up meanwhile, or an
            image changed since it was checked.
        InputError: the folder cannot be written.
    """
    return open_or_build(PIXELS, EncodedImages(dataset, checks), image_size, np.asarray, "Caching pixels")


def open_or_build(
    kind: Mapping,
    images: EncodedImages,
    size: Callable[[bytes], tuple[int, int]],
    convert: Callable[[PIL.Image.Image], np.ndarray],
    description: str,
) -> PixelCache:
    """The cache of `convert(read_image(…))` for each of `images`.

    Args:
        kind: JSON of all that decides about the pixels besides the images.
        size: (height, width) of the result for the encoded bytes; (width, height) does as well.
        convert: RGB image → (H, W, 3) uint8.
        description: for the progress bar.
    """
    if not images.sha256s:
        raise InputError("there is no image to cache: none of them is there and decodes")
    if cache := find_cache(kind, images.sha256s):
        return cache
    with _only_one(cache_folder()):
        if cache := find_cache(kind, images.sha256s):  # made by the one that was waited for
            return cache
        for path in cache_folder().glob("*.unfinished"):
            path.unlink()  # whoever wrote it is dead: the lock is ours
        path = cache_folder() / f"{_key(kind, images.sha256s)}.pixels"
        if path.exists():
            logger.warning("the pixel cache %s is damaged: it is built again", path)
            path.unlink()
        return _build(path, kind, images, size, convert, description)


def find_cache(kind: Mapping, sha256s: Collection[str]) -> PixelCache | None:
    """A whole cache of that kind with all these images, and perhaps others."""
    exact = cache_folder() / f"{_key(kind, sha256s)}.pixels"
    for path in (exact, *sorted(set(cache_folder().glob("*.pixels")) - {exact})):
        try:
            cache = PixelCache(path)
        except (FileNotFoundError, _Damaged):
            continue
        if cache.kind == kind and all(sha256 in cache for sha256 in sha256s):
            return cache
    return None


def cache_folder() -> Path:
    """Where the caches are, under HF_DATASETS_CACHE."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf" / "pixels"


def list_caches() -> list[CacheFile]:
    """What lies in the cache folder; `state` is complete, outdated, damaged, or unfinished."""
    found = []
    for path in sorted(cache_folder().glob("*.pixels")):
        try:
            cache = PixelCache(path)
        except _Damaged as error:
            found.append(CacheFile(path, path.stat().st_size, f"damaged ({error})", 0, None))
            continue
        others = [f"{name} {number}" for name, number in cache.kind["versions"].items() if version(name) != number]
        if cache.kind.get("decoding", 1) != DECODING:
            others.append("another decoding")
        state = f"outdated (made with {', '.join(others)})" if others else "complete"
        found.append(CacheFile(path, path.stat().st_size, state, len(cache), cache.kind["what"]))
    for path in sorted(cache_folder().glob("*.unfinished")):
        state = "unfinished (being built, or left by a build that was killed)"
        found.append(CacheFile(path, path.stat().st_size, state, 0, None))
    return found


def clear_caches() -> int:
    """Remove every cache and what killed builds left, after a build that is going on; the bytes that this frees.

    A process that reads one goes on reading it: its pages stay until it ends.
    """
    if not cache_folder().is_dir():
        return 0
    freed = 0
    with _only_one(cache_folder()):
        for pattern in ("*.pixels", "*.unfinished"):
            for path in cache_folder().glob(pattern):
                freed += path.stat().st_blocks * 512  # one that is unfinished has holes
                path.unlink()
    return freed


def _key(kind: Mapping, sha256s: Collection[str]) -> str:
    lines = [json.dumps(kind, sort_keys=True), *sorted(sha256s)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One lock for the whole folder: builders would compete for the processor, and for the same free bytes."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(one_at_a_time(folder / "lock", f"building a pixel cache in {folder}"))
        except OSError as error:
            said = f"the pixel cache cannot be written in {folder}: {error.strerror}; {_REMEDY}"
            raise error_kind(error)(said) from error
        yield


def _build(
    path: Path,
    kind: Mapping,
    images: EncodedImages,
    size: Callable[[bytes], tuple[int, int]],
    convert: Callable[[PIL.Image.Image], np.ndarray],
    description: str,
) -> PixelCache:
    shas = sorted(images.sha256s)
    # Reading and decoding free the interpreter lock: threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(lambda sha256: size(images.read(sha256)), shas))
    *offsets, total = np.cumsum([0, *(height * width * 3 for height, width in sizes)]).tolist()
    # To the byte: a photograph that is turned has as many pixels, and its entry in the index as many digits
    needed = total + len(_index(kind, shas, offsets, sizes))
    free = _check_room(path.parent, len(shas), needed)

    def add(sha256: str, offset: int, size: tuple[int, int]) -> tuple[int, int]:
        pixels = np.ascontiguousarray(convert(read_image(images.read(sha256))))
        if pixels.nbytes != size[0] * size[1] * 3:
            raise MachineError(f"the image with SHA-256 {sha256} has changed since it was checked: start again")
        _write(file, pixels.data.cast("B"), offset)
        return pixels.shape[:2]

    unfinished = path.with_suffix(".unfinished")
    with _explained(path.parent, needed, free), unfinished.open("wb", buffering=0) as file:
        try:
            # No thread writes any more when the file is closed
            with (
                ThreadPoolExecutor(os.cpu_count()) as pool,
                closing(pool.map(add, shas, offsets, sizes)) as jobs,  # type: ignore[type-var]  # a generator
            ):
                sizes = list(tqdm(jobs, total=len(shas), desc=description, unit=" images"))
            _write(file, memoryview(_index(kind, shas, offsets, sizes)), total)
            os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:  # Ctrl-C as well
            unfinished.unlink(missing_ok=True)
            raise
    return PixelCache(path)


def _check_room(folder: Path, count: int, needed: int) -> int:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MachineError(
            f"the pixel cache of {count:,} images needs {needed:,} bytes and {free:,} are free in {folder}: {_REMEDY}"
        )
    return free


@contextmanager
def _explained(folder: Path, needed: int, free: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise  # Pillow's, about an image
        raise error_kind(error)(
            f"the pixel cache could not be written in {folder} ({error.strerror}): it needs {needed:,} bytes, of "
            f"which {free:,} were free when it was begun. What was written is removed again; {_REMEDY}"
        ) from error


def _write(file: BinaryIO, data: memoryview, offset: int) -> None:
    """Through a call, not a map: on a full disk this is an error, where a write to a map kills the process."""
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


def _index(kind: Mapping, shas: Sequence[str], offsets: Sequence[int], sizes: Sequence[tuple[int, int]]) -> bytes:
    """What stands behind the pixels: the index, its length and its checksum."""
    images = {sha256: (offset, *size) for sha256, offset, size in zip(shas, offsets, sizes, strict=True)}
    text = json.dumps({"kind": kind, "images": images}, separators=(",", ":")).encode()
    return text + _TRAILER.pack(_MAGIC, len(text), hashlib.sha256(text).digest())


def _read_index(file: BinaryIO) -> tuple[dict, dict[str, list[int]], int]:
    """Kind, [offset, height, width] of each image, and the bytes of all pixels."""
    begin = file.seek(0, os.SEEK_END) - _TRAILER.size
    if begin < 0:
        raise _Damaged("cut off")
    file.seek(begin)
    magic, length, digest = _TRAILER.unpack(file.read())
    if magic != _MAGIC or length > begin:
        raise _Damaged("cut off, or overwritten at its end")
    file.seek(begin - length)
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise _Damaged("its index does not match its checksum")
    index = json.loads(text)
    offset, height, width = max(index["images"].values())
    if offset + height * width * 3 != begin - length:
        raise _Damaged("pixels are missing")
    return index["kind"], index["images"], begin - length
