"""Align two images by their local features, and measure how much they show the same."""

from typing import NamedTuple

import numpy as np

from ham_hf.data.duplicates.local_features import LocalFeatures

_RATIO = 0.8  # the best match must be nearer than this share of the second best (Lowe, 2004)
_TOLERANCE = 4.0  # pixels of the scaled image between a point and its match, aligned
CELL = 8  # pixels; inliers in one cell of the grid count once
_FEWEST_PIXELS = 500  # of the overlap, for a similarity
_SHADING = 40.0  # standard deviation of its Gaussian, in pixels of an image whose shorter side has 300


class Alignment(NamedTuple):
    """A similarity transform from one image to another, both scaled to the same shorter side.

    `inliers` is the number of points that it maps onto their match, and `cells` of cells of the image that hold one: a
    hair or the marks of a ruler match at many points that lie in few cells of one line. `matrix` (2, 3) maps points
    (x, y) of the second image, mirrored left to right if `mirrored`, to the first.
    """

    inliers: int
    cells: int
    matrix: np.ndarray
    mirrored: bool

    @property
    def scale(self) -> float:
        """Size of the first image's content relative to the second's."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @property
    def rotation(self) -> float:
        """Clockwise rotation of the second image onto the first, in degrees, -180 to 180."""
        return float(np.degrees(np.arctan2(self.matrix[1, 0], self.matrix[0, 0])))


def align(first: LocalFeatures, second: LocalFeatures, mirrored: bool) -> Alignment | None:
    """Return the transform with the most inliers (OpenCV's RANSAC), or None if no two points match."""
    import cv2
    import faiss

    second = second.mirrored() if mirrored else second
    if len(first.points) < 2 or len(second.points) < 2:
        return None
    ours, theirs = (np.ascontiguousarray(of.descriptors, np.float32) for of in (first, second))
    distances, nearest = faiss.knn(ours, theirs, 2)  # exact, squared; twice as fast as OpenCV's matcher
    good = distances[:, 0] < _RATIO**2 * distances[:, 1]
    if good.sum() < 2:
        return None
    target, source = first.points[good], second.points[nearest[good, 0]]
    matrix, fits = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE, maxIters=2000, confidence=0.99
    )
    if matrix is None:
        return None
    inside = fits.ravel() > 0
    # In both images: a transform that shrinks everything to a point fits as well
    cells = min(len(np.unique((points[inside] // CELL).astype(int), axis=0)) for points in (target, source))
    return Alignment(int(inside.sum()), cells, matrix, mirrored)


def warp(second: np.ndarray, alignment: Alignment, size: tuple[int, int]) -> np.ndarray:
    """Return the second image (H, W) or (H, W, 3), drawn where the first one, of `size` (height, width), has it."""
    import cv2

    second = np.ascontiguousarray(second[:, ::-1]) if alignment.mirrored else second
    return cv2.warpAffine(second, alignment.matrix, size[::-1], flags=cv2.INTER_AREA)


def similarity(first: np.ndarray, second: np.ndarray, alignment: Alignment) -> float:
    """Return the correlation of the brightness of two images where they overlap once aligned, -1 to 1.

    The larger one of two: of the images as they are, and without their smooth shading, which a vignette or another
    light changes. It is 0 where they overlap in too few pixels, or one of them is uniform there.
    """
    inside = warp(np.full(second.shape, 255, np.uint8), alignment, first.shape) == 255
    if inside.sum() < _FEWEST_PIXELS:
        return 0.0
    images = first, warp(second, alignment, first.shape)
    return max(
        _correlation(*(image[inside].astype(float) for image in images)),
        _correlation(*(_without_shading(image, inside)[inside] for image in images)),
    )


def _without_shading(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return an image minus its mean brightness around each pixel, of the pixels `inside` alone."""
    import cv2

    weights = inside.astype(np.float32)
    around = cv2.GaussianBlur(image * weights, (0, 0), _SHADING) / np.maximum(
        cv2.GaussianBlur(weights, (0, 0), _SHADING), 1e-3
    )
    return image - around


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return 0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])
