"""What must be true of a table, its images and its split before anything is trained on them."""

from itertools import combinations

import numpy as np
import pandas as pd

from ham_hf.data.images import HASH_SIZE, ImageCheck
from ham_hf.data.splits import is_ham10000
from ham_hf.data.table import some
from ham_hf.errors import InputError

# Of 256 bits. Measured on HAM10000's training and validation images: up to 38 bits every pair is one photograph twice
# (2 pairs of different lesions, and some 100 of the same lesion); from 40 on different lesions of like layout appear.
NEAR_BITS = 38
METHOD = f"imagehash.phash, {HASH_SIZE * HASH_SIZE} bits, distance <= {NEAR_BITS}"
_LISTED = 50


NearPair = tuple[str, str, int]  # two image ids in alphabetical order, and the distance of their hashes in bits


def check_table(table: pd.DataFrame) -> None:
    """Raises InputError for an image_id in two rows, or a lesion with two diagnoses."""
    if twice := repeated_ids(table):
        raise InputError(f"{len(twice)} image ids in several rows: {some(twice)}; expected one row an image")
    if torn := torn_lesions(table, table["dx"]):
        raise InputError(f"{len(torn)} lesions with two diagnoses: {some(torn)}; expected one diagnosis a lesion")


def repeated_ids(table: pd.DataFrame) -> list[str]:
    """The image ids that several rows have."""
    return sorted(set(table.loc[table["image_id"].duplicated(), "image_id"]))


def torn_lesions(table: pd.DataFrame, of_image: pd.Series) -> list[str]:
    """The lesions whose images differ in `of_image` (their split, say), as "HAM_0000001 (test and train)"."""
    values = of_image.groupby(table["lesion_id"]).agg(lambda found: sorted(set(found)))
    return [f"{lesion} ({' and '.join(found)})" for lesion, found in values[values.map(len) > 1].items()]


def check_lesions(table: pd.DataFrame, split: dict[str, str]) -> None:
    """Raises InputError for a lesion in two splits: the model would be tested on what it learned."""
    if torn := torn_lesions(table, table["image_id"].map(split)):
        raise InputError(
            f"{len(torn)} lesions in two splits: {some(torn)}; all images of a lesion must be in one split"
        )


def identical_images(table: pd.DataFrame, checks: dict[str, ImageCheck]) -> list[list[str]]:
    """Groups of byte-identical images that HAM10000 itself has under several ids of one lesion.

    There are two such pairs among its training and validation lesions. No split separates them, so they are counted.

    Raises:
        InputError: byte-identical images under ids of two lesions, or under ids that are not HAM10000's.
    """
    same_lesion, other_lesion = identical_groups(table, checks)
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    wrong = sorted(other_lesion + [ids for ids in same_lesion if not all(map(is_ham10000, ids))])
    if wrong:
        named = [" = ".join(f"{image_id} ({lesion[image_id]})" for image_id in ids) for ids in wrong]
        raise InputError(f"{len(wrong)} images are byte-identical under several ids: {some(named)}; keep one of each")
    return same_lesion


def identical_groups(table: pd.DataFrame, checks: dict[str, ImageCheck]) -> tuple[list[list[str]], list[list[str]]]:
    """Groups of byte-identical images: those of one lesion, and those of several."""
    ids_of: dict[str, list[str]] = {}
    for image_id in sorted(checks):
        ids_of.setdefault(checks[image_id].sha256, []).append(image_id)
    groups = [ids for ids in ids_of.values() if len(ids) > 1]
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    several = [len({lesion[image_id] for image_id in ids}) > 1 for ids in groups]
    return (
        [ids for ids, differ in zip(groups, several, strict=True) if not differ],
        [ids for ids, differ in zip(groups, several, strict=True) if differ],
    )


def near_duplicates(table: pd.DataFrame, checks: dict[str, ImageCheck]) -> list[NearPair]:
    """Pairs of images of *different* lesions whose perceptual hashes are within `NEAR_BITS`, sorted."""
    ids = np.array(sorted(checks))
    if not len(ids):
        return []
    words = [np.frombuffer(bytes.fromhex(checks[image_id].phash), dtype=np.uint8) for image_id in ids]
    signs = np.unpackbits(np.stack(words), axis=1).astype(np.float32) * 2 - 1  # (N, 256)
    bits = signs.shape[1]
    lesions = table.set_index("image_id")["lesion_id"].reindex(ids).to_numpy()
    pairs = []
    for start in range(0, len(ids), 1000):  # (1000, N) of the N x N distances at a time
        distances = (bits - signs[start : start + 1000] @ signs.T) / 2
        for row, column in zip(*np.nonzero(distances <= NEAR_BITS), strict=True):
            first = start + row
            if first < column and lesions[first] != lesions[column]:
                pairs.append((str(ids[first]), str(ids[column]), round(float(distances[row, column]))))
    return sorted(pairs)


def group_lesions(table: pd.DataFrame, pairs: list[NearPair]) -> dict[str, str]:
    """lesion_id → the first lesion_id of its group, where near-duplicate images join lesions into groups."""
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    group = {name: {name} for name in lesion.values()}
    for first, second, _ in pairs:
        merged = group[lesion[first]] | group[lesion[second]]
        group.update(dict.fromkeys(merged, merged))
    return {name: min(members) for name, members in group.items()}


def audit_facts(
    split: dict[str, str], identical: list[list[str]], pairs: list[NearPair], grouped: bool
) -> dict[str, object]:
    """The audit as the report shows it. The first three counts are 0, or the run had stopped."""
    across = [[a, split[a], b, split[b], distance] for a, b, distance in pairs if split[a] != split[b]]
    return {
        "lesions_in_two_splits": 0,
        "duplicate_image_ids": 0,
        "lesions_with_two_diagnoses": 0,
        "identical_images": sum(len(list(combinations(ids, 2))) for ids in identical),
        "near_duplicates": {
            "method": METHOD,
            "pairs_across_splits": len(across),
            "pairs": across[:_LISTED],
            "grouped": grouped,
        },
    }
