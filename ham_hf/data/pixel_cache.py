"""Keep decoded images in a memory-mapped NumPy file, so that no epoch decodes them again.

A cache is two files in the datasets cache: KEY.npy has the pixels of all images one after another, at full resolution
and bit for bit as decoded; KEY.json says where each image starts. KEY is a hash of the images' contents and of what
decoded them. The index is written last, so a build that was killed leaves nothing that looks like a cache.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
from datasets.utils import tqdm

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.image_io import DECODING, encoded_bytes, image_size, read_image
from ham_hf.system.errors import InputError, MachineError, error_kind
from ham_hf.system.files import one_at_a_time, replace_file

logger = logging.getLogger("ham_hf.data")

# A different Pillow may come with a different libjpeg, and so give different pixels
PIXELS: dict[str, Any] = {
    "what": "pixels",
    "format": 2,
    "decoding": DECODING,
    "versions": {"pillow": version("pillow")},
}
_CHUNK = 64  # images decoded before they are written: bounds the memory where the disk is slower than the decoder
FORMER = "*.pixels"  # caches of ham_hf 0.1.0, which this version does not read
_REMEDY = "free some space, set HF_DATASETS_CACHE to a folder on a larger disk, or run without the cache"


class _Damaged(ValueError):
    pass


class PixelCache:
    """Decoded images at full resolution, uint8, memory-mapped.

    Threads may share one. A copy that was pickled for a worker process opens the files on first use.
    """

    def __init__(self, path: Path):
        self.path = path
        self._map()

    @classmethod
    def open(cls, sha256s: Collection[str]) -> "PixelCache | None":
        """Return a cache with all these images (by SHA-256 of the encoded bytes), or None if there is none."""
        return find_cache(PIXELS, sha256s)

    def __getitem__(self, sha256: str) -> np.ndarray:
        """Return the pixels (H, W, 3) of an image, as a read-only view into the file; KeyError if it has none."""
        offset, height, width = self._places()[sha256]
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._places()

    def __len__(self) -> int:
        return len(self._places())

    def __getstate__(self) -> dict:
        return {"path": self.path, "_pixels": None}

    def _places(self) -> dict[str, list[int]]:
        """Return the offset, height and width of each image."""
        if self._pixels is None:
            try:
                self._map()
            except (OSError, _Damaged) as error:
                raise MachineError(
                    f"the pixel cache {self.path} is gone or damaged ({error}): run the same command again (with "
                    "--resume for training) to build it again"
                ) from error
        return self._images

    def _map(self) -> None:
        try:
            pixels = np.asarray(np.lib.format.open_memmap(self.path, mode="r"))  # memmap itself is slow to slice
            index = json.loads(_index_path(self.path).read_bytes())
            self.kind, self._images = index["kind"], index["images"]
            offset, height, width = max(self._images.values())
        except FileNotFoundError as error:
            if error.filename == str(self.path):
                raise
            raise _Damaged("no index") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _Damaged(str(error)) from error
        if pixels.dtype != np.uint8 or pixels.shape != (offset + height * width * 3,):
            raise _Damaged("its index does not fit its pixels")
        self._pixels = pixels  # last: another thread checks it to know whether the rest is there


class CacheFile(NamedTuple):
    """A file of the cache folder. `what` is "pixels" or "crops …", and None if it is not known."""

    path: Path
    nbytes: int
    state: str
    images: int
    what: str | None


class EncodedImages:
    """The images of `dataset` that decode, each content once, by the SHA-256 of its encoded bytes.

    `dataset` has the canonical columns; `checks` are the results of `check_images` for it, by image_id.
    """

    def __init__(self, dataset: datasets.Dataset, checks: Mapping[str, ImageCheck]):
        self._rows: dict[str, int] = {}
        for row, image_id in enumerate(dataset["image_id"][:]):
            if image_id in checks and checks[image_id].error is None:
                self._rows.setdefault(checks[image_id].sha256, row)
        self._cells = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))

    @property
    def sha256s(self) -> Collection[str]:
        return self._rows.keys()

    def read(self, sha256: str) -> bytes:
        """Return the encoded bytes."""
        return encoded_bytes(self._cells[self._rows[sha256]]["image"])


def build_cache(dataset: datasets.Dataset, checks: Mapping[str, ImageCheck]) -> PixelCache:
    """Return the cache of all images of `dataset` that decode, building it with a progress bar if necessary.

    If several processes ask at once, one builds it and the others wait. The arguments are those of `EncodedImages`.

    Raises:
        MachineError: the disk is too small (known before the first image is decoded) or filled up meanwhile, or an
            image changed since it was checked.
        InputError: the folder is not writable.
    """
    return open_or_build(PIXELS, EncodedImages(dataset, checks), image_size, np.asarray, "Caching pixels")


def open_or_build(
    kind: Mapping,
    images: EncodedImages,
    size: Callable[[bytes], tuple[int, int]],
    convert: Callable[[PIL.Image.Image], np.ndarray],
    description: str,
) -> PixelCache:
    """Return the cache of `convert(read_image(…))` for each of `images`.

    Args:
        kind: JSON of everything that determines the pixels besides the images.
        size: encoded bytes → the result's height and width, in any order.
        convert: RGB image → (H, W, 3) uint8.
        description: for the progress bar.
    """
    if not images.sha256s:
        raise InputError("there are no images to cache: none of the listed files exists and can be decoded")
    if cache := find_cache(kind, images.sha256s):
        return cache
    with _only_one(cache_folder()):
        if cache := find_cache(kind, images.sha256s):  # built by another process while this one waited
            return cache
        for path in cache_folder().glob("*.unfinished"):
            path.unlink()  # its writer is dead: this process has the lock
        path = cache_folder() / f"{_key(kind, images.sha256s)}.npy"
        if path.exists():
            logger.warning("the pixel cache %s is damaged: building it again", path)
            _remove(path)
        return _build(path, kind, images, size, convert, description)


def find_cache(kind: Mapping, sha256s: Collection[str]) -> PixelCache | None:
    """Return an intact cache of that kind with all these images, and perhaps others; None if there is none."""
    exact = cache_folder() / f"{_key(kind, sha256s)}.npy"
    for path in (exact, *sorted(set(cache_folder().glob("*.npy")) - {exact})):
        try:
            cache = PixelCache(path)
        except (FileNotFoundError, _Damaged):
            continue
        if cache.kind == kind and all(sha256 in cache for sha256 in sha256s):
            return cache
    return None


def cache_folder() -> Path:
    """Return the folder of the caches, under HF_DATASETS_CACHE."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf" / "pixels"


def list_caches() -> list[CacheFile]:
    """Return the caches in the cache folder; `state` is complete, outdated, damaged, or unfinished."""
    found = []
    for path in sorted(cache_folder().glob("*.npy")):
        try:
            cache = PixelCache(path)
        except _Damaged as error:
            found.append(CacheFile(path, _size(path), f"damaged ({error})", 0, None))
            continue
        others = [f"{name} {number}" for name, number in cache.kind["versions"].items() if version(name) != number]
        if cache.kind.get("decoding", 1) != DECODING:
            others.append("different decoding")
        state = f"outdated (made with {', '.join(others)})" if others else "complete"
        found.append(CacheFile(path, _size(path), state, len(cache), cache.kind["what"]))
    for path in sorted(cache_folder().glob(FORMER)):
        found.append(CacheFile(path, path.stat().st_size, "outdated (made with ham_hf 0.1.0)", 0, None))
    for path in sorted(cache_folder().glob("*.unfinished")):
        state = "unfinished (being built, or left by a build that was killed)"
        found.append(CacheFile(path, path.stat().st_size, state, 0, None))
    return found


def clear_caches() -> int:
    """Remove all caches and what killed builds left, after any build in progress, and return the bytes freed.

    A process that reads a cache can continue to read it.
    """
    if not cache_folder().is_dir():
        return 0
    freed = 0
    with _only_one(cache_folder()):
        for path in [path for kind in ("*.unfinished", "*.npy", FORMER) for path in cache_folder().glob(kind)]:
            freed += _size(path)
            _remove(path)
    return freed


def _index_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, _index_path(path)) if file.exists())


def _remove(path: Path) -> None:
    _index_path(path).unlink(missing_ok=True)
    path.unlink()


def _key(kind: Mapping, sha256s: Collection[str]) -> str:
    lines = [json.dumps(kind, sort_keys=True), *sorted(sha256s)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of the whole folder: builders would compete for the processor and for the same free space."""
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

    def decode(sha256: str, size: tuple[int, int]) -> np.ndarray:
        pixels = np.ascontiguousarray(convert(read_image(images.read(sha256))))
        if pixels.nbytes != size[0] * size[1] * 3:
            raise MachineError(f"the image with SHA-256 {sha256} has changed since it was checked: run it again")
        return pixels

    # Reading and decoding release the interpreter lock: threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(lambda sha256: size(images.read(sha256)), shas))
        *offsets, total = np.cumsum([0, *(height * width * 3 for height, width in sizes)]).tolist()
        # Exact, although sizes may change to those of turned images: these have as many digits
        needed = total + len(_index(kind, shas, offsets, sizes)) + 128  # the header of an .npy file
        free = _check_room(path.parent, len(shas), needed)
        unfinished = path.with_suffix(".unfinished")
        with _explained(path.parent, needed, free):
            try:
                bar = tqdm(total=len(shas), desc=description, unit=" images", disable=None)
                with unfinished.open("wb") as file, bar:
                    # Written through a file, not a map: on a full disk a write to a map kills the process
                    header = {"descr": "|u1", "fortran_order": False, "shape": (total,)}
                    np.lib.format.write_array_header_1_0(file, header)
                    for start in range(0, len(shas), _CHUNK):
                        chunk = slice(start, start + _CHUNK)
                        for row, pixels in enumerate(pool.map(decode, shas[chunk], sizes[chunk]), start):
                            file.write(pixels.data)
                            sizes[row] = pixels.shape[:2]
                            bar.update()
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
                replace_file(_index_path(path), _index(kind, shas, offsets, sizes))
            except BaseException:  # Ctrl-C as well
                unfinished.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise
    return PixelCache(path)


def _index(kind: Mapping, shas: Sequence[str], offsets: Sequence[int], sizes: Sequence[tuple[int, int]]) -> str:
    images = {sha256: (offset, *size) for sha256, offset, size in zip(shas, offsets, sizes, strict=True)}
    return json.dumps({"kind": kind, "images": images}, separators=(",", ":"))


def _check_room(folder: Path, count: int, needed: int) -> int:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MachineError(
            f"the pixel cache of {count:,} images needs {needed:,} bytes, but only {free:,} are free in {folder}: "
            f"{_REMEDY}"
        )
    return free


@contextmanager
def _explained(folder: Path, needed: int, free: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise  # from Pillow, about an image
        raise error_kind(error)(
            f"the pixel cache could not be written in {folder} ({error.strerror}): it needs {needed:,} bytes, and "
            f"{free:,} were free at the start. The partial cache has been removed; {_REMEDY}"
        ) from error
