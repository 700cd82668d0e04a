"""Read the ISIC Archive's export of HAM10000 (other columns, a tree of diagnoses) and ISIC 2018's ground truth."""

import pandas as pd

from ham_hf.data.diagnoses import ISIC_DIAGNOSES, Diagnosed, DiagnosisMap, code_diagnoses
from ham_hf.data.schema import require_columns, without_suffix
from ham_hf.labels import diagnosis_code
from ham_hf.system.errors import InputError

# Levels of the archive's tree of diagnoses, the one that names HAM10000's first; older exports have a single column
DIAGNOSIS_COLUMNS = ("diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis")
# The body site; exports since 2026 have a tree of sites, whose first level is the one most like the older column
SITE_COLUMNS = ("anatom_site_general", "anatom_site_1")

# ISIC 2018, Task 3: a column a diagnosis, in the challenge's own order, which its submissions have too
CHALLENGE_COLUMNS = {
    "MEL": "mel",
    "NV": "nv",
    "BCC": "bcc",
    "AKIEC": "akiec",
    "BKL": "bkl",
    "DF": "df",
    "VASC": "vasc",
}
OTHER_CHALLENGE_COLUMNS = ("AK", "SCC", "UNK")  # of 2019's
NOT_SCORED = "ISIC_0035068"  # the challenge's own scoring gives this image of the test set no weight

CONFIRMATIONS = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}


def from_isic(raw: pd.DataFrame, name: str, diagnosis_map: DiagnosisMap) -> Diagnosed:
    """Rename an ISIC Archive export (every value a string) to HAM10000's columns and diagnoses.

    Every column but isic_id and a diagnosis may be missing: what it would tell is then unknown.

    Raises:
        InputError: one of the two is missing, or a diagnosis is none of HAM10000's.
    """
    columns = [column for column in DIAGNOSIS_COLUMNS if column in raw.columns]
    if not columns:
        require_columns(raw, ("isic_id", "diagnosis_3"), name)
    require_columns(raw, ("isic_id",), name)
    given = raw[columns].apply(lambda column: column.str.strip())
    names = given.where(given != "").bfill(axis=1).iloc[:, 0].fillna("")
    sites = [column for column in SITE_COLUMNS if column in raw.columns]
    rows = pd.DataFrame(
        {
            "lesion_id": _column(raw, "lesion_id"),
            "image_id": raw["isic_id"],
            "dx_type": _column(raw, "diagnosis_confirm_type").replace(CONFIRMATIONS),
            "age": _column(raw, "age_approx").str.removesuffix("+"),  # "85+" is the archive's oldest
            "sex": _column(raw, "sex"),
            "localization": _column(raw, sites[0]).str.lower() if sites else "",
        }
    )
    return code_diagnoses(rows, names, diagnosis_map, ISIC_DIAGNOSES, f"{name}, line")


def from_ground_truth(raw: pd.DataFrame, name: str, diagnosis_map: DiagnosisMap) -> Diagnosed:
    """Rename a one-hot `…_GroundTruth.csv` of an ISIC challenge (strings; image, then 0.0 or 1.0 a diagnosis).

    It names no patient, and lesions only where a column lesion_id was added. The one image that the challenge of 2018
    does not score is dropped, and so are columns that are not diagnoses, such as the weights in that of 2019.

    Raises:
        InputError: a row has not exactly one diagnosis, or one that is none of HAM10000's.
    """
    names = [column for column in raw.columns if _is_diagnosis(column, diagnosis_map)]
    require_columns(raw, ("image", *CHALLENGE_COLUMNS) if len(names) < 2 else ("image",), name)
    raw = raw[raw["image"].str.strip().map(without_suffix) != NOT_SCORED]
    is_one = raw[names].apply(pd.to_numeric, errors="coerce") == 1
    wrong = is_one.sum(axis=1) != 1
    if wrong.any():
        line = wrong.idxmax()
        raise InputError(
            f"{name}, line {line}: {raw.loc[line, 'image']} has {is_one.loc[line].sum()} diagnoses; expected 1.0 in "
            f"one of the columns {', '.join(names)}, and 0.0 in the others"
        )
    rows = pd.DataFrame({"lesion_id": _column(raw, "lesion_id"), "image_id": raw["image"]})
    rows = rows.assign(dx_type="", age="", sex="", localization="")
    one_hot = {column: code for column, code in CHALLENGE_COLUMNS.items() if column in names}
    return code_diagnoses(rows, is_one.idxmax(axis=1), diagnosis_map, one_hot, f"{name}, line", optional=names)


def _is_diagnosis(column: str, diagnosis_map: DiagnosisMap) -> bool:
    known = column in CHALLENGE_COLUMNS or column in OTHER_CHALLENGE_COLUMNS or column in diagnosis_map
    return known or diagnosis_code(column) is not None


def _column(raw: pd.DataFrame, name: str) -> pd.Series:
    return raw[name] if name in raw.columns else pd.Series("", index=raw.index, dtype=str)
