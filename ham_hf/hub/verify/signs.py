"""Is a card one of ham_hf's? Any sign of it will do, since a forger removes what says so most plainly."""

from collections.abc import Sequence
from pathlib import Path

from ham_hf.hub.published_files import CHECKSUMS, EVAL_RESULTS
from ham_hf.hub.verify.claims import CARD, Claim, read_card
from ham_hf.labels import DISCLAIMER
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_text

# By file, text of which each part is a sign; a file of which everything is one has the empty text
_MARKS = {
    CARD: ("ham_hf", "ham-hf", "splits by lesion", "always nv", "How to check these claims", DISCLAIMER[:45]),
    "report.md": ("always nv", DISCLAIMER[:45]),
    "report.html": ("ham_hf", "ham-hf", DISCLAIMER[:45]),
    "run.json": ("",),
    "arguments.json": ("allow_missing_images", "drop_hidden_duplicates", "group_near_duplicates"),
    "config.json": ("test_time_augmentation", "melanoma_threshold", "prior_strength"),
    "predictions_validation.csv": ("image_id,lesion_id,label",),
    "predictions_test.csv": ("image_id,lesion_id,label",),
    CHECKSUMS: ("report.json", "run.json"),
    EVAL_RESULTS: ("",),
}
_TAGS = {"ham10000", "dermatology", "skin-lesion", "medical"}


def signs_of_ours(folder: Path, claims: Sequence[Claim]) -> list[str]:
    """Return what shows that ham_hf wrote the card in `folder`, or a part of what lies beside it."""
    found = [name for name, marks in _MARKS.items() if _has_any(folder / name, marks)]
    if (folder / CARD).is_file():
        tags = read_card(folder / CARD).values.get("tags")
        if isinstance(tags, list) and _TAGS <= set(map(str, tags)):
            found.append("its tags")
    if any(claim.sha256 or "classes" in claim.dataset_args for claim in claims):
        found.append("its claims")
    if any(str(claim.metric.get("type")).startswith("melanoma_sensitivity_at_") for claim in claims):
        found.append("its metrics")
    return found


def _has_any(path: Path, marks: Sequence[str]) -> bool:
    if not path.is_file():
        return False
    try:
        text = read_text(path)
    except InputError:  # damaged, and called like a file of ours
        return True
    return any(mark in text for mark in marks)
