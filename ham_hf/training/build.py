"""Build the Trainer of a recipe: model, processor, inputs, loss, sampler and callbacks."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from datasets import Dataset, DatasetDict, disable_progress_bars
from scipy.special import softmax
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
from ham_hf.evaluation import calibration
from ham_hf.evaluation.hf_metric import HamMetrics
from ham_hf.evaluation.metrics import compute_scores, prediction_spread
from ham_hf.inference.classifier import THRESHOLD
from ham_hf.inference.tta import set_test_time_augmentation, which_views
from ham_hf.labels import LABELS
from ham_hf.models.build import Revisions, build_model, build_processor, find_checkpoint, freeze_parts
from ham_hf.models.check import check_training
from ham_hf.models.depthwise import use_fast_gradients
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.models.multimodal import build_patient_model, build_patient_processor, find_text_encoder
from ham_hf.models.pointwise import take_strides_first
from ham_hf.system.errors import InputError, MachineError, TrainingError
from ham_hf.system.hardware import keep_freed_memory, prefers_channels_last, use_all_cores
from ham_hf.system.hub_access import HubUnreachable
from ham_hf.training.callbacks import CollapseGuard, EarlyStopping, EpochLine, QuietProgress, TellEpoch
from ham_hf.training.datasets import Data, Inputs, build_inputs
from ham_hf.training.losses import POWER, ClassificationLoss, class_weights
from ham_hf.training.optimization import optimizer_class
from ham_hf.training.sampler import WeightedSampler
from ham_hf.training.trainer import HamTrainer

logger = logging.getLogger("ham_hf.train")


@contextmanager
def settings_at_fault() -> Iterator[None]:
    """Turn an InputError into a TrainingError, because the data and the checkpoint have been found by now."""
    try:
        yield
    except (MachineError, HubUnreachable):
        raise
    except InputError as error:
        raise TrainingError(str(error)) from error


def set_up_process(args: RunArguments) -> None:
    """Set up logging, threads and memory of this process."""
    main_process = args.process_index == 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ham_hf").setLevel(logging.INFO if main_process else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading weights; the training bars are the Trainer's own
    if not sys.stderr.isatty():
        disable_progress_bars()
    where = args.device.type
    if where == "cpu":
        keep_freed_memory()
        where += f" ({use_all_cores(int(os.environ.get('LOCAL_WORLD_SIZE', 1)))} threads each)"
    logger.info("%d process(es) on %s; run folder %s", args.world_size, where, args.output_dir)


def find_revisions(model: ModelArguments) -> Revisions:
    """Return the commits of the checkpoints, without downloading their weights.

    Raises:
        InputError: a checkpoint is not available, or of another kind than expected.
    """
    assert model.model_name_or_path is not None  # checked by `parse_recipe`
    image = find_checkpoint(model.model_name_or_path, model.model_revision).revision
    text = None
    if model.fusion == "mmbt":
        assert model.text_model_name_or_path is not None
        text = find_text_encoder(model.text_model_name_or_path, model.text_model_revision).revision
    return Revisions(image, text)


def check_validation(recipe: Recipe, splits: DatasetDict) -> None:
    """Raise a TrainingError if what the recipe chooses on the validation images is not defined for them."""
    labels = splits["validation"]["label"][:]
    if recipe.model.melanoma_sensitivity is not None and LABELS.index("mel") not in labels:
        raise TrainingError("melanoma_sensitivity: no melanoma among the validation images, to fit a threshold on")
    args = recipe.training
    assert args.metric_for_best_model is not None  # it has a default
    metric = args.metric_for_best_model.removeprefix("eval_")
    decides = args.load_best_model_at_end or args.save_strategy == "best" or args.lr_scheduler_type in BY_RESULT
    if metric == "loss" or not decides:
        return
    names = labels_in(splits)
    of_perfect_predictions = compute_scores(np.eye(len(names))[labels], np.array(labels), names)
    if np.isnan(of_perfect_predictions[metric]):
        counts = ", ".join(f"{count} {names[label]}" for label, count in sorted(Counter(labels).items()))
        raise TrainingError(
            f"metric_for_best_model is {metric!r}, which is not defined for these validation images ({counts}): "
            "choose another metric, or another split"
        )


def build_trainer(recipe: Recipe, data: Data, revisions: Revisions) -> HamTrainer:
    """Build the Trainer of a recipe, with its model, data and callbacks.

    Raises:
        InputError: the model cannot be built from the checkpoint.
        TrainingError: the settings do not fit the model, the data or each other.
    """
    set_seed(recipe.training.seed)  # before the new classifier is drawn
    with explained("The model could not be set up", options_of(*recipe[:5])):
        model, processor = _build_model_and_processor(recipe, data.splits, revisions)
        channels_last = wants_channels_last(recipe.training, model)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        use_fast_gradients(model)
        take_strides_first(model)
        inputs = build_inputs(recipe, model, processor, data, channels_last)
    trainer = _assemble(recipe, model, processor, data.splits, inputs)
    trainer.channels_last = channels_last
    return trainer


@settings_at_fault()
def _build_model_and_processor(
    recipe: Recipe, splits: DatasetDict, revisions: Revisions
) -> tuple[PreTrainedModel, BaseImageProcessor | PatientProcessor]:
    """Return the recipe's model with a new classifier, and the processor that is saved with it."""
    args, image = recipe.model, recipe.image
    assert args.model_name_or_path is not None  # checked by `parse_recipe`
    assert not isinstance(args.config_overrides, str)  # ModelArguments has parsed it
    processor = build_processor(
        args.model_name_or_path,
        revision=revisions.image,
        image_size=image.image_size,
        eval_resize=image.eval_resize,
        normalization=image.normalization,
    )
    labels = labels_in(splits)
    if args.fusion == "none":
        model = build_model(
            args.model_name_or_path, revision=revisions.image, labels=labels, config_overrides=args.config_overrides
        )
    else:
        sites = sorted({site for split in splits.values() for site in split["localization"][:]} - {"unknown"})
        model = build_patient_model(args, revisions, labels=labels, sites=sites, image_size=image.image_size)
        processor = build_patient_processor(args, processor, text_revision=revisions.text, sites=sites)
    if args.test_time_augmentation != which_views(model):  # the checkpoint may have its own
        set_test_time_augmentation(model, args.test_time_augmentation)
    for fitted in (calibration.KEY, THRESHOLD):  # to the checkpoint's old weights
        if fitted in model.config.to_dict():
            setattr(model.config, fitted, None)
    if args.calibration != "none":
        calibration.last_linear(model)  # raises now if there is none, and not after the training
    if args.freeze != "none":
        freeze_parts(model, args.freeze)
    check_training(
        model,
        processor,
        args.model_name_or_path,
        train_sizes=image.train_sizes(),
        eval_size=image.image_size,
        checkpointing=recipe.training.gradient_checkpointing,
    )
    return model, processor


@settings_at_fault()
def _assemble(
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
        smallest_crop=min(recipe.image.train_sizes().values()) if recipe.image.augment else None,
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


def labels_in(splits: DatasetDict) -> tuple[str, ...]:
    """Return the names of the classes, in label order."""
    return tuple(splits["train"].features["label"].names)


def wants_channels_last(args: RunArguments, model: nn.Module) -> bool:
    """Return whether to train in channels_last, which makes convolutions faster but does nothing for attention.

    By default only models with more convolutions than a patch embedding do.
    """
    if args.channels_last is not None:
        return args.channels_last
    return prefers_channels_last(args.device) and sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def class_counts(dataset: Dataset) -> list[int]:
    """Return the number of images of each class, in label order."""
    counts = Counter(dataset["label"][:])
    return [counts[i] for i in range(dataset.features["label"].num_classes)]


def _sampler(recipe: Recipe, train: Dataset, counts: Sequence[int]) -> WeightedSampler | None:
    if recipe.loss.sampling == "none":
        return None
    weights = class_weights(counts, POWER[recipe.loss.sampling])
    seed = recipe.training.seed if recipe.training.data_seed is None else recipe.training.data_seed
    return WeightedSampler(weights[train["label"][:]], seed, number_repeats=recipe.image.augment)


def _compute_metrics(prediction: EvalPrediction, names: tuple[str, ...]) -> dict:
    probabilities = softmax(prediction.predictions.astype(np.float64), axis=1)
    metrics = HamMetrics(names).compute(predictions=probabilities, references=prediction.label_ids)
    del metrics["confusion_matrix"]
    return metrics | prediction_spread(probabilities)
