"""One pass over the pixels before any training: is each file an image, which are the same, which are nearly so."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import datasets
import imagehash
from datasets import Dataset
from datasets.utils import tqdm

from ham_hf.errors import InputError
from ham_hf.photos import read_image

# 16 x 16 = 256 bits. At 64 bits HAM10000's different lesions collide: with equal layout (one dark blob in the middle)
# 198 pairs of other lesions lie within 4 bits.
HASH_SIZE = 16


class ImageCheck(NamedTuple):
    """`sha256` of the encoded bytes; `phash`, in hexadecimal, is None and `error` says why where nothing decodes."""

    sha256: str
    phash: str | None
    error: str | None


def check_images(dataset: Dataset) -> dict[str, ImageCheck]:
    """Read and fully decode every image that is there, once; a file seen before is only read.

    Args:
        dataset: canonical columns; rows whose image is None are left out.

    Returns:
        image_id → what was found. Perceptual hashes are kept in the datasets cache by the sha256 of the file.
    """
    cache = _cache_file()
    known = _read_cache(cache)
    ids = dataset["image_id"][:]
    encoded = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))

    def check(row: int) -> ImageCheck | None:
        cell = encoded[row]["image"]
        return None if cell is None else _check(cell, known)

    # Decoding, resizing and hashing free the interpreter lock: threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = list(tqdm(pool.map(check, range(len(ids))), total=len(ids), desc="Checking images", unit=" images"))
    found = {image_id: check for image_id, check in zip(ids, checks, strict=True) if check is not None}
    hashes = {check.sha256: check.phash for check in found.values() if check.phash is not None}
    if not hashes.keys() <= known.keys():
        _write_cache(cache, known | hashes)
    return found


def _check(cell: dict, known: dict[str, str]) -> ImageCheck:
    try:
        data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    except OSError as error:
        return ImageCheck("", None, f"cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in known:
        return ImageCheck(sha256, known[sha256], None)
    try:
        image = read_image(data)  # decodes to the last row: a truncated file fails here
    except InputError as error:
        return ImageCheck(sha256, None, f"{error} ({len(data)} bytes)")
    return ImageCheck(sha256, str(imagehash.phash(image.convert("L"), HASH_SIZE)), None)


def _cache_file() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf" / f"phash{HASH_SIZE}.json"


def _read_cache(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}  # not there yet, or damaged: it is made again
    return known if isinstance(known, dict) else {}


def _write_cache(path: Path, hashes: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(hashes), encoding="ascii")
    temporary.replace(path)
