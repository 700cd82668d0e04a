"""Read the data of a run and prepare what the Trainer reads: images, decoded or cached, or a backbone's features."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset, DatasetDict, Image, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback

from ham_hf.config.recipe import Recipe
from ham_hf.data.crops import eval_crops
from ham_hf.data.dataset import load_checked
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.pixel_cache import build_cache
from ham_hf.data.same_lesion import read_same_lesion
from ham_hf.inference.batches import image_processor
from ham_hf.labels import CLASSES
from ham_hf.models.build import classifier_of
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.system.errors import InputError, TrainingError
from ham_hf.training.callbacks import TellEpoch
from ham_hf.training.frozen_features import Features, answer_from_features, collate_features, compute_features
from ham_hf.training.sampler import Repeats
from ham_hf.training.soft_labels import SoftLabels, match
from ham_hf.training.teachers import read_teachers
from ham_hf.training.transforms import (
    CachedImages,
    Collator,
    EvalTransform,
    FinishBatch,
    TrainTransform,
    with_image_weights,
    with_soft_labels,
)

logger = logging.getLogger("ham_hf.train")


class Data(NamedTuple):
    """The splits of a run, the facts about them for run.json, the hashes by image_id, and the soft labels, if any."""

    splits: DatasetDict
    facts: dict
    checks: Mapping[str, ImageCheck]
    soft_labels: SoftLabels | None = None


def read_data(recipe: Recipe) -> Data:
    """Read the images of a recipe, with at most `max_train_samples` training images, and its soft labels.

    Raises:
        InputError: the data or the soft labels cannot be used, or there is no training or no validation image.
    """
    teachers = None
    if recipe.loss.soft_labels is not None:  # which takes seconds, unlike the images
        teachers = read_teachers(Path(recipe.loss.soft_labels).expanduser(), CLASSES[recipe.data.classes])
    with recipe.training.main_process_first(desc="reading the data"):
        splits, facts, checks = load_checked(recipe.data)
    count = recipe.data.max_train_samples
    if count is not None and count < len(splits["train"]):
        splits["train"] = splits["train"].shuffle(seed=recipe.training.seed).select(range(count))
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    absent = sum(split["absent_images"] for split in facts["splits"].values())
    logger.info(
        "%s, split %s: %s images%s", facts["source"], facts["split"], sizes, f", {absent} absent" if absent else ""
    )
    for name in ("train",) if recipe.data.train_on_validation else ("train", "validation"):
        if len(splits[name]) == 0:
            raise InputError(f"the {name} split has no image: training requires both training and validation images")
    if teachers is None:
        return Data(splits, facts, checks)
    pairs = read_same_lesion(recipe.data.same_lesion).pairs
    return Data(splits, facts, checks, match(teachers, splits, checks, pairs, recipe.loss.soft_label_weight))


class Inputs(NamedTuple):
    """The datasets that the Trainer reads; `finish_batch` is called with batches on the model's device."""

    train: Dataset | Repeats | Features
    validation: Dataset | Features
    collate: Callable
    finish_batch: FinishBatch
    callbacks: list[TrainerCallback]


def build_inputs(
    recipe: Recipe,
    model: PreTrainedModel,
    processor: BaseImageProcessor | PatientProcessor,
    data: Data,
    channels_last: bool,
) -> Inputs:
    """Return the training and validation images as the recipe prepares them.

    A frozen backbone that would compute the same in every epoch runs here, once; `model` then reads its features.
    """
    splits = data.splits
    images, crops = _cached(recipe, data, processor)
    finish_batch = FinishBatch(processor, recipe.image, model.config.num_labels)
    collate = Collator(channels_last)
    whole = EvalTransform(processor, crops)
    validation = _encoded(splits["validation"]).with_transform(whole)
    by_dx_type = recipe.loss.dx_type_weights
    assert not isinstance(by_dx_type, str)  # LossArguments has parsed it
    weigh = _image_weights(by_dx_type, splits["train"]["dx_type"][:])
    teach = _soft_labels(data.soft_labels, splits["train"]["image_id"][:])
    if recipe.image.augment:
        random = TrainTransform(recipe.image, processor, recipe.training.seed, images)
        rows, transform = _encoded(splits["train"]), teach(weigh(random))
        train = rows.with_transform(transform) if recipe.loss.sampling == "none" else Repeats(rows, transform)
        return Inputs(train, validation, collate, finish_batch, [TellEpoch(random)])
    train = _encoded(splits["train"]).with_transform(teach(weigh(whole)))
    if not _trains_on_features(recipe, model):
        return Inputs(train, validation, collate, finish_batch, [])
    logger.info("the backbone is frozen and images are not augmented: computing its features once")
    args = recipe.training
    model.to(args.device)
    assert args.bf16 is not None  # RunArguments has set it
    half = torch.float16 if args.fp16 else torch.bfloat16
    features = {
        name: compute_features(
            model,
            map(finish_batch, DataLoader(dataset, args.per_device_eval_batch_size, collate_fn=collate)),
            torch.autocast(args.device.type, half, enabled=args.fp16 or args.bf16),
            description=f"{name} features",
        )
        for name, dataset in {"training": train, "validation": validation}.items()
    }
    answer_from_features(model)
    return Inputs(features["training"], features["validation"], collate_features, finish_batch, [])


def _cached(
    recipe: Recipe, data: Data, processor: BaseImageProcessor | PatientProcessor
) -> tuple[CachedImages | None, CachedImages | None]:
    """Return the cached training images, and the cached evaluation crops of all others; None without pixel_cache."""
    if not recipe.data.pixel_cache:
        return None, None
    splits, checks = data.splits, data.checks
    sha256s = {image_id: check.sha256 for image_id, check in checks.items()}
    images, whole = None, [splits["validation"]]
    if recipe.image.augment:
        images = CachedImages(build_cache(splits["train"], checks), sha256s)
    else:
        whole.append(splits["train"])
    crops = eval_crops(concatenate_datasets(whole), checks, image_processor(processor))
    return images, None if crops is None else CachedImages(crops, sha256s)


def _image_weights(by_dx_type: Mapping[str, float] | None, dx_types: list[str | None]) -> Callable:
    """Return a function that adds image weights to a transform, with mean 1 over the training images' `dx_types`."""
    if by_dx_type is None:
        return lambda transform: transform
    counts = Counter(dx_type or "unknown" for dx_type in dx_types)
    if left_out := sorted(counts.keys() - by_dx_type.keys()):
        raise TrainingError(
            f"dx_type_weights has no weight for {', '.join(left_out)}: the training images have {', '.join(counts)}"
        )
    mean = sum(by_dx_type[dx_type] * count for dx_type, count in counts.items()) / counts.total()
    if not mean:
        raise TrainingError("dx_type_weights is 0 for every training image: there is nothing to learn from")
    weights = {dx_type: weight / mean for dx_type, weight in by_dx_type.items()}
    return lambda transform: partial(with_image_weights, weights, transform)


def _soft_labels(soft_labels: SoftLabels | None, image_ids: list[str]) -> Callable:
    """Return a function that adds soft labels, in the order of `image_ids`, to a transform."""
    if soft_labels is None:
        return lambda transform: transform
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    return lambda transform: partial(with_soft_labels, row_of, soft_labels.targets, transform)


def _trains_on_features(recipe: Recipe, model: PreTrainedModel) -> bool:
    """Return whether to train on features: not with sharded models, or with weights of single images."""
    args = recipe.training
    return (
        recipe.model.freeze == "backbone"
        and len(classifier_of(model)) == 1  # unlike MMBT's
        and not (args.fsdp or args.deepspeed or recipe.loss.dx_type_weights)
    )


def _encoded(dataset: Dataset) -> Dataset:
    """Leave decoding to the transforms, which use threads; `datasets` decodes one image after the other."""
    return dataset.cast_column("image", Image(decode=False))
