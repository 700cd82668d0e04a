"""Which names of diagnoses are known, and which are left to the user because they could mean something else."""

import pytest

from ham_hf.labels import FULL_NAMES, LABELS, diagnosis_code

# HAM10000's own long names, as its description on Kaggle and many models on the Hub have them
LONG_NAMES = {
    "akiec": "Actinic keratoses and intraepithelial carcinoma / Bowen's disease",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis-like lesions (solar lentigines / seborrheic keratoses and lichen-planus like keratoses)",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevi",
    "vasc": "vascular lesions (angiomas, angiokeratomas, pyogenic granulomas and hemorrhage)",
}
KNOWN = {
    "akiec": "AK; ACK; Actinic Keratosis; actinic_keratoses; AKIEC; Bowen’s disease; Solar or actinic keratosis;"
    "Actinic keratosis / intraepithelial carcinoma (Bowen's disease)",
    "bcc": "BCC; Basal-Cell Carcinoma; basal cell carcinoma (bcc); bcc - basal cell carcinoma",
    "bkl": "SEK; seborrheic keratosis; Seborrhoeic Keratoses; benign_keratosis-like_lesions; BKL: Benign keratosis;"
    "solar lentigo; Pigmented benign keratosis; lichen planus-like keratosis",
    "df": " df ; Dermatofibromas",
    "mel": "MEL; Melanoma; malignant melanoma; melanoma (MEL); Melanoma in situ; Melanoma, NOS",
    "nv": "NV; NEV; nevus; Naevi; Melanocytic-Nevi; Melanocytic nevi (nv)",
    "vasc": "VASC; Vascular lesions; Hemangioma; pyogenic granuloma",
    "other": "other; Other",
}
# Invasive squamous cell carcinoma is none of the seven; a lentigo, "SK" or a nevus of some kind may be one or another
UNKNOWN = """
    SCC; squamous cell carcinoma; SK; lentigo; lentigo maligna; nevus sebaceous; blue nevus; nevus of Ota; dysplastic
    nevus; keratosis; carcinoma; benign; malignant; nevus nevus; not melanoma; melanoma metastasis; melanoma (nv);
    nv melanoma; mel nv; LABEL_0; 4; ; -; unknown; Scar
"""


@pytest.mark.parametrize("code", KNOWN)
def test_a_diagnosis_is_known_by_its_code_and_its_names(code):
    names = [*KNOWN[code].split(";"), FULL_NAMES[code]]
    if code in LABELS:
        names += [LONG_NAMES[code], f"{LONG_NAMES[code]} ({code})", LONG_NAMES[code].upper()]
    assert {name: diagnosis_code(name) for name in names} == dict.fromkeys(names, code)


def test_what_could_mean_something_else_is_not_known():
    names = [" ".join(name.split()) for name in UNKNOWN.split(";")]
    assert {name: diagnosis_code(name) for name in names} == dict.fromkeys(names)
