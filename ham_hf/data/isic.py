"""The ISIC Archive's export of HAM10000: other column names, a tree of diagnoses, fewer body sites."""

import pandas as pd

from ham_hf.data.table import require_columns
from ham_hf.errors import InputError

ISIC_COLUMNS = (
    "isic_id",
    "lesion_id",
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

CONFIRMATIONS = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}


def from_isic(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rename an ISIC Archive export (every value a string) to HAM10000's columns and diagnoses.

    An image without a lesion_id gets a lesion of its own, named after the image.

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
    lesion = raw["lesion_id"].str.strip()
    return pd.DataFrame(
        {
            "lesion_id": lesion.where(lesion != "", raw["isic_id"]),
            "image_id": raw["isic_id"],
            "dx": diagnosis.map(ISIC_DIAGNOSES),
            "dx_type": raw["diagnosis_confirm_type"].replace(CONFIRMATIONS),
            "age": raw["age_approx"],
            "sex": raw["sex"],
            "localization": raw["anatom_site_general"],
        }
    )
