"""Treat lesions as one where images under different lesion ids are known to show the same lesion.

HAM10000 hides duplicates: the list that ships with ham_hf has the published ones and those found with `ham-hf data
duplicates`. A file of decisions that its review page exports replaces it.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ham_hf.data.schema import some, without_suffix
from ham_hf.data.spreadsheet import read_table
from ham_hf.system.errors import InputError

SHIPPED = "ham10000-1"  # a list that has been published does not change: another one gets another number
NONE = "none"
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
        source: the name of a shipped list, "none" for no pairs, the path of a CSV with the columns image_a, image_b and
            decision, or None for the newest shipped list.

    Raises:
        InputError: there is no such list or file, or a decision is not one of `DECISIONS`.
    """
    if source == NONE:
        return SameLesion(NONE, frozenset())
    name = SHIPPED if source is None else source
    if re.fullmatch(r"ham10000-\d+", name):
        if name != SHIPPED:
            raise InputError(f"same_lesion is {name!r}, which this version of ham_hf does not have: it has {SHIPPED}")
        with resources.as_file(resources.files("ham_hf.data").joinpath("ham10000_same_lesion_1.csv")) as path:
            return SameLesion(name, _read_pairs(path))
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(
            f"same_lesion is {name!r}: expected a CSV with the columns {', '.join(_COLUMNS)}, as `ham-hf data "
            f"duplicates` exports it, {SHIPPED} (the list for HAM10000) or {NONE}"
        )
    return SameLesion(path.name, _read_pairs(path))


def merge_lesions(table: pd.DataFrame, pairs: Iterable[ImagePair]) -> dict[str, str]:
    """Return lesion_id → lesion_id of the first lesion of its group; pairs of images join lesions into groups.

    Args:
        table: columns image_id, lesion_id and dx.
        pairs: those with an image that the table does not have are ignored.

    Raises:
        InputError: the pairs join lesions of different diagnoses.
    """
    lesion = dict(zip(table["image_id"], table["lesion_id"], strict=True))
    group = {name: {name} for name in lesion.values()}
    for first, second in pairs:
        if first in lesion and second in lesion:
            merged = group[lesion[first]] | group[lesion[second]]
            group.update(dict.fromkeys(merged, merged))
    merged_as = {name: min(members) for name, members in group.items()}
    _check_diagnoses(table, merged_as)
    return merged_as


def _check_diagnoses(table: pd.DataFrame, merged_as: Mapping[str, str]) -> None:
    diagnoses = table.groupby(table["lesion_id"].map(merged_as))["dx"].agg(lambda found: sorted(set(found)))
    members = pd.Series(merged_as).groupby(pd.Series(merged_as)).size()
    torn = [f"{name} ({' and '.join(found)})" for name, found in diagnoses.items() if len(found) > 1 < members[name]]
    if torn:
        raise InputError(
            f"{len(torn)} lesions that the list of duplicates joins have two diagnoses: {some(torn)}; correct the list, "
            "or the diagnoses"
        )


def _read_pairs(path: Path) -> frozenset[ImagePair]:
    rows = read_table(path, _COLUMNS)
    if not set(_COLUMNS) <= set(rows.columns):
        raise InputError(f"{path} has columns {', '.join(rows.columns)}; expected {', '.join(_COLUMNS)}")
    wrong = rows[~rows["decision"].isin(DECISIONS)]
    if len(wrong):
        value = wrong["decision"].iloc[0]
        raise InputError(
            f"{path}, line {wrong.index[0]}: decision is {value!r}, expected one of {', '.join(DECISIONS)}"
        )
    same = rows[rows["decision"] == "same lesion"]
    pairs = zip(same["image_a"].map(without_suffix), same["image_b"].map(without_suffix), strict=True)
    return frozenset((min(pair), max(pair)) for pair in pairs)
