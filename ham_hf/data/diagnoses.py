"""Map the diagnoses of a table to the seven codes, with the user's --diagnosis_map before our own names."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ham_hf.labels import LABELS, diagnosis_code
from ham_hf.system.errors import InputError

DiagnosisMap = Mapping[str, str | None]

# How the ISIC Archive names diagnoses → HAM10000's. Those marked * are its names for HAM10000's own images; the others
# are what HAM10000's paper (https://doi.org/10.1038/sdata.2018.161, "Diagnostic categories") counts to the same one.
ISIC_DIAGNOSES = {
    "Solar or actinic keratosis": "akiec",  # *
    "Squamous cell carcinoma, NOS": "akiec",  # * HAM10000's are all in situ (Bowen's disease); invasive ones are not
    "Squamous cell carcinoma in situ": "akiec",
    "Squamous cell carcinoma in situ, Bowen's disease": "akiec",
    "Basal cell carcinoma": "bcc",  # *
    "Pigmented benign keratosis": "bkl",  # *
    "Seborrheic keratosis": "bkl",
    "Solar lentigo": "bkl",
    "Lichen planus like keratosis": "bkl",
    "Dermatofibroma": "df",  # *
    "Melanoma, NOS": "mel",  # *
    "Melanoma in situ": "mel",
    "Melanoma Invasive": "mel",
    "Nevus": "nv",  # *
    "Benign soft tissue proliferations - Vascular": "vasc",  # * has no diagnosis_3
    "Hemangioma": "vasc",
    "Angiokeratoma": "vasc",
    "Pyogenic granuloma": "vasc",
}
_LISTED = 8


class Diagnosed(NamedTuple):
    """Rows with their codes in `dx`; `dropped` counts the dropped rows, by the diagnosis that the map drops."""

    rows: pd.DataFrame
    dropped: dict[str, int]


def code_diagnoses(
    rows: pd.DataFrame,
    names: pd.Series,
    diagnosis_map: DiagnosisMap,
    known: Mapping[str, str],
    where: str,
    optional: Sequence[str] = (),
) -> Diagnosed:
    """Put the code of each row's diagnosis into the column `dx`, and leave out the rows that the map drops.

    Args:
        rows: a table; its index numbers the rows for error messages.
        names: the diagnosis of each row, as the table has it.
        diagnosis_map: diagnosis → code or None, without regard to case and surrounding spaces; goes before `known`.
        known: diagnosis → code of this kind of table; `diagnosis_code` is asked last.
        where: what the index counts, such as "metadata.csv, line".
        optional: diagnoses that the map may name although no row has them.

    Raises:
        InputError: a diagnosis is none of the seven, or the map names one that the table does not have.
    """
    names = names.astype(str).str.strip()
    given = {_key(name): code for name, code in diagnosis_map.items()}
    known = {_key(name): code for name, code in known.items()}
    found = {name: _code(name, given, known) for name in names.unique()}
    unknown = [name for name, code in found.items() if code == ""]
    if unknown:
        raise InputError(_unknown(names, unknown, where))
    there = {_key(name) for name in (*found, *optional)}
    if unused := [name for name in diagnosis_map if _key(name) not in there]:
        raise InputError(
            f"diagnosis_map names {unused[0]!r}, which is not a diagnosis in {where.split(',')[0]}: it has "
            f"{', '.join(sorted(found))}"
        )
    codes = names.map(found)
    dropped = names[codes.isna()].value_counts().sort_index()
    kept = codes.notna()
    return Diagnosed(rows[kept].assign(dx=codes[kept]), {name: int(count) for name, count in dropped.items()})


def is_known(name: str, diagnosis_map: DiagnosisMap) -> bool:
    """Return whether the map or one of our names says what a diagnosis is."""
    return _key(name) in map(_key, diagnosis_map) or diagnosis_code(name) is not None


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _code(name: str, given: DiagnosisMap, known: Mapping[str, str]) -> str | None:
    """Return the code of a diagnosis, None for one to drop, and "" for one that is unknown."""
    if _key(name) in given:
        return given[_key(name)]
    return known.get(_key(name)) or diagnosis_code(name) or ""


def _unknown(names: pd.Series, unknown: list[str], where: str) -> str:
    counts = names[names.isin(unknown)].value_counts()
    listed = [f"{_shown(name)} ({_rows(count)})" for name, count in counts.head(_LISTED).items()]
    if len(counts) > _LISTED:
        listed.append(f"{len(counts) - _LISTED} more")
    example = json.dumps({counts.index[0]: None})
    return (
        f"{where} {names.isin(unknown).idxmax()}: the diagnosis is {_shown(names[names.isin(unknown)].iloc[0])}, "
        f"expected one of {', '.join(LABELS)}, or a name of one. Of this kind: {', '.join(listed)}. Say which of the "
        f"seven they are, or null to drop their rows, with --diagnosis_map '{example}'"
    )


def _shown(name: str) -> str:
    return repr(name)[:80] if name else "missing"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
