"""From a recipe to its Trainer: data, model, processor, loss, sampler and callbacks."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import (
    BaseImageProcessor,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from ham_hf.config.arguments import BY_RESULT, ModelArguments
from ham_hf.config.option_errors import explained, options_of
from ham_hf.config.recipe import Recipe, RunArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.evaluation import calibration, thresholds
from ham_hf.evaluation.contamination import check_start
from ham_hf.evaluation.hf_metric import HamMetrics
from ham_hf.evaluation.metrics import compute_scores, prediction_spread
from ham_hf.inference.tta import set_test_time_augmentation, which_views
from ham_hf.models.build import (
    build_model,
    build_processor,
    find_checkpoint,
    freeze_parts,
)
from ham_hf.models.check import check_training
from ham_hf.models.depthwise import use_fast_gradients
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.models.multimodal import build_patient_model, build_patient_processor, find_text_encoder
from ham_hf.models.pointwise import take_strides_first
from ham_hf.system.errors import InputError, MachineError, TrainingError
from ham_hf.system.hardware import keep_freed_memory, prefers_channels_last, use_all_cores
from ham_hf.system.hub_access import HubUnreachable
from ham_hf.training.callbacks import CollapseGuard, EarlyStopping, EpochLine, QuietProgress, TellEpoch
from ham_hf.training.datasets import Inputs, build_inputs
from ham_hf.training.losses import POWER, ClassificationLoss, class_weights
from ham_hf.training.optimization import optimizer_class
from ham_hf.training.sampler import WeightedSampler
from ham_hf.training.trainer import HamTrainer

logger = logging.getLogger("ham_hf.train")


@contextmanager
def settings_at_fault() -> Iterator[None]:
    """Turn an InputError into a TrainingError: by now the data and the checkpoint have been found."""
    try:
        yield
    except (MachineError, HubUnreachable):
        raise
    except InputError as error:
        raise TrainingError(str(error)) from error


def build_for_search(recipe: Recipe) -> HamTrainer:
    """The trainer of `ham-hf sweep`: of a recipe's run up to its training, with a new model for every trial."""
    set_up_process(recipe.training)
    if recipe.training.ema_decay or recipe.model.freeze == "backbone":
        raise InputError("ema_decay and freeze: backbone are set up once, before the first trial: sweep with greedy")
    revision = find_checkpoint(recipe.model.model_name_or_path, recipe.model.model_revision).revision
    text_revision = text_revision_of(recipe.model)
    splits, facts, checks = read_data(recipe)
    check_start(recipe.model.model_name_or_path, revision, splits, facts, checks)

    def new_model() -> PreTrainedModel:
        model, _ = build_model_and_processor(recipe, splits, revision, text_revision)
        if wants_channels_last(recipe.training, model):
            model.to(memory_format=torch.channels_last)
        use_fast_gradients(model)
        take_strides_first(model)
        return model

    check_metric_is_defined(recipe.training, splits["validation"]["label"][:], labels_in(splits))
    set_seed(recipe.training.seed)
    with explained("The model could not be set up", options_of(*recipe[:5])):
        model, processor = build_model_and_processor(recipe, splits, revision, text_revision)
        channels_last = wants_channels_last(recipe.training, model)
        inputs = build_inputs(recipe, model, processor, splits, checks, channels_last)
    trainer = build_trainer(recipe, model, processor, splits, inputs)
    trainer.model_init = new_model
    return trainer


def text_revision_of(model: ModelArguments) -> str | None:
    if model.fusion != "mmbt":
        return None
    return find_text_encoder(model.text_model_name_or_path, model.text_model_revision).revision


@settings_at_fault()
def build_model_and_processor(
    recipe: Recipe, splits: DatasetDict, revision: str | None, text_revision: str | None
) -> tuple[PreTrainedModel, BaseImageProcessor | PatientProcessor]:
    """The model of the recipe with a new head, and the processor that is saved with it."""
    args = recipe.model
    processor = build_processor(
        args.model_name_or_path,
        revision=revision,
        image_size=recipe.image.image_size,
        eval_resize=recipe.image.eval_resize,
        normalization=recipe.image.normalization,
    )
    if args.fusion == "none":
        model = build_model(
            args.model_name_or_path,
            revision=revision,
            labels=labels_in(splits),
            config_overrides=args.config_overrides,
        )
    else:
        sites = _known_sites(splits)
        model = build_patient_model(
            args,
            revision=revision,
            text_revision=text_revision,
            labels=labels_in(splits),
            sites=sites,
            image_size=recipe.image.image_size,
        )
        processor = build_patient_processor(args, processor, text_revision=text_revision, sites=sites)
    if args.test_time_augmentation != which_views(model):  # the checkpoint may ask for some of its own
        set_test_time_augmentation(model, args.test_time_augmentation)
    for fitted in (calibration.KEY, thresholds.KEY):  # to the checkpoint's old weights
        if fitted in model.config.to_dict():
            setattr(model.config, fitted, None)
    if args.calibration != "none":
        calibration.last_linear(model)  # raises now where there is none, and not after the training
    if args.freeze != "none":
        freeze_parts(model, args.freeze)
    image = recipe.image
    check_training(
        model,
        processor,
        args.model_name_or_path,
        train_size=image.train_size or image.image_size if image.augment else image.image_size,
        eval_size=image.image_size,
        checkpointing=recipe.training.gradient_checkpointing,
    )
    return model, processor


def labels_in(splits: DatasetDict) -> tuple[str, ...]:
    return tuple(splits["train"].features["label"].names)


def _known_sites(splits: DatasetDict) -> list[str]:
    return sorted({site for split in splits.values() for site in split["localization"][:]} - {"unknown"})


@settings_at_fault()
def build_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    processor: BaseImageProcessor | PatientProcessor,
    splits: DatasetDict,
    inputs: Inputs,
) -> HamTrainer:
    args = recipe.training
    counts = class_counts(splits["train"])
    loss = ClassificationLoss(counts, recipe.loss, args.label_smoothing_factor)
    trainer = HamTrainer(
        model=model,
        args=args,
        train_dataset=inputs.train,
        eval_dataset=inputs.validation,
        processor=processor,
        finish_batch=inputs.finish_batch,
        options=options_of(*recipe[:5]),
        data_collator=inputs.collate,
        train_sampler=_sampler(recipe, splits["train"], counts),
        compute_loss_func=loss,
        compute_metrics=partial(_compute_metrics, names=labels_in(splits)),
        optimizer_cls_and_kwargs=optimizer_class(args),
        callbacks=[*inputs.callbacks, TellEpoch(loss), EpochLine(), CollapseGuard()],
    )
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(args.early_stopping_patience))
    trainer.remove_callback(PrinterCallback)  # the Trainer's replacement of the bar with disable_tqdm
    trainer.remove_callback(ProgressCallback)
    if not args.disable_tqdm and sys.stderr.isatty():
        trainer.add_callback(QuietProgress)
    return trainer


def set_up_process(args: RunArguments) -> None:
    main_process = args.process_index == 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ham_hf").setLevel(logging.INFO if main_process else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading weights; the training bars are the Trainer's own
    where = args.device.type
    if where == "cpu":
        keep_freed_memory()
        where += f" ({use_all_cores(int(os.environ.get('LOCAL_WORLD_SIZE', 1)))} threads each)"
    logger.info("%d process(es) on %s; run folder %s", args.world_size, where, args.output_dir)


def read_data(recipe: Recipe) -> tuple[DatasetDict, dict, Mapping[str, ImageCheck]]:
    """What `load_checked` gives, with as many training images as the recipe asks for."""
    with recipe.training.main_process_first(desc="reading the data"):
        splits, facts, checks = load_checked(recipe.data)
    splits["train"] = _first_samples(splits["train"], recipe.data.max_train_samples, recipe.training.seed)
    _log_data(splits, facts)
    return splits, facts, checks


def _first_samples(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    if count is None or count >= len(dataset):
        return dataset
    return dataset.shuffle(seed=seed).select(range(count))


def _log_data(splits: DatasetDict, facts: dict) -> None:
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    absent = sum(split["absent_images"] for split in facts["splits"].values())
    logger.info(
        "%s, split %s: %s images%s", facts["source"], facts["split"], sizes, f", {absent} absent" if absent else ""
    )
    for name in ("train", "validation"):
        if len(splits[name]) == 0:
            raise InputError(f"the {name} split has no image: training needs both training and validation images")


def check_metric_is_defined(args: RunArguments, labels: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a metric_for_best_model that no predictions for these validation images could define."""
    metric = args.metric_for_best_model.removeprefix("eval_")
    decides = args.load_best_model_at_end or args.save_strategy == "best" or args.lr_scheduler_type in BY_RESULT
    if metric == "loss" or not decides:
        return
    of_perfect_predictions = compute_scores(np.eye(len(names))[labels], np.array(labels), names)
    if np.isnan(of_perfect_predictions[metric]):
        counts = ", ".join(f"{count} {names[label]}" for label, count in sorted(Counter(labels).items()))
        raise TrainingError(
            f"metric_for_best_model is {metric!r}, which is not defined for these validation images ({counts}): "
            "choose another metric, or another split"
        )


def wants_channels_last(args: RunArguments, model: nn.Module) -> bool:
    """Where more than a patch embedding is convolutional: it makes these faster and does nothing for attention."""
    if args.channels_last is not None:
        return args.channels_last
    return prefers_channels_last(args.device) and sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def class_counts(dataset: Dataset) -> list[int]:
    counts = Counter(dataset["label"][:])
    return [counts[i] for i in range(dataset.features["label"].num_classes)]


def _sampler(recipe: Recipe, train: Dataset, counts: list[int]) -> WeightedSampler | None:
    if recipe.loss.sampling == "none":
        return None
    weights = class_weights(counts, POWER[recipe.loss.sampling])
    seed = recipe.training.seed if recipe.training.data_seed is None else recipe.training.data_seed
    return WeightedSampler(weights[train["label"][:]], seed, number_repeats=recipe.image.augment)


def _compute_metrics(prediction: EvalPrediction, names: tuple[str, ...]) -> dict:
    logits = prediction.predictions.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    metrics = HamMetrics(names).compute(predictions=softmax, references=prediction.label_ids)
    metrics |= prediction_spread(softmax)
    return {name: value for name, value in metrics.items() if name != "confusion_matrix"}
