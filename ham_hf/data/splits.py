"""Assign images to the training, validation and test splits, always by lesion."""

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from ham_hf.data.lesions import FIRST_IMAGE
from ham_hf.data.schema import some, without_suffix
from ham_hf.data.split_names import check_split_name
from ham_hf.data.spreadsheet import read_table
from ham_hf.system.errors import InputError

SPLITS = ("train", "validation", "test")
EVALUATION_SPLITS = ("validation", "test")
UNUSED = "unused"  # in a CSV: an image that takes no part
HELD_OUT = (0.2, 0.2)  # shares of the lesions in validation and test of the 'grouped' split

_LETTERS = {"t": "train", "v": "validation", "e": "test"}


def assign_splits(
    table: pd.DataFrame, split: str, seed: int = 0, groups: dict[str, str] | None = None
) -> dict[str, str]:
    """Return the split of every image.

    Args:
        table: columns image_id, lesion_id, dx.
        split: 'study', 'grouped', 'all' (every image is a test image), or the path of a CSV (image_id, split).
        seed: of 'grouped' only.
        groups: of 'grouped' only, lesion_id → name of the group that must stay together; each lesion alone if None.

    Returns:
        image_id → "train", "validation" or "test", or from a CSV "unused".

    Raises:
        InputError: the split does not cover the table, or the CSV does not fit.
    """
    match split:
        case "study":
            return study_split(table["image_id"])
        case "grouped":
            return grouped_split(table, seed, groups or {})
        case "all":
            return dict.fromkeys(table["image_id"], "test")
        case path:
            return csv_split(table["image_id"], Path(path))


def study_split(image_ids: pd.Series) -> dict[str, str]:
    """Return the published study's split, by image id: the order of the table and missing rows do not matter."""
    text = resources.files("ham_hf.data").joinpath("study_split.txt").read_text(encoding="ascii")
    letters = "".join(line for line in text.splitlines() if not line.startswith("#"))
    split = {f"ISIC_{FIRST_IMAGE + i:07d}": _LETTERS[letter] for i, letter in enumerate(letters)}
    unknown = [image_id for image_id in image_ids if image_id not in split]
    if unknown:
        raise InputError(
            f"{len(unknown)} images are not HAM10000's ({some(unknown)}): 'study' splits HAM10000's own images "
            "ISIC_0024306 to ISIC_0034320; use --split grouped, or a CSV"
        )
    return {image_id: split[image_id] for image_id in image_ids}


def grouped_split(table: pd.DataFrame, seed: int, groups: dict[str, str]) -> dict[str, str]:
    """60/20/20 of the lesions of each diagnosis; three lesions of a diagnosis are enough to have it in every split.

    Depends on the ids and the seed only, not on the order of the rows.
    """
    lesions = table.drop_duplicates("lesion_id").sort_values("lesion_id")
    group = lesions["lesion_id"].map(lambda lesion: groups.get(lesion, lesion))
    # A group of several lesions counts to the diagnosis of its first one
    diagnosis = dict(zip(group[::-1], lesions["dx"][::-1], strict=True))
    rng = np.random.default_rng(seed)
    split_of_group: dict[str, str] = {}
    for dx in sorted(set(diagnosis.values())):
        members = rng.permutation(sorted(name for name in diagnosis if diagnosis[name] == dx))
        validation, test = (max(round(share * len(members)), 1) if len(members) > 2 else 0 for share in HELD_OUT)
        names = ["validation"] * validation + ["test"] * test + ["train"] * (len(members) - validation - test)
        split_of_group.update(zip(members.tolist(), names, strict=True))
    split_of_lesion = {lesion: split_of_group[name] for lesion, name in zip(lesions["lesion_id"], group, strict=True)}
    return dict(zip(table["image_id"], table["lesion_id"].map(split_of_lesion), strict=True))


def csv_split(image_ids: pd.Series, path: Path) -> dict[str, str]:
    """Return the split from a CSV with columns image_id and split, ignoring rows of images not in the table."""
    rows = read_split_csv(path)
    known = (*SPLITS, UNUSED)
    wrong = rows[~rows["split"].isin(known)]
    if len(wrong):
        value = wrong["split"].iloc[0]
        raise InputError(f"{path}, line {wrong.index[0]}: split is {value!r}, expected one of {', '.join(known)}")
    split = dict(zip(rows["image_id"], rows["split"], strict=True))
    missing = [image_id for image_id in image_ids if image_id not in split]
    if missing:
        raise InputError(f"{path} lacks {len(missing)} images of the table ({some(missing)}): add a row for each")
    return {image_id: split[image_id] for image_id in image_ids}


def read_split_csv(path: Path) -> pd.DataFrame:
    """Return the columns image_id (each once) and split of a CSV, as strings; splits may have any name."""
    check_split_name(str(path))
    rows = read_table(path, ("image_id", "split"))
    if not {"image_id", "split"} <= set(rows.columns):
        raise InputError(f"{path} has columns {', '.join(rows.columns)}; expected image_id and split")
    rows["image_id"] = rows["image_id"].map(without_suffix)
    twice = rows.loc[rows["image_id"].duplicated(), "image_id"].tolist()
    if twice:
        raise InputError(f"{path} has {len(twice)} image ids more than once ({some(twice)}): expected one row each")
    return rows
