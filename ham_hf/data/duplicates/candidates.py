"""Find the pairs of images that share local features, among all pairs of a collection."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets.utils import tqdm

from ham_hf.data.duplicates.local_features import LocalFeatures

POINTS = 200  # strongest points of each image that are looked up
_NEIGHBORS = 12  # nearest descriptors of each; the last one shows how near unrelated ones are
_RATIO = 0.8  # a descriptor counts if it is nearer than this share of the last one's distance (Lowe, 2004)
_CERTAIN = 100.0  # or nearer than this, whatever the last one: an image may have more than _NEIGHBORS copies
_MOST_PAIRS = 50  # candidates of an image
_QUERIES = 50_000  # descriptors looked up at a time


def candidate_pairs(features: Sequence[LocalFeatures], groups: Sequence[object]) -> pd.DataFrame:
    """Return the pairs of images that share at least one rare local feature.

    Every descriptor is looked up among those of all images (faiss, inverted lists), as it is and mirrored. A pair gets
    a vote for each descriptor of one that is much nearer to one of the other than descriptors usually are.

    Args:
        features: of every image.
        groups: a value for every image; two images with the same value are no pair.

    Returns:
        Columns first < second (positions in `features`), mirrored (bool) and votes, sorted.
    """
    image = np.repeat(np.arange(len(features)), [min(len(found.points), POINTS) for found in features])
    codes = pd.factorize(pd.Series(groups))[0]
    empty = pd.DataFrame({"first": [], "second": [], "mirrored": [], "votes": []}).astype(int)
    if not len(image):
        return empty.astype({"mirrored": bool})
    descriptors = np.concatenate([found.descriptors[:POINTS] for found in features])  # (M, 128), uint8
    turned = np.concatenate([found.mirrored().descriptors[:POINTS] for found in features])
    index = _build_index(descriptors)
    chunks = [empty]
    for mirrored, queries in ((False, descriptors), (True, turned)):
        what = "Looking up mirrored features" if mirrored else "Looking up features"
        for start in tqdm(range(0, len(queries), _QUERIES), desc=what):
            part = queries[start : start + _QUERIES].astype(np.float32)
            distances, rows = index.search(part, _NEIGHBORS)  # squared distances, nearest first; row -1 for none
            near = distances < np.maximum(_RATIO**2 * distances[:, -1:], _CERTAIN**2)
            query, _ = np.nonzero(near & (rows >= 0))
            first, second = image[start + query], image[rows[near & (rows >= 0)]]
            apart = codes[first] != codes[second]
            pairs = np.sort(np.stack([first[apart], second[apart]], axis=1), axis=1)
            chunks.append(pd.DataFrame({"first": pairs[:, 0], "second": pairs[:, 1], "mirrored": int(mirrored)}))
            chunks[-1]["votes"] = 1
    votes = pd.concat(chunks).groupby(["first", "second", "mirrored"], as_index=False)["votes"].sum()
    return _most_voted(votes).astype({"mirrored": bool})


def _build_index(descriptors: np.ndarray):
    import faiss

    size = len(descriptors)
    lists = max(1, min(int(1.6 * size**0.5), size // 39))  # faiss warns of fewer than 39 descriptors a list
    quantizer = faiss.IndexFlatL2(descriptors.shape[1])
    index = faiss.IndexIVFScalarQuantizer(quantizer, descriptors.shape[1], lists, faiss.ScalarQuantizer.QT_8bit_direct)
    index.cp.niter = 10
    index.nprobe = 4
    drawn = np.random.default_rng(0).choice(size, min(size, 50 * lists), replace=False)
    index.train(descriptors[drawn].astype(np.float32))
    for start in range(0, size, 4 * _QUERIES):
        index.add(descriptors[start : start + 4 * _QUERIES].astype(np.float32))
    return index


def _most_voted(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs that are among the `_MOST_PAIRS` with the most votes of either image."""
    pairs = pairs.sort_values(["votes", "first", "second", "mirrored"], ascending=[False, True, True, True])
    ranks = [pairs.groupby(column).cumcount() for column in ("first", "second")]
    kept = pairs[(ranks[0] < _MOST_PAIRS) | (ranks[1] < _MOST_PAIRS)]
    return kept.sort_values(["first", "second", "mirrored"], ignore_index=True)
