"""The ISIC Archive's export of HAM10000 (other column names, a tree of diagnoses), and ISIC 2018's ground truth."""

import pandas as pd

from ham_hf.data.table import require_columns
from ham_hf.errors import InputError

ISIC_COLUMNS = (
    "isic_id",
    "diagnosis_2",
    "diagnosis_3",
    "diagnosis_confirm_type",
    "age_approx",
    "sex",
    "anatom_site_general",
)

# The archive's most specific diagnosis (diagnosis_3, or diagnosis_2 where that is empty) → HAM10000's.
# Those marked * are how the archive names HAM10000's own images; the others are what HAM10000's paper
# (https://doi.org/10.1038/sdata.2018.161, "Diagnostic categories") counts to the same category.
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
NOT_SCORED = "ISIC_0035068"  # the challenge's own scoring gives this image of the test set no weight

CONFIRMATIONS = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}


def from_isic(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rename an ISIC Archive export (every value a string) to HAM10000's columns and diagnoses.

    lesion_id is "" where the export does not have it.

    Raises:
        InputError: a column is missing, or a diagnosis is none of HAM10000's.
    """
    require_columns(raw, ISIC_COLUMNS, name)
    specific = raw["diagnosis_3"].str.strip()
    diagnosis = specific.where(specific != "", raw["diagnosis_2"].str.strip())
    unknown = ~diagnosis.isin(ISIC_DIAGNOSES)
    if unknown.any():
        line = unknown.idxmax()
        raise InputError(
            f"{name}, line {line}: diagnosis {diagnosis[line]!r} of {raw.loc[line, 'isic_id']} is none of HAM10000's "
            f"({unknown.sum()} such rows); expected one of {'; '.join(ISIC_DIAGNOSES)}. Leave these rows out"
        )
    return pd.DataFrame(
        {
            "lesion_id": raw["lesion_id"] if "lesion_id" in raw.columns else "",
            "image_id": raw["isic_id"],
            "dx": diagnosis.map(ISIC_DIAGNOSES),
            "dx_type": raw["diagnosis_confirm_type"].replace(CONFIRMATIONS),
            "age": raw["age_approx"],
            "sex": raw["sex"],
            "localization": raw["anatom_site_general"],
        }
    )


def from_ground_truth(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """ISIC 2018's `…_GroundTruth.csv` (strings; image, then 0.0 or 1.0 a diagnosis) as HAM10000's columns.

    It names no patient, and lesions only where a column lesion_id was added. The one image that the challenge does
    not score is left out.

    Raises:
        InputError: a column is missing, or a row has not exactly one diagnosis.
    """
    require_columns(raw, ("image", *CHALLENGE_COLUMNS), name)
    raw = raw[raw["image"] != NOT_SCORED]
    is_one = raw[list(CHALLENGE_COLUMNS)].apply(pd.to_numeric, errors="coerce") == 1
    wrong = is_one.sum(axis=1) != 1
    if wrong.any():
        line = wrong.idxmax()
        raise InputError(
            f"{name}, line {line}: {raw.loc[line, 'image']} has {is_one.loc[line].sum()} diagnoses; expected 1.0 in "
            f"one of the columns {', '.join(CHALLENGE_COLUMNS)}, and 0.0 in the others"
        )
    return pd.DataFrame(
        {
            "lesion_id": raw["lesion_id"] if "lesion_id" in raw.columns else "",
            "image_id": raw["image"],
            "dx": is_one.idxmax(axis=1).map(CHALLENGE_COLUMNS),
            "dx_type": "",
            "age": "",
            "sex": "",
            "localization": "",
        }
    )
