"""The two sets of classes: the seven diagnoses of HAM10000, alphabetical by code, and nevus or other."""

import re
from collections.abc import Iterable
from typing import Literal

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
Classes = Literal["diagnoses", "nevus_or_other"]  # the choices of `classes` in a recipe
CLASSES: dict[Classes, tuple[str, ...]] = {"diagnoses": LABELS, "nevus_or_other": NEVUS_OR_OTHER}
FULL_NAMES = DIAGNOSES | {"other": "Any of the other six diagnoses"}

# Other spellings in datasets and models, normalized as in `_words`. Only names that mean exactly one of HAM10000's
# categories: not "lentigo" (solar or maligna), "SK" (seborrheic or solar keratosis), "SCC" (invasive or in situ), or a
# special kind of nevus, such as a sebaceous one
_NAMES = {
    "akiec": """
        ak, ack, actinic_keratosis, actinic_keratoses, solar_keratosis, solar_keratoses,
        solar_or_actinic_keratosis, intraepithelial_carcinoma, bowen_s_disease, bowens_disease, bowen_disease,
        actinic_keratosis_bowen_s_disease, actinic_keratoses_bowen_s_disease,
        actinic_keratosis_intraepithelial_carcinoma, actinic_keratoses_intraepithelial_carcinoma,
        actinic_keratosis_and_intraepithelial_carcinoma, actinic_keratoses_and_intraepithelial_carcinoma,
        actinic_keratoses_and_intraepithelial_carcinomae, actinic_keratoses_and_intraepithelial_carcinomas,
        actinic_keratoses_and_intraepithelial_carcinoma_bowen_s_disease,
        actinic_keratoses_and_intraepithelial_carcinomae_bowen_s_disease,
        actinic_keratosis_and_intraepithelial_carcinoma_bowen_s_disease""",
    "bcc": "basal_cell_carcinoma, basal_cell_carcinomas",
    "bkl": """
        sek, benign_keratosis, benign_keratoses, benign_keratosis_like_lesion, benign_keratosis_like_lesions,
        pigmented_benign_keratosis, pigmented_benign_keratoses,
        seborrheic_keratosis, seborrheic_keratoses, seborrhoeic_keratosis, seborrhoeic_keratoses,
        solar_lentigo, solar_lentigines, lplk, lichen_planus_like_keratosis, lichen_planus_like_keratoses,
        benign_keratosis_like_lesions_solar_lentigines_seborrheic_keratoses_and_lichen_planus_like_keratoses""",
    "df": "dermatofibroma, dermatofibromas",
    "mel": "melanoma, melanomas, malignant_melanoma, melanoma_in_situ, melanoma_nos",
    "nv": """
        nev, nevus, nevi, naevus, naevi, melanocytic_nevus, melanocytic_nevi, melanocytic_naevus,
        melanocytic_naevi""",
    "vasc": """
        vascular_lesion, vascular_lesions, angioma, angiomas, hemangioma, hemangiomas, haemangioma, haemangiomas,
        angiokeratoma, angiokeratomas, pyogenic_granuloma, pyogenic_granulomas,
        vascular_lesions_angiomas_angiokeratomas_pyogenic_granulomas_and_hemorrhage""",
}


def _words(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


_CODES = {word: code for code, names in _NAMES.items() for word in re.split(r",\s+", names.strip())}
_CODES |= {word: code for code, name in FULL_NAMES.items() for word in (code, _words(name))}

DISCLAIMER = (
    "Research software, not a medical device. These numbers are no diagnosis: "
    "show a lesion that worries you to a dermatologist."
)

LICENSE = (
    "HAM10000 is CC BY-NC 4.0: it may be used and passed on with its authors named (Tschandl, Rosendahl and Kittler, "
    "Scientific Data 5:180161, 2018), and not for commercial purposes"
)


def label_set(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the one of CLASSES that has these names, in whatever order; None if neither has."""
    return {frozenset(labels): labels for labels in CLASSES.values()}.get(frozenset(names))


def classes_of(labels: Iterable[str]) -> Classes:
    """Return "diagnoses" or "nevus_or_other", from the labels of a model that has one of these sets."""
    return {labels: classes for classes, labels in CLASSES.items()}[tuple(labels)]


def diagnosis_code(name: str) -> str | None:
    """Return the code of a diagnosis, or None if the name is unknown or ambiguous.

    Case, plural and punctuation do not matter, and the code may accompany the name: "mel", "Melanocytic-Nevi",
    "Melanocytic nevi (nv)", "AK".
    """
    words = _words(str(name))
    if words in _CODES:
        return _CODES[words]
    first, _, after = words.partition("_")
    before, _, last = words.rpartition("_")
    for code, rest in ((first, after), (last, before)):
        if code in FULL_NAMES and _CODES.get(rest) == code:
            return code
    return None
