"""Find the pairs of images to compare: those that share local features, and those of patients who may be the same."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from datasets.utils import tqdm

from ham_hf.data.duplicates.local_features import LocalFeatures

_NEIGHBORS = 12  # nearest descriptors of each; the last one shows how near unrelated ones are
_RATIO = 0.85  # a descriptor counts if it is nearer than this share of the last one's distance (after Lowe, 2004)
_CERTAIN = 100.0  # or nearer than this, whatever the last one: an image may have more than _NEIGHBORS copies
_FEWEST_VOTES = 2
_MOST_PAIRS = 50  # candidates of an image
_QUERIES = 50_000  # descriptors looked up at a time
PATIENT = ("age", "sex", "localization")


def candidate_pairs(features: Sequence[LocalFeatures], others: Sequence[LocalFeatures] | None = None) -> pd.DataFrame:
    """Return the pairs of images that share at least two rare local features.

    Every descriptor is looked up among those of all images (faiss, inverted lists), as it is and mirrored. A pair gets
    a vote for each descriptor of one that is much nearer to one of the other than descriptors usually are.

    Args:
        features: of every image.
        others: of every image of another collection; if given, only pairs of an image of each are returned.

    Returns:
        Columns first, second (positions in `features` and in `others`, or first < second in `features`), mirrored
        (bool) and votes, sorted.
    """
    queried = features if others is None else others
    image, query_image = _image_of_descriptors(features), _image_of_descriptors(queried)
    pairs = pd.DataFrame({"first": [], "second": [], "mirrored": []}, dtype=int)
    chunks = [pairs.assign(votes=pairs["first"])]
    if len(image) and len(query_image):
        index = _build_index(np.concatenate([found.descriptors for found in features]))
        for mirrored in (False, True):
            sources = [found.mirrored() if mirrored else found for found in queried]
            descriptors = np.concatenate([found.descriptors for found in sources])  # (M, 128), uint8
            what = "Looking up mirrored features" if mirrored else "Looking up features"
            for start in tqdm(range(0, len(descriptors), _QUERIES), desc=what):
                # Squared distances, nearest first; row -1 for none
                distances, rows = index.search(descriptors[start : start + _QUERIES].astype(np.float32), _NEIGHBORS)
                near = (distances < np.maximum(_RATIO**2 * distances[:, -1:], _CERTAIN**2)) & (rows >= 0)
                found_by = query_image[start + np.nonzero(near)[0]]
                chunks.append(_count(image[rows[near]], found_by, mirrored, others is None))
    votes = pd.concat(chunks).groupby(["first", "second", "mirrored"], as_index=False)["votes"].sum()
    return _most_voted(votes[votes["votes"] >= _FEWEST_VOTES]).astype({"mirrored": bool})


def same_patient_pairs(patients: pd.DataFrame, others: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the pairs of images whose patients have the same age and sex, and the lesion at the same site.

    Two photographs of one lesion may share too few local features to be found among all images. Pairs for which one of
    the three is unknown are left out.

    Args:
        patients: of every image, see `patients_of`.
        others: of every image of another collection; if given, only pairs of an image of each are returned.

    Returns:
        Columns first, second (positions, as of `candidate_pairs`) and mirrored (False), sorted.
    """
    second = patients if others is None else others
    known = [of[of.notna().all(axis=1)].reset_index() for of in (patients, second)]
    pairs = known[0].merge(known[1], on=list(PATIENT)).rename(columns={"index_x": "first", "index_y": "second"})
    if others is None:
        pairs = pairs[pairs["first"] < pairs["second"]]
    pairs = pairs[["first", "second"]].sort_values(["first", "second"], ignore_index=True)
    return pairs.assign(mirrored=False)


def patients_of(dataset: Dataset, image_ids: Sequence[str]) -> pd.DataFrame:
    """Return the columns `PATIENT` of the images named, in that order, with NaN for what is unknown."""
    rows = dataset.select_columns(["image_id", *PATIENT]).to_pandas().set_index("image_id").loc[list(image_ids)]
    return rows.replace("unknown", np.nan).reset_index(drop=True)


def _image_of_descriptors(features: Sequence[LocalFeatures]) -> np.ndarray:
    return np.repeat(np.arange(len(features)), [len(found.points) for found in features])


def _count(first: np.ndarray, second: np.ndarray, mirrored: bool, one_collection: bool) -> pd.DataFrame:
    """Return how often each pair occurs; in one collection, pairs have no order, and no image is its own pair."""
    if one_collection:
        first, second = np.minimum(first, second), np.maximum(first, second)
        first, second = first[first != second], second[first != second]
    pairs = pd.DataFrame({"first": first, "second": second, "mirrored": int(mirrored)})
    return pairs.groupby(list(pairs.columns), as_index=False).size().rename(columns={"size": "votes"})


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
