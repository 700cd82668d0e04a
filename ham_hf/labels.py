"""The seven diagnoses of HAM10000, in the one order used everywhere: alphabetical by code. And nevus or other."""

import re
from collections.abc import Iterable

# Tschandl, Rosendahl, Kittler (2018), https://doi.org/10.1038/sdata.2018.161
DIAGNOSES = {
    "akiec": "Actinic keratosis / intraepithelial carcinoma (Bowen's disease)",
    "bcc": "Basal cell carcinoma",
    "bkl": "Benign keratosis-like lesion",
    "df": "Dermatofibroma",
    "mel": "Melanoma",
    "nv": "Melanocytic nevus",
    "vasc": "Vascular lesion",
}
LABELS = tuple(DIAGNOSES)
MALIGNANT = ("akiec", "bcc", "mel")
NEVUS_OR_OTHER = ("nv", "other")  # the study's Model 4
FULL_NAMES = DIAGNOSES | {"other": "Any of the other six diagnoses"}

# Other spellings, of datasets and models on the Hub (marmal88/skin_cancer among them), as `diagnosis_code` reads them
_NAMES = {
    "actinic_keratoses": "akiec",
    "actinic_keratosis": "akiec",
    "basal_cell_carcinoma": "bcc",
    "benign_keratosis": "bkl",
    "benign_keratosis_like_lesions": "bkl",
    "dermatofibroma": "df",
    "melanoma": "mel",
    "melanocytic_nevi": "nv",
    "melanocytic_nevus": "nv",
    "vascular_lesion": "vasc",
    "vascular_lesions": "vasc",
}

DISCLAIMER = (
    "Research software, not a medical device. These numbers are no diagnosis: "
    "show a lesion that worries you to a dermatologist."
)

LICENCE = (
    "HAM10000 is CC BY-NC 4.0: it may be used and passed on with its authors named (Tschandl, Rosendahl and Kittler, "
    "Scientific Data 5:180161, 2018), and not for commercial purposes"
)


def label_set(names: Iterable[str]) -> tuple[str, ...] | None:
    """The seven diagnoses or NEVUS_OR_OTHER, whichever has these names in any order; None if neither has."""
    sets = {frozenset(labels): labels for labels in (LABELS, NEVUS_OR_OTHER)}
    return sets.get(frozenset(names))


def diagnosis_code(name: str) -> str | None:
    """The code of a diagnosis, from its code or full name ("Melanocytic-Nevi") in any case; None if it is neither."""
    words = re.sub(r"[\W_]+", "_", str(name).strip().lower())
    return words if words in FULL_NAMES else _NAMES.get(words)
