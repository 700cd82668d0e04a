"""Decode every image once before training, to find files that are broken, identical or nearly identical."""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import datasets
import imagehash
import PIL.Image
from datasets import Dataset
from datasets.utils import tqdm

from ham_hf.data.image_io import DECODING, read_image
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file

# 16 x 16 = 256 bits. At 64 bits HAM10000's different lesions collide: with equal layout (one dark blob in the middle)
# 198 pairs of other lesions lie within 4 bits.
HASH_SIZE = 16


class ImageCheck(NamedTuple):
    """Hashes of one image, in hexadecimal.

    `sha256` is of the encoded bytes and `pixels_sha256` of the decoded image (see `hash_pixels`). Where the image does
    not decode, `phash` and `pixels_sha256` are None and `error` gives the reason.
    """

    sha256: str
    phash: str | None
    pixels_sha256: str | None
    error: str | None


def hash_pixels(image: PIL.Image.Image) -> str:
    """Return the SHA-256 of an RGB image's size and pixels: equal for two files that decode to the same picture."""
    return hashlib.sha256(f"{image.width}x{image.height}\n".encode() + image.tobytes()).hexdigest()


def check_images(dataset: Dataset) -> dict[str, ImageCheck]:
    """Read and fully decode every image that is there, once; a file seen before is only read.

    Args:
        dataset: canonical columns; rows whose image is None are skipped.

    Returns:
        image_id → what was found. Hashes are kept in the datasets cache by the sha256 of the file.
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
        found_in_order = pool.map(check, range(len(ids)))
        checks = list(tqdm(found_in_order, "Checking images", len(ids), unit=" images", disable=None))
    found = {image_id: check for image_id, check in zip(ids, checks, strict=True) if check is not None}
    hashes = {check.sha256: [check.phash, check.pixels_sha256] for check in found.values() if check.error is None}
    if not hashes.keys() <= known.keys():
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, json.dumps(known | hashes))
    return found


def _check(cell: dict, known: dict[str, list[str]]) -> ImageCheck:
    try:
        data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    except OSError as error:
        return ImageCheck("", None, None, f"cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in known:
        phash, pixels = known[sha256]
        return ImageCheck(sha256, phash, pixels, None)
    try:
        image = read_image(data)  # decodes to the last row: a truncated file fails here
    except InputError as error:
        return ImageCheck(sha256, None, None, f"{error} ({len(data)} bytes)")
    return ImageCheck(sha256, str(imagehash.phash(image.convert("L"), HASH_SIZE)), hash_pixels(image), None)


def _cache_file() -> Path:
    # Another Pillow may bring another decoder, and with it other pixels
    name = f"hashes-phash{HASH_SIZE}-decoding{DECODING}-pillow{PIL.__version__}.json"
    return Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf" / name


def _read_cache(path: Path) -> dict[str, list[str]]:
    """Return file hash → [perceptual hash, pixel hash], without whatever is not of that form."""
    try:
        known = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError):
        return {}  # missing or damaged: computed again
    return {key: value for key, value in known.items() if _are_hashes(value)} if isinstance(known, dict) else {}


def _are_hashes(value: object) -> bool:
    digits = (HASH_SIZE * HASH_SIZE // 4, 64)
    return (
        isinstance(value, list)
        and [len(text) if isinstance(text, str) else 0 for text in value] == list(digits)
        and all(re.fullmatch("[0-9a-f]+", text) for text in value)
    )
