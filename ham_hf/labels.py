"""The seven diagnoses of HAM10000, in the one order used everywhere: alphabetical by code. And nevus or other."""

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


DISCLAIMER = (
    "Research software, not a medical device. These numbers are no diagnosis: "
    "show a lesion that worries you to a dermatologist."
)


def label_set(names: Iterable[str]) -> tuple[str, ...] | None:
    """The seven diagnoses or NEVUS_OR_OTHER, whichever has these names in any order; None if neither has."""
    sets = {frozenset(labels): labels for labels in (LABELS, NEVUS_OR_OTHER)}
    return sets.get(frozenset(names))
