"""Treat images under different lesion ids as images of one lesion, where a list says that they are.

HAM10000 hides such duplicates: ham_hf ships a list of them. The review page of `ham-hf data duplicates` exports a list
for other images.
"""

from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from datasets import Dataset

from ham_hf.data.schema import some, without_suffix
from ham_hf.data.split_names import NO_LIST, SHIPPED_LIST, SHIPPED_LISTS, check_list_name
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.data.spreadsheet import read_table
from ham_hf.system.errors import InputError

DECISIONS = ("same lesion", "same patient", "different", "unsure")
_COLUMNS = ("image_a", "image_b", "decision")

ImagePair = tuple[str, str]


class SameLesion(NamedTuple):
    """Pairs of images that show one lesion, in alphabetical order, and the name of the list that says so."""

    name: str
    pairs: frozenset[ImagePair]


def read_same_lesion(source: str | None) -> SameLesion:
    """Return the pairs of a list.

    Args:
        source: one of `SHIPPED_LISTS`, the last of which None stands for, "none" for no pairs, or the path of a CSV
            with the columns image_a, image_b and decision.

    Raises:
        InputError: there is no such list or file, or a decision is not one of `DECISIONS`.
    """
    if source == NO_LIST:
        return SameLesion(NO_LIST, frozenset())
    source = source or SHIPPED_LIST
    if source in SHIPPED_LISTS:
        return SameLesion(source, _shipped_pairs(source))
    check_list_name(source)
    path = Path(source).expanduser()
    return SameLesion(path.name, _read_decisions(path))


def group_lesions(table: pd.DataFrame, pairs: Iterable[ImagePair]) -> dict[str, str]:
    """Return lesion_id → first lesion_id of its group; pairs of images join lesions into groups.

    Args:
        table: columns image_id and lesion_id.
        pairs: those with an image that the table does not have are ignored.
    """
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    group = {name: {name} for name in lesion.values()}
    for first, second in pairs:
        if first in lesion and second in lesion:
            merged = group[lesion[first]] | group[lesion[second]]
            group.update(dict.fromkeys(merged, merged))
    return {name: min(members) for name, members in group.items()}


def merge_lesions(table: pd.DataFrame, split: Mapping[str, str], groups: Mapping[str, str]) -> pd.Series:
    """Return the lesion_id of each row, the same for the lesions of a group that are in the same split.

    Lesions of a group that a fixed split puts in several splits keep their ids: see `hidden_duplicates`.
    """
    keys = pd.DataFrame({"group": table["lesion_id"].map(groups), "split": table["image_id"].map(split)})
    return table["lesion_id"].groupby([keys["group"], keys["split"]]).transform("min")


def hidden_duplicates(
    table: pd.DataFrame, split: Mapping[str, str], groups: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return, by evaluation split, the images whose lesion is in training under another lesion_id, sorted."""
    trained = _groups_in(table, split, groups, ("train",))
    return {name: _images_in(table, split, groups, name, trained) for name in EVALUATION_SPLITS}


def training_duplicates(table: pd.DataFrame, split: Mapping[str, str], groups: Mapping[str, str]) -> list[str]:
    """Return the training images whose lesion is in an evaluation split under another lesion_id.

    It makes no difference whether the images are there, so that every copy of the data has the same training images.
    """
    evaluated = _groups_in(table, split, groups, EVALUATION_SPLITS)
    return _images_in(table, split, groups, "train", evaluated)


def with_lesions(rows: Dataset, lesion_ids: Iterable[str]) -> Dataset:
    """Return the same rows with other lesion ids, without decoding images."""
    changed = rows.remove_columns("lesion_id").add_column(
        "lesion_id", list(lesion_ids), feature=rows.features["lesion_id"]
    )
    return changed.select_columns(rows.column_names)


def _shipped_pairs(name: str) -> frozenset[ImagePair]:
    """Return the pairs of a list that ships with ham_hf; each list has those of the lists before it."""
    text = resources.files("ham_hf.data").joinpath("ham10000_duplicates.csv").read_text(encoding="ascii")
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")][1:]
    known = SHIPPED_LISTS[: SHIPPED_LISTS.index(name) + 1]
    return frozenset((first, second) for first, second, _, added in rows if added in known)


def _groups_in(
    table: pd.DataFrame, split: Mapping[str, str], groups: Mapping[str, str], names: Collection[str]
) -> set[str]:
    inside = table["image_id"].map(split).isin(names)
    return set(table.loc[inside, "lesion_id"].map(groups))


def _images_in(
    table: pd.DataFrame, split: Mapping[str, str], groups: Mapping[str, str], name: str, lesions: Collection[str]
) -> list[str]:
    inside = (table["image_id"].map(split) == name) & table["lesion_id"].map(groups).isin(lesions)
    return sorted(table.loc[inside, "image_id"])


def _read_decisions(path: Path) -> frozenset[ImagePair]:
    rows = read_table(path, _COLUMNS)
    if not set(_COLUMNS) <= set(rows.columns):
        raise InputError(f"{path} has columns {', '.join(rows.columns)}; expected {', '.join(_COLUMNS)}")
    wrong = rows[~rows["decision"].isin(DECISIONS)]
    if len(wrong):
        value = wrong["decision"].iloc[0]
        raise InputError(
            f"{path}, line {wrong.index[0]}: decision is {value!r}, expected one of {', '.join(DECISIONS)}"
        )
    same = rows[rows["decision"] == DECISIONS[0]]
    pairs = list(zip(same["image_a"].map(without_suffix), same["image_b"].map(without_suffix), strict=True))
    if alone := [first for first, second in pairs if first == second]:
        raise InputError(f"{path} pairs {len(alone)} images with themselves ({some(alone)}): expected two images")
    return frozenset((min(pair), max(pair)) for pair in pairs)
