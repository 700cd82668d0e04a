"""Compute local features (SIFT) of images: points that are found again after a turn, a crop or another exposure."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import PIL.Image
from datasets import Dataset
from datasets.utils import tqdm

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.image_io import DECODING, encoded_bytes, read_image
from ham_hf.system.files import replace_file

HEIGHT = 300  # shorter side in pixels: copies of every size then have points of the same scale
POINTS = 400  # of an image; every image of HAM10000 has as many
# Diameter in pixels. Half of the points are larger: the strongest small ones may all lie on hairs
_LARGE = 5.0
_CONTRAST = 0.001  # low, as many lesions are smooth: with OpenCV's 0.04 some images have no point
_DIMENSIONS = 128  # of a descriptor: 4 rows x 4 columns x 8 directions around the point

# A mirrored patch has its rows in reverse order and its directions with the opposite sign
_MIRRORED = np.arange(_DIMENSIONS).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


class LocalFeatures(NamedTuple):
    """Points of an image, the strongest large ones and the strongest small ones.

    `points` (N, 2), float32, are x and y in the image scaled to a shorter side of `HEIGHT`; `descriptors` (N, 128),
    uint8, describe the surroundings of each, whatever its direction and size; `width` is that of the scaled image.
    """

    points: np.ndarray
    descriptors: np.ndarray
    width: int

    def mirrored(self) -> "LocalFeatures":
        """Return the features of the image mirrored left to right."""
        points = self.points * (-1, 1) + (self.width - 1, 0)
        return self._replace(points=points.astype(np.float32), descriptors=self.descriptors[:, _MIRRORED])


def compute_local_features(
    dataset: Dataset, checks: Mapping[str, ImageCheck], image_ids: Sequence[str]
) -> list[LocalFeatures]:
    """Return the local features of the images named, in that order.

    They are kept in the datasets cache, a file for each image, by the hash of its pixels: an interrupted call resumes,
    and other files with the same pixels are not computed again.

    Args:
        dataset: canonical columns.
        checks: of each of `image_ids`, all of which decode.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    image_of = image_by_id(dataset)

    def features(image_id: str) -> LocalFeatures:
        file = folder / f"{checks[image_id].pixels_sha256}.npz"
        known = _read(file)
        if known is None:
            known = extract_features(scaled_gray(image_of(image_id)))
            _write(file, known)
        return known

    # OpenCV frees the interpreter lock: threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(features, image_ids)
        return list(tqdm(found, total=len(image_ids), desc="Computing local features", unit=" images"))


def image_by_id(dataset: Dataset) -> Callable[[str], PIL.Image.Image]:
    """Return a function that reads the image with an image_id."""
    row_of = {image_id: row for row, image_id in enumerate(dataset["image_id"][:])}
    encoded = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return lambda image_id: read_image(encoded_bytes(encoded[row_of[image_id]]["image"]))


def scaled_gray(image: PIL.Image.Image) -> np.ndarray:
    """Return the brightness (H, W), uint8, of an RGB image scaled to a shorter side of `HEIGHT`."""
    import cv2

    gray = np.asarray(image.convert("L"))
    scale = HEIGHT / min(gray.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(gray, None, fx=scale, fy=scale, interpolation=interpolation)


def extract_features(gray: np.ndarray) -> LocalFeatures:
    """Return the local features of a brightness image (H, W), uint8."""
    import cv2

    sift = cv2.SIFT.create(contrastThreshold=_CONTRAST)
    found = sorted(sift.detect(gray), key=lambda point: -point.response)
    large = [point for point in found if point.size > _LARGE]
    small = [point for point in found if point.size <= _LARGE]
    half = max(POINTS // 2, POINTS - len(small))
    points, descriptors = sift.compute(gray, large[:half] + small[: POINTS - len(large[:half])])
    if descriptors is None:  # not one point, as in an image of one color
        descriptors = np.zeros((0, _DIMENSIONS))
    places = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    return LocalFeatures(places, descriptors.astype(np.uint8), gray.shape[1])


def cache_folder() -> Path:
    """Return the folder of the datasets cache for features and what was found with them."""
    import cv2

    name = f"local-features-2-{HEIGHT}-{POINTS}-decoding{DECODING}-opencv{cv2.__version__}"
    return Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf" / name


def _read(file: Path) -> LocalFeatures | None:
    """Return the features in a file of the cache, or None if it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = LocalFeatures(arrays["points"], arrays["descriptors"], int(arrays["width"]))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    count = len(found.points)
    fits = found.points.shape == (count, 2) and found.descriptors.shape == (count, _DIMENSIONS)
    return found if fits and found.descriptors.dtype == np.uint8 else None


def _write(file: Path, features: LocalFeatures) -> None:
    content = BytesIO()
    np.savez(content, **features._asdict())
    replace_file(file, content.getvalue())
