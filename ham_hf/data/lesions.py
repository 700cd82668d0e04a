"""Find out which images show the same lesion, from HAM10000's own table and tables beside the data.

A grouping maps image ids to lesion names. Two groupings agree when they put the same images together: names do not
matter (the ISIC Archive calls HAM10000's lesions IL_…, one to one).
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import NamedTuple

import pandas as pd

FIRST_IMAGE, LAST_IMAGE = 24306, 34320  # HAM10000's 10,015 ids are consecutive, from ISIC_0024306

Grouping = Mapping[str, str]


def is_ham10000(image_id: str) -> bool:
    """Return whether an image id is one of HAM10000's own, ISIC_0024306 to ISIC_0034320."""
    number = re.fullmatch(r"ISIC_(\d{7})", image_id, flags=re.ASCII)
    return number is not None and FIRST_IMAGE <= int(number[1]) <= LAST_IMAGE


@functools.cache
def official_lesions() -> dict[str, str]:
    """Return image_id → lesion_id for each of HAM10000's 10,015 images, from its published table."""
    text = resources.files("ham_hf.data").joinpath("ham10000_lesions.txt").read_text(encoding="ascii")
    numbers = " ".join(line for line in text.splitlines() if not line.startswith("#")).split()
    return {f"ISIC_{FIRST_IMAGE + i:07d}": f"HAM_{int(number):07d}" for i, number in enumerate(numbers)}


def complete_lesions(table: pd.DataFrame, groupings: Iterable[Grouping] = ()) -> pd.DataFrame:
    """Fill in the lesions that a table does not name, as far as they are known.

    Args:
        table: columns image_id and lesion_id, the latter None where it is missing.
        groupings: used in this order, before HAM10000's own.

    Returns:
        The table with a column `lesion_known`. Where it is false, no source knows the lesion, and `lesion_id` is the
        image_id.
    """
    ids = table["image_id"].tolist()
    lesions = [None if pd.isna(name) else name for name in table["lesion_id"]]
    for grouping in (*groupings, official_lesions()):
        # An image joins the lesion as the table calls it, where the table names another image of that lesion
        name_here: dict[str, str] = {}
        for image_id, name in zip(ids, lesions, strict=True):
            if name is not None and image_id in grouping:
                name_here.setdefault(grouping[image_id], name)
        for row, image_id in enumerate(ids):
            if lesions[row] is None and image_id in grouping:
                lesions[row] = name_here.get(grouping[image_id], grouping[image_id])
    known = [name is not None for name in lesions]
    filled = [image_id if name is None else name for image_id, name in zip(ids, lesions, strict=True)]
    return table.assign(lesion_id=filled, lesion_known=known)


class Contradictions(NamedTuple):
    """Differences between a table's lesions and those of a grouping, each as "name (other name and other name)".

    `separated` are lesions of the grouping whose images have several lesion_ids in the table; `joined` are lesion_ids
    of the table that cover several lesions of the grouping.
    """

    separated: list[str]
    joined: list[str]


def compare_lesions(table: pd.DataFrame, grouping: Grouping) -> Contradictions:
    """Compare the known lesions of `table` (image_id, lesion_id, lesion_known) with those of a grouping."""
    known = table[table["lesion_known"] & table["image_id"].isin(grouping.keys())]
    named = known["image_id"].map(grouping)
    return Contradictions(_several(named, known["lesion_id"]), _several(known["lesion_id"], named))


def look_alikes(lesion_ids: Iterable[str]) -> list[list[str]]:
    """Return groups of different lesion ids that probably name one lesion, sorted.

    They differ only in case, in spaces, hyphens and underscores, in accents or invisible characters, in the width of
    characters, by letters of other alphabets that look like Latin ones, or by a .0 at the end.
    """
    groups: dict[str, set[str]] = {}
    for name in lesion_ids:
        groups.setdefault(_skeleton(name), set()).add(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


# Greek and Cyrillic letters, in lower case, that look like a Latin one in upper or lower case
_CONFUSABLE = str.maketrans(
    "αβεζηικμνορτυχγ" + "авекмнорстухіјѕԁһӏԛԝ",
    "abezhikmnoptyxy" + "abekmhopctyxijsdhlqw",
)


def _skeleton(name: str) -> str:
    """Return a form of an id in which look-alikes are equal."""
    decomposed = unicodedata.normalize("NFKD", name)
    shown = "".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    # pandas makes 12.0 of the number 12 where other rows have none
    return re.sub(r"[\s_\-‐-―]+", "_", shown.casefold().removesuffix(".0").translate(_CONFUSABLE)).strip("_")


def _several(key: pd.Series, values: pd.Series) -> list[str]:
    pairs = pd.DataFrame({"key": key.to_numpy(), "value": values.to_numpy()}).drop_duplicates()
    pairs = pairs[pairs["key"].duplicated(keep=False)]
    return [f"{name} ({' and '.join(sorted(found))})" for name, found in pairs.groupby("key")["value"]]
