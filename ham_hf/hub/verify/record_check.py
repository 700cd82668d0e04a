"""Is the record of the training images beside a card whole? A shorter one would hide that the model saw an image."""

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset

from ham_hf import __version__
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.lesions import is_ham10000
from ham_hf.evaluation.training_record import images_of, read_record
from ham_hf.hub.published_files import RECORD
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, Finding


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
    same = run["data"]["splits"]["train"]["sha256"] == sha256
    private = sum(not is_ham10000(image_id) for image_id in train["image_id"][:]) if same else None
    if not (folder / RECORD).is_file():
        if private == 0 and report.get("ham_hf") == __version__:  # an older training writes none
            return [Finding(RECORD, CANNOT_TELL, "is missing, and is published with a model of HAM10000's images")]
        return []
    record = read_record(folder / RECORD)
    unlisted = 0 if record.complete else private  # as `ham-hf push` takes those images out
    if run["training"] is None or unlisted is None:
        return []
    images = [image.sha256 for image in record.images if image.split == "train"]
    if same:
        known = {image.sha256 for image in images_of(train, checks, "train")}
        images = [sha256 for sha256 in images if sha256 in known]
    if len(images) + unlisted >= run["training"]["images"]:
        return []
    words = f"lists {len(images):,} images of this training, and report.json says {run['training']['images']:,}"
    return [Finding(RECORD, FALSE, words)]
