"""The seven diagnoses of HAM10000, in the one order used everywhere: alphabetical by code."""

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

DISCLAIMER = (
    "Research software, not a medical device. These numbers are no diagnosis: "
    "show a lesion that worries you to a dermatologist."
)
