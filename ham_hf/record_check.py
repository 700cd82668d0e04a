"""Is the record of the training images beside a card whole? A shorter one would hide that the model saw an image."""

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset

from ham_hf import __version__
from ham_hf.consistency import CANNOT_TELL, FALSE, Finding
from ham_hf.data.images import ImageCheck
from ham_hf.data.lesions import is_ham10000
from ham_hf.published import RECORD
from ham_hf.training_record import images_of, read_record


def check_record(
    folder: Path, report: Mapping, train: Dataset, sha256: str, checks: Mapping[str, ImageCheck]
) -> list[Finding]:
    """Return what is missing of training_images.csv in `folder`.

    Args:
        folder: with the record.
        report: report.json's content.
        train: the training images of this split, `sha256` their hash in the facts about the data.
        checks: of `load_checked`.

    Raises:
        InputError: the record is not as a training writes it.
    """
    run = report["run"]
    trained = run["training"] is not None or "members" in run["model"]
    if not trained or run["data"]["splits"]["train"]["sha256"] != sha256:  # of other images, `doubts_about` tells
        return []
    private = sum(not is_ham10000(image_id) for image_id in train["image_id"][:])
    if not (folder / RECORD).is_file():
        if private or report.get("ham_hf") != __version__:  # an older training writes none
            return []
        return [Finding(RECORD, CANNOT_TELL, "is missing, and a training on images of HAM10000 publishes it")]
    if run["training"] is None:
        return []
    record = read_record(folder / RECORD)
    known = {image.sha256 for image in images_of(train, checks, "train")}
    listed = sum(image.split == "train" and image.sha256 in known for image in record.images)
    claimed = run["training"]["images"]
    if listed >= claimed - (0 if record.complete else private):
        return []
    words = f"lists {listed:,} training images of this split, and report.json says that there were {claimed:,}"
    return [Finding(RECORD, FALSE, words)]
