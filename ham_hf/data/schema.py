"""Check the table of images, with the same columns for every source, and build the Dataset."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ham_hf.data.image_io import SUFFIXES
from ham_hf.data.lesions import Grouping, complete_lesions
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError

if TYPE_CHECKING:  # seconds to import, and commands about reports need only the names below
    from datasets import Dataset, Features

COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
REQUIRED = COLUMNS[1:]  # lesion_id may be missing
_MISSING = {
    *("", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "none", "null"),
    *("unknown", "missing", "?", "-", "--", "–", "—"),
}
_OLDEST = 120  # years


class Source(NamedTuple):
    """A `table` and a `dataset` with the same rows, sorted by image_id; no image where `has_image` is false."""

    kind: str  # folder, imagefolder, isic, isic2018, hub or synthetic
    table: pd.DataFrame
    dataset: "Dataset"
    dropped: Mapping[str, int] = {}  # dropped rows, by the diagnosis that --diagnosis_map maps to null


def canonical_features() -> "Features":
    """Return the columns of every split. The image stays encoded (bytes, or a path) until it is accessed."""
    from datasets import ClassLabel, Features, Image, Value

    return Features(
        {
            "image": Image(),
            "image_id": Value("string"),
            "lesion_id": Value("string"),
            "label": ClassLabel(names=list(LABELS)),
            "dx_type": Value("string"),  # how the diagnosis was made; leaks the label, never a model input
            "age": Value("float32"),  # years, None where unknown
            "sex": Value("string"),  # male, female or unknown
            "localization": Value("string"),  # a site, or unknown
        }
    )


def clean_table(raw: pd.DataFrame, where: str, groupings: Iterable[Grouping] = ()) -> pd.DataFrame:
    """Return the columns of `raw` with one spelling of missing values, and the lesions as far as they are known.

    Args:
        raw: HAM10000's columns, lesion_id optional, and any others; error messages show its index.
        where: what the index counts, such as "HAM10000_metadata.csv, line".
        groupings: image_id → lesion of other tables, for the rows without a lesion_id.

    Returns:
        A table with a new index and the columns `COLUMNS` and `lesion_known`: see `complete_lesions`. `dx_type` and
        `age` (float) may be None or NaN, `sex` and `localization` are "unknown" where missing.

    Raises:
        InputError: a column is missing, or a value does not fit, with its row.
    """
    require_columns(raw, REQUIRED, where.split(",")[0])
    if "lesion_id" not in raw.columns:
        raw = raw.assign(lesion_id=None)
    table = raw[list(COLUMNS)].astype(object).map(text_or_none)
    table["image_id"] = table["image_id"].map(without_suffix, na_action="ignore")
    _reject(table, table["image_id"].isna(), where, "image_id", "an image_id in every row")
    for column in COLUMNS:
        odd = table[column].map(lambda text: isinstance(text, str) and not text.isprintable()).astype(bool)
        _reject(table, odd, where, column, "text without control characters")
    _reject(table, ~table["dx"].isin(LABELS), where, "dx", f"one of {', '.join(LABELS)}")
    age = pd.to_numeric(table["age"].map(age_or_none, na_action="ignore"))
    _reject(table, table["age"].notna() & age.isna(), where, "age", "a number of years, or nothing")
    _reject(table, (age < 0) | (age > _OLDEST), where, "age", f"0 to {_OLDEST} years, or nothing")
    table["age"] = age.astype(float)
    table["sex"] = table["sex"].map(spell_sex, na_action="ignore").fillna("unknown")
    _reject(table, ~table["sex"].isin(["male", "female", "unknown"]), where, "sex", "male, female or unknown")
    table["localization"] = table["localization"].fillna("unknown").str.lower()
    return complete_lesions(table.reset_index(drop=True), groupings)


def require_columns(raw: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    """Raise InputError if the table `name` lacks one of `columns`."""
    missing = [column for column in columns if column not in raw.columns]
    if missing:
        found = ", ".join(map(repr, raw.columns)) or "none"
        raise InputError(
            f"{name} lacks the columns {', '.join(missing)}: it has {found}; expected {', '.join(columns)}; "
            "rename its columns, or add those that are missing"
        )
    if not len(raw):
        raise InputError(f"{name} has a header and no rows: expected a row per image")


def build_dataset(table: pd.DataFrame, images: "Dataset") -> "Dataset":
    """Put the column `image` of `images` beside the rows of `table`, in the same order, as `canonical_features()`."""
    from datasets import Dataset, Features, concatenate_datasets

    columns = {name: [None if pd.isna(value) else value for value in table[name]] for name in COLUMNS}
    columns["label"] = [LABELS.index(dx) for dx in table["dx"]]
    features = canonical_features()
    names = [name for name in features if name != "image"]
    rest = Dataset.from_dict(
        {name: columns[name] for name in names}, features=Features({name: features[name] for name in names})
    )
    return concatenate_datasets([images, rest], axis=1)


def text_or_none(value: object) -> str | None:
    """Return a cell's text without the spaces around it, or None where it stands for a missing value."""
    if value is None or value != value:  # NaN
        return None
    text = str(value).strip()
    return None if text.lower() in _MISSING else text


def without_suffix(image_id: str) -> str:
    """Return the id of an image that a table calls by its file name."""
    name, dot, suffix = image_id.rpartition(".")
    return name if name and f".{suffix.lower()}" in SUFFIXES else image_id


def age_or_none(text: str) -> float | None:
    """Return an age in years, such as "45", "45.5", "45 years" or DICOM's "045Y"; None where it is none."""
    found = re.fullmatch(r"(-?\d+\.?\d*)\s*(y|yrs?|years?)?", text, re.ASCII | re.IGNORECASE)
    return float(found[1]) if found else None


def spell_sex(text: str) -> str:
    """Return "male" and "female" for their initials, and anything else in lower case."""
    return {"m": "male", "f": "female"}.get(text.lower(), text.lower())


def _reject(table: pd.DataFrame, wrong: pd.Series, where: str, column: str, expected: str) -> None:
    if not wrong.any():
        return
    row = wrong.idxmax()
    others = f" (and {wrong.sum() - 1} more rows)" if wrong.sum() > 1 else ""
    value = table.loc[row, column]
    found = "missing" if value is None or value != value else repr(value)[:80]
    raise InputError(f"{where} {row}: {column} is {found}{others}, expected {expected}")


def some(names: list[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
