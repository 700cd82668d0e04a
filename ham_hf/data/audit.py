"""Check a table, its images and its split before training."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from ham_hf.data.image_hashes import HASH_SIZE, ImageCheck
from ham_hf.data.lesions import compare_lesions, is_ham10000, look_alikes, official_lesions
from ham_hf.data.schema import some
from ham_hf.data.splits import SPLITS
from ham_hf.system.errors import InputError

# Of 256 bits. Measured on HAM10000's training and validation images: up to 38 bits every pair is one photograph twice
# (2 pairs of different lesions, and some 100 of the same lesion); from 40 on different lesions of like layout appear.
NEAR_BITS = 38
# Measured on 300 of them: copies saved again as JPEG (quality 30 or more) or WebP, scaled to 28 to 1,200 pixels, or
# brighter, sharper or gray are at most 18 bits from the original; of copies with 1 % of each edge cut off, 92 % are
# within 20. The only pair of different lesions that near is a published duplicate (12 bits).
CERTAIN_BITS = 20
METHOD = f"imagehash.phash, {HASH_SIZE * HASH_SIZE} bits, distance <= {NEAR_BITS}"
_LISTED = 50


NearPair = tuple[str, str, int]  # two image ids in alphabetical order, and the distance of their hashes in bits


def check_ids(table: pd.DataFrame) -> None:
    """Raise InputError for an image_id in several rows."""
    if twice := repeated_ids(table):
        raise InputError(f"{len(twice)} image ids in several rows: {some(twice)}; expected one row per image")


def check_lesions(rows: pd.DataFrame) -> None:
    """Raise InputError where the lesions of the rows that a run uses are not consistent.

    That is a lesion with two diagnoses, or one of HAM10000's lesions under several lesion_ids.
    """
    if torn := torn_lesions(rows, rows["dx"]):
        raise InputError(f"{len(torn)} lesions with two diagnoses: {some(torn)}; expected one diagnosis per lesion")
    if separated := compare_lesions(rows, official_lesions()).separated:
        raise InputError(
            f"{len(separated)} lesions of HAM10000 have several lesion_ids in this table: {some(separated)}. Correct "
            "them, or remove the column lesion_id: the lesions of HAM10000's images are known without it"
        )


def check_split(rows: pd.DataFrame, split: dict[str, str]) -> None:
    """Check the lesions of all rows that are used, those in training, validation or test.

    Args:
        rows: columns image_id, lesion_id, lesion_known and dx.
        split: image_id → split.

    Raises:
        InputError: as `check_lesions`; lesions are unknown where there are several splits; or a lesion is in two
            splits, so that the model would be tested on what it learned.
    """
    rows = used_rows(rows, split)
    check_lesions(rows)
    of_row = rows["image_id"].map(split)
    if of_row.nunique() > 1:
        check_known(rows)
    if torn := torn_lesions(rows, of_row):
        raise InputError(
            f"{len(torn)} lesions in two splits: {some(torn)}; all images of a lesion must be in one split"
        )


def check_known(rows: pd.DataFrame) -> None:
    """Raise InputError where the lesion of an image is unknown: no split can keep the lesion in one part then."""
    unknown = rows.loc[~rows["lesion_known"], "image_id"].tolist()
    if unknown:
        raise InputError(
            f"the lesions of {len(unknown):,} of {len(rows):,} images are unknown ({some(unknown)}), so images of one "
            "lesion could be in training and in test. Add a column lesion_id to the table, or a CSV with the columns "
            "image and lesion_id beside it whose name ends in LesionGroupings.csv; --split all evaluates on all "
            "images without splitting them"
        )


def used_rows(table: pd.DataFrame, split: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows whose image is in training, validation or test."""
    return table[table["image_id"].map(split).isin(SPLITS)]


def repeated_ids(table: pd.DataFrame) -> list[str]:
    """Return the image ids that occur in several rows."""
    return sorted(set(table.loc[table["image_id"].duplicated(), "image_id"]))


def torn_lesions(table: pd.DataFrame, of_image: pd.Series) -> list[str]:
    """Return the lesions whose images differ in `of_image`, such as their split, as "HAM_1 (test and train)"."""
    values = of_image.groupby(table["lesion_id"]).agg(lambda found: sorted(set(found)))
    return [f"{lesion} ({' and '.join(found)})" for lesion, found in values[values.map(len) > 1].items()]


def identical_images(table: pd.DataFrame, checks: dict[str, ImageCheck]) -> list[list[str]]:
    """Return groups of identical images that HAM10000 itself has under several ids of one lesion.

    There are two such pairs among its training and validation lesions. No split separates them, so they are counted.

    Raises:
        InputError: identical images under ids of two lesions, or under ids that are not HAM10000's.
    """
    same_lesion, other_lesion = identical_groups(table, checks)
    wrong = sorted(other_lesion + [ids for ids in same_lesion if not all(map(is_ham10000, ids))])
    if wrong:
        known = table[table["lesion_known"]]
        lesion = dict(zip(known["image_id"], known["lesion_id"], strict=True))
        named = [" = ".join(f"{name} ({lesion.get(name, 'lesion unknown')})" for name in ids) for ids in wrong]
        raise InputError(
            f"{len(wrong)} images have identical pixels under several ids: {some(named)}; keep one of each"
        )
    return same_lesion


def identical_groups(table: pd.DataFrame, checks: dict[str, ImageCheck]) -> tuple[list[list[str]], list[list[str]]]:
    """Return groups of images with the same pixels: those of one lesion, and those of several or unknown lesions.

    Files that differ in their metadata or container only have the same pixels.
    """
    ids_of: dict[str | None, list[str]] = {}
    for image_id in sorted(checks):
        ids_of.setdefault(checks[image_id].pixels_sha256, []).append(image_id)
    groups = [ids for ids in ids_of.values() if len(ids) > 1]
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    several = [len({lesion[image_id] for image_id in ids}) > 1 for ids in groups]
    return (
        [ids for ids, differ in zip(groups, several, strict=True) if not differ],
        [ids for ids, differ in zip(groups, several, strict=True) if differ],
    )


def near_duplicates(table: pd.DataFrame, checks: dict[str, ImageCheck]) -> list[NearPair]:
    """Return the sorted pairs of images of *different* lesions whose perceptual hashes are within `NEAR_BITS`."""
    ids = np.array(sorted(checks))
    if not len(ids):
        return []
    words = [np.frombuffer(bytes.fromhex(str(checks[image_id].phash)), dtype=np.uint8) for image_id in ids]
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


def audit_facts(
    rows: pd.DataFrame, split: dict[str, str], identical: list[list[str]], pairs: list[NearPair]
) -> dict[str, object]:
    """Return the audit as the report shows it.

    The first three counts are 0, since the checks passed. Those about lesions are None if the lesion of any used row
    is unknown.
    """
    across = [[a, split[a], b, split[b], distance] for a, b, distance in pairs if split[a] != split[b]]
    none_found = 0 if rows["lesion_known"].all() else None
    facts: dict[str, object] = {
        "lesions_in_two_splits": none_found,
        "duplicate_image_ids": 0,
        "lesions_with_two_diagnoses": none_found,
        "identical_images": sum(len(list(combinations(ids, 2))) for ids in identical),
    }
    if joined := compare_lesions(rows, official_lesions()).joined:
        facts["lesion_ids_that_join_several_of_ham10000"] = len(joined)
    if alike := look_alikes(rows.loc[rows["lesion_known"], "lesion_id"]):
        facts["lesion_ids_that_look_alike"] = len(alike)
    return facts | {
        "near_duplicates": {
            "method": METHOD,
            "pairs_across_splits": len(across),
            "pairs": across[:_LISTED],
        },
    }
