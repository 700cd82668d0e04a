"""Find evaluated images that show a lesion of a training image, however it was turned, cropped or edited."""

import logging
from typing import Any

from datasets import DatasetDict

from ham_hf.config.arguments import DataArguments
from ham_hf.data.duplicates.search import Collection, search_duplicates
from ham_hf.data.image_hashes import check_images
from ham_hf.data.source import read_source
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.overlap import COPIES, overlap_sentences
from ham_hf.evaluation.training_record import record_of
from ham_hf.system.errors import InputError

logger = logging.getLogger("ham_hf.evaluate")


def find_training_copies(name: str, revision: str | None, training_data: DataArguments, splits: DatasetDict) -> dict:
    """Return, under COPIES, the evaluated images that show the same as a training image by their local features.

    Args:
        name: a model folder or a Hub id, `revision` of the latter.
        training_data: images that include the model's. Those that its training record lists are compared, or all of
            them if the model has no record.
        splits: of `load_checked`.

    Raises:
        InputError: none of the images is a training image, or they cannot be read.
    """
    source, record = read_source(training_data), record_of(name, revision)
    checks = {image_id: check for image_id, check in check_images(source.dataset).items() if check.error is None}
    if record is not None:
        trained = {image.pixels_sha256 for image in record.images if image.split == "train"}
        checks = {image_id: check for image_id, check in checks.items() if check.pixels_sha256 in trained}
    if not checks:
        raise InputError(
            f"{training_data.data_dir} has no training image of {name}: expected the data of its training"
        )
    images: dict[str, Any] = {}
    for split in EVALUATION_SPLITS:
        evaluated = Collection(splits[split], check_images(splits[split]))
        pairs = search_duplicates(evaluated, Collection(source.dataset, checks)) if len(splits[split]) else []
        images[split] = sorted({pair.image_a for pair in pairs})
    facts = {COPIES: {"training_images": len(checks), "images": images}}
    for sentence in overlap_sentences(facts, name):
        logger.warning("%s", sentence)
    return facts
