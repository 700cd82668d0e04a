"""Search a collection of images, or two, for pairs that show one lesion: candidates, then their alignment."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
from datasets import Dataset
from datasets.utils import tqdm

from ham_hf.data.duplicates.alignment import Alignment, align, similarity
from ham_hf.data.duplicates.candidates import candidate_pairs, patients_of, same_patient_pairs
from ham_hf.data.duplicates.local_features import (
    LocalFeatures,
    compute_local_features,
    image_by_id,
    scaled_gray,
)
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.system.files import lines_digest, replace_file
from ham_hf.system.installation import require

VERSION = 4  # of the search: another one may find other pairs
FEWEST_CELLS = 8
_BLOCK = 256  # candidates that a thread aligns at a time
# Measured on HAM10000's training and validation images: the pairs of one lesion have a score of 6 to 184; one of
# different lesions, which shares a printed ruler, has 4
LOWEST_SCORE = 5.0


class Collection(NamedTuple):
    """Images to search: rows with the canonical columns, and the check of each image that decodes, by image_id."""

    dataset: Dataset
    checks: Mapping[str, ImageCheck]

    @property
    def image_ids(self) -> list[str]:
        """The images that are searched."""
        return sorted(self.checks)


class Pair(NamedTuple):
    """Two images that show one lesion, or one patch of skin, with the transform of the second onto the first."""

    image_a: str
    image_b: str
    alignment: Alignment
    similarity: float

    @property
    def score(self) -> float:
        """Number of cells with inliers, times the similarity of the aligned images."""
        return self.alignment.cells * max(self.similarity, 0.0)


def require_search() -> None:
    """Raise InputError with the install command if OpenCV or faiss is not installed."""
    for package in ("cv2", "faiss"):
        require(package, "audit", "the search for duplicates")


def search_duplicates(collection: Collection, other: Collection | None = None) -> list[Pair]:
    """Return the pairs of images with a score of at least `LOWEST_SCORE`, highest first.

    The result is kept in the datasets cache by the pixels and patients of all images: in other files, or with other
    lesions, they are not searched again.

    Args:
        collection: the images.
        other: another collection; if given, only pairs of an image of each are searched for.

    Raises:
        InputError: OpenCV or faiss is not installed.
    """
    require_search()
    both = [collection] if other is None else [collection, other]
    known = _cached(both)
    if known is not None:
        return known
    found = _search(both)
    file = _cache_file(both)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(found))
    return _pairs(both, found)


def cached_duplicates(collection: Collection) -> list[Pair] | None:
    """Return what `search_duplicates` found in the same images before; None if they have not been searched."""
    return _cached([collection])


def _cached(both: Sequence[Collection]) -> list[Pair] | None:
    """Return the pairs that were found before; None if there are none, or their file is damaged."""
    try:
        return _pairs(both, json.loads(_cache_file(both).read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _pairs(both: Sequence[Collection], found: list[list]) -> list[Pair]:
    ids = both[0].image_ids, both[-1].image_ids
    pairs = [pair for row in found if (pair := _pair(ids, row)).score >= LOWEST_SCORE]
    return sorted(pairs, key=lambda pair: (-pair.score, pair.image_a, pair.image_b))


def _search(both: Sequence[Collection]) -> list[list]:
    features = [compute_local_features(part.dataset, part.checks, part.image_ids) for part in both]
    patients = [patients_of(part.dataset, part.image_ids) for part in both]
    candidates = pd.concat([candidate_pairs(*features).drop(columns="votes"), same_patient_pairs(*patients)])
    candidates = candidates.drop_duplicates()
    aligned = _align_all(features[0], features[-1], candidates)
    ids = both[0].image_ids, both[-1].image_ids
    image_of = image_by_id(both[0].dataset), image_by_id(both[-1].dataset)
    rows = []
    for pair, found in tqdm(sorted(aligned.items()), desc="Comparing aligned images", unit=" pairs"):
        first, second = (scaled_gray(image_of[side](ids[side][pair[side]])) for side in (0, 1))
        measured = [found.inliers, found.cells, found.matrix.ravel().tolist(), found.mirrored]
        rows.append([*pair, *measured, similarity(first, second, found)])
    return rows


def _align_all(
    features: Sequence[LocalFeatures], others: Sequence[LocalFeatures], candidates: pd.DataFrame
) -> dict[tuple[int, int], Alignment]:
    """Return the better alignment of every pair, as it is or mirrored, that has enough cells."""
    import faiss

    def aligned(block: pd.DataFrame) -> list[tuple[tuple[int, int], Alignment | None]]:
        return [
            ((first, second), align(features[first], others[second], mirrored))
            for first, second, mirrored in block.itertuples(index=False, name=None)
        ]

    blocks = [candidates.iloc[start : start + _BLOCK] for start in range(0, len(candidates), _BLOCK)]
    best: dict[tuple[int, int], Alignment] = {}
    bar = tqdm(total=len(candidates), desc="Aligning candidates", unit=" pairs")
    # Threads are enough, because OpenCV and faiss free the interpreter lock; each of them has one core
    with bar, ThreadPoolExecutor(os.cpu_count(), "align", faiss.omp_set_num_threads, (1,)) as pool:
        for block in pool.map(aligned, blocks):
            bar.update(len(block))
            for pair, found in block:
                if found is not None and found.cells >= FEWEST_CELLS:
                    if pair not in best or found.inliers > best[pair].inliers:
                        best[pair] = found
    return best


def _pair(ids: tuple[list[str], list[str]], row: list) -> Pair:
    first, second, inliers, cells, matrix, mirrored, similar = row
    alignment = Alignment(inliers, cells, np.array(matrix).reshape(2, 3), mirrored)
    return Pair(ids[0][first], ids[1][second], alignment, similar)


def _cache_file(both: Sequence[Collection]) -> Path:
    images = []
    for number, part in enumerate(both):
        patients = patients_of(part.dataset, part.image_ids).itertuples(index=False, name=None)
        of_part = zip(part.image_ids, patients, strict=True)
        images += [f"{number} {part.checks[name].pixels_sha256} {patient}" for name, patient in of_part]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "ham_hf" / f"duplicates-{VERSION}"
    return folder / f"{lines_digest(images)}.json"
