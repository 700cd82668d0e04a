"""Check the names of a split and of a list of duplicates, without reading anything."""

from pathlib import Path

from ham_hf.system.errors import InputError

BUILT_IN = ("study", "grouped", "all")
SHIPPED_LISTS = ("ham10000-1", "ham10000-2")  # one that runs have used does not change: more pairs make another one
SHIPPED_LIST = SHIPPED_LISTS[-1]
NO_LIST = "none"


def check_split_name(split: str) -> None:
    """Raise InputError if `split` is neither the name of a split nor the path of an existing file."""
    if split not in BUILT_IN and not Path(split).is_file():
        names = ", ".join(map(repr, BUILT_IN))
        raise InputError(f"split is {split!r}: expected {names}, or a CSV with columns image_id and split")


def check_list_name(same_lesion: str) -> None:
    """Raise InputError if `same_lesion` is neither the name of a list nor the path of an existing file."""
    if same_lesion not in (*SHIPPED_LISTS, NO_LIST) and not Path(same_lesion).expanduser().is_file():
        raise InputError(
            f"same_lesion is {same_lesion!r}: expected {SHIPPED_LIST} (HAM10000's known duplicates), {NO_LIST}, or a "
            "CSV with the columns image_a, image_b and decision, as the review page of `ham-hf data duplicates` "
            "exports it"
        )
