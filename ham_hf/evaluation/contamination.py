"""Check whether a model has seen the images that it is evaluated on.

A model's record of its training images (`training_record`) gives exact counts. Older runs have no record, and models
on the Hub that were trained on private images have an incomplete one: for them the hashes in run.json show at most
whether they may have seen the images.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from datasets import DatasetDict

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.lesions import is_ham10000
from ham_hf.data.source import read_source
from ham_hf.data.split_names import NO_LIST, SHIPPED_LISTS
from ham_hf.data.splits import EVALUATION_SPLITS, study_split
from ham_hf.evaluation.overlap import OVERLAP, SEEN, overlap_sentences
from ham_hf.evaluation.training_record import TrainingRecord, find_overlap, images_of, join_records, record_of
from ham_hf.inference.run_files import training_data_of
from ham_hf.system.errors import InputError

logger = logging.getLogger("ham_hf.evaluate")

# In the facts about the data: true if no --split was given, and all images are evaluated (see `load_unseen`)
BY_DEFAULT = "split_by_default"

Loaded = tuple[DatasetDict, dict, dict[str, ImageCheck]]  # of load_checked


def load_unseen(data: DataArguments, name: str, revision: str | None = None) -> tuple[DatasetDict, dict]:
    """Return the splits and facts of `load_checked`, with how many of the images the model has seen among the facts.

    Args:
        data: an empty `split` is replaced: by "all" if no image is from HAM10000 or in the model's training record;
            otherwise by the split of the model's training, or the study's split if that is not known.
        name: a folder or a Hub id, `revision` of the latter.

    Raises:
        InputError: as `load_checked`; or no split was given, and the model was trained with a CSV, or has seen images
            to evaluate. If a split was given, the latter is a warning.
    """
    trained, record = training_data_of(name, revision), record_of(name, revision)
    own = not data.split
    loaded = _load_all_of_strangers(data, trained, record) if own else None
    if own and loaded is None:
        _take_split_of(trained, data, name)
    splits, facts, checks = loaded or load_checked(data)
    if loaded is not None:
        own, data.split, facts[BY_DEFAULT] = False, "all", True
        logger.warning("no image is from HAM10000 or in the training record of %s: using split all", name)
    facts[SEEN], certain = None, None
    if trained is not None and (record is None or not record.complete):
        evaluated = [image_id for split in EVALUATION_SPLITS for image_id in splits[split]["image_id"][:]]
        facts[SEEN], certain = _seen(trained, facts, evaluated)
    facts |= overlap_facts(trained, record, splits, checks)
    found = overlap_sentences(facts, name)
    if found and own and not _same_split(trained, facts):
        raise InputError(
            f"{found[0]} {name} was trained on other images, or with another split: to evaluate it anyway, set "
            "--split, for example to all"
        )
    for sentence in found:
        logger.warning("%s", sentence)
    if facts[SEEN]:
        seen = f"{name} was trained on other images than the training images of this split"
        if own and certain is not None:
            raise InputError(
                f"{seen}, so it may have seen the evaluated ones: if it has not, set --split, for example to all"
            )
        logger.warning("%s: it %s seen some of the evaluated images", seen, "has" if certain else "may have")
    return splits, facts


def _take_split_of(trained: Mapping | None, data: DataArguments, name: str) -> None:
    data.split = "study" if trained is None else trained["split"]
    if trained is not None:
        if data.split not in ("study", "grouped", "all"):
            raise InputError(f"{name} was trained with the split of a CSV: add --split path/to/{data.split}")
        data.split_seed = trained["split_seed"] or 0
        take_split_options_of(trained, data, name)


def take_split_options_of(facts: Mapping, data: DataArguments, name: str) -> None:
    """Set in `data` what else made the split of `facts`: the list of duplicates, unless one was given, for example.

    Raises:
        InputError: that list is not one that ships with ham_hf.
    """
    if facts["audit"]["near_duplicates"].get("grouped"):
        raise InputError(f"the split of {name} was made with --group_near_duplicates, which was removed: set --split")
    data.train_on_validation = facts.get("train_on_validation", False)
    made_with = facts.get("same_lesion", {"list": NO_LIST, "merged": True, "dropped": False})  # of older runs
    data.drop_hidden_duplicates = made_with["dropped"]
    if data.same_lesion is not None or not made_with["merged"]:
        return
    if made_with["list"] not in (*SHIPPED_LISTS, NO_LIST):
        raise InputError(
            f"the split of {name} was made with a list of duplicates: add --same_lesion path/to/{made_with['list']}"
        )
    data.same_lesion = made_with["list"]


def are_strangers(data: DataArguments, name: str, revision: str | None = None) -> bool:
    """Return whether no image of `data` is from HAM10000 or in the training record of the model `name`."""
    return _load_all_of_strangers(data, training_data_of(name, revision), record_of(name, revision)) is not None


def _load_all_of_strangers(
    data: DataArguments, trained: Mapping | None, record: TrainingRecord | None
) -> Loaded | None:
    """Load all images as test images if none is from HAM10000 or in the record; otherwise return None."""
    if trained is not None and record is None and trained["split"] != "study":  # which has HAM10000's images alone
        return None
    everything = replace(data, split="all", drop_hidden_duplicates=False)
    if any(map(is_ham10000, read_source(everything).table["image_id"])):
        return None
    loaded = splits, facts, checks = load_checked(everything)
    if trained is not None and trained["images_sha256"] == facts["images_sha256"]:
        return None
    found = [] if record is None else find_overlap(record, splits, checks).values()
    return None if any(counts["train"] or counts["validation"] for counts in found) else loaded


def overlap_facts(
    trained: Mapping | None, record: TrainingRecord | None, splits: DatasetDict, checks: Mapping[str, ImageCheck]
) -> dict:
    """Return, under OVERLAP, what the facts about the data say of the images that a model has seen.

    Args:
        trained: the facts about the data of the model's own training, None without a run.json.
        record: that of the model, None if it has none.
        splits: of `load_checked`, and so `checks`.
    """
    if record is None:  # an older run's hashes tell more than that: see `_seen`
        return {OVERLAP: {"record": "none"}} if trained is None else {}
    state = "complete" if record.complete else "incomplete"
    return {OVERLAP: {"record": state, **find_overlap(record, splits, checks)}}


def check_start(
    name: str, revision: str | None, splits: DatasetDict, facts: dict, checks: Mapping[str, ImageCheck]
) -> TrainingRecord:
    """Return the record of a checkpoint to train from, and add to `facts` what it has seen.

    Args:
        name: a Hub id, `revision` of it, a folder or `pypi:…`.
        splits: of `load_checked`, and so `facts` and `checks`.

    Returns:
        An empty, complete record for a checkpoint that was not trained with ham_hf.

    Raises:
        InputError: it was trained on images that are validation or test images now, or on their lesions.
    """
    facts[SEEN] = None
    if name.startswith("pypi:"):
        return TrainingRecord([], True)
    trained, record = training_data_of(name, revision), record_of(name, revision)
    if trained is not None and (record is None or not record.complete):
        facts[SEEN] = _seen_before(name, trained, facts)
    if record is None:
        # With all of the training images, those of an older run are among them
        whole = len(splits["train"]) == facts["splits"]["train"]["images"]
        return TrainingRecord([], trained is None or (facts[SEEN] is None and whole))
    facts |= overlap_facts(trained, record, splits, checks)
    _check_unseen(name, trained, facts)
    return record


def check_members(
    runs: Sequence[Path], splits: DatasetDict, facts: dict, checks: Mapping[str, ImageCheck]
) -> TrainingRecord:
    """Return the record of an ensemble of `runs`, and add to `facts` what its members have seen.

    Args:
        runs: run folders, trained on images of `splits`.
        splits: of `load_checked`, and so `facts` and `checks`.

    Raises:
        InputError: a member was trained on images to evaluate, or on their lesions, with another split.
    """
    records = []
    facts[SEEN] = None
    for run in runs:
        trained, record = training_data_of(str(run)), record_of(str(run))
        if record is None:  # an older run, on these training images; those that it began with may be others
            assert trained is not None  # members are runs
            record = TrainingRecord(images_of(splits["train"], checks, "train"), trained.get(SEEN) is None)
        if not record.complete:
            assert trained is not None
            facts[SEEN] = max(facts[SEEN] or 0, trained.get(SEEN) or 0) or None
        records.append(record)
        _check_unseen(str(run), trained, facts | overlap_facts(trained, record, splits, checks))
    record = join_records(records)
    facts |= overlap_facts(None, record, splits, checks)
    return record


def doubts_about(
    name: str, revision: str | None, splits: DatasetDict, facts: Mapping, checks: Mapping[str, ImageCheck]
) -> dict[str, str]:
    """Return, by split, why figures of a model on these images prove little; no entry for splits it has not seen.

    Args:
        name: a folder or a Hub id, `revision` of the latter.
        splits: of `load_checked`, and so `facts` and `checks`.
    """
    trained, record = training_data_of(name, revision), record_of(name, revision)
    found = overlap_facts(trained, record, splits, checks)
    doubts = {split: " ".join(overlap_sentences(found, "this model", (split,))) for split in EVALUATION_SPLITS}
    if (
        trained is not None
        and (record is None or not record.complete)
        and trained["splits"]["train"]["sha256"] != facts["splits"]["train"]["sha256"]
    ):
        may = "the training images differ from those of this split: some evaluated images may be among them"
        doubts = {split: doubt or may for split, doubt in doubts.items()}
    return {split: doubt for split, doubt in doubts.items() if doubt}


def _check_unseen(name: str, trained: Mapping | None, facts: Mapping) -> None:
    """Raise InputError if a model has seen images to evaluate, or their lesions; warn if its own split did that."""
    found = overlap_sentences(facts, name)
    seen = any(facts[OVERLAP][split]["train"] or facts[OVERLAP][split]["siblings"] for split in EVALUATION_SPLITS)
    if seen and not _same_split(trained, facts):
        raise InputError(f"{found[0]} Use the --split of its training, or a model that has seen none of them")
    for sentence in found:
        logger.warning("%s", sentence)


def _seen_before(name: str, trained: Mapping, facts: Mapping) -> int | None:
    """Return how many images a checkpoint without a complete record was trained on that may be evaluated now."""
    seen, certain = _seen(trained, facts)
    if certain:
        raise InputError(
            f"{name} was trained on these images under another split, {trained['split']}, and has seen validation or "
            "test images of this one: use its --split, or a checkpoint that has seen none of them"
        )
    if seen:
        logger.warning("%s was trained on %s other images before; the report states this", name, f"{seen:,}")
    return seen


def _same_split(trained: Mapping | None, facts: Mapping) -> bool:
    """Return whether the model was trained with exactly this split of these images."""
    return trained is not None and all(
        trained["splits"][split]["sha256"] == facts["splits"][split]["sha256"]
        for split in ("train", *EVALUATION_SPLITS)
    )


def _seen(trained: Mapping, facts: Mapping, evaluated: Sequence[str] = ()) -> tuple[int | None, bool | None]:
    """Return how many training images of a model may be validation or test images of `facts`, and whether some are.

    That is None where not the model's own training images are in question, but those of the checkpoint that its
    training began with. `evaluated` are image_ids, which tell where `facts` have no training images.
    """
    before, now = trained["splits"], facts["splits"]
    same_images = trained["images_sha256"] == facts["images_sha256"]
    # The second is for a model that tells other classes apart, of which a split has other hashes
    same_split = same_images and trained["split_sha256"] == facts["split_sha256"]
    if before["train"]["sha256"] == now["train"]["sha256"] or same_split:
        return trained.get(SEEN), None
    if same_images or before["train"]["sha256"] in [now[split]["sha256"] for split in EVALUATION_SPLITS]:
        return before["train"]["images"], True
    if not now["train"]["images"]:
        if trained["split"] == "study":  # so that it was trained on images of HAM10000 alone
            of_ham10000 = pd.Series(list(filter(is_ham10000, evaluated)), dtype=object)
            certain = "train" in study_split(of_ham10000).values()
            return (before["train"]["images"], True) if certain else (trained.get(SEEN), None)
    return before["train"]["images"], False
