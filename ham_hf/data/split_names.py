"""Check the name of a split, without reading anything."""

from pathlib import Path

from ham_hf.system.errors import InputError

BUILT_IN = ("study", "grouped", "all")


def check_split_name(split: str) -> None:
    """Raise InputError if `split` is neither the name of a split nor the path of an existing file."""
    if split not in BUILT_IN and not Path(split).is_file():
        names = ", ".join(map(repr, BUILT_IN))
        raise InputError(f"split is {split!r}: expected {names}, or a CSV with columns image_id and split")
