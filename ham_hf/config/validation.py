"""Check a recipe before any work: values, and combinations of values, that a run would fail or go wrong with."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from transformers import SchedulerType

from ham_hf.config.arguments import (
    BY_RESULT,
    DataArguments,
    ImageArguments,
    LossArguments,
    ModelArguments,
)
from ham_hf.config.metric_names import HEADLINE, SELECTION_METRICS
from ham_hf.config.option_rules import FIXED_CONFIG, RANGES, TRAINING_ARGUMENTS, Range
from ham_hf.config.training_arguments import changed, check_resolved
from ham_hf.labels import CLASSES
from ham_hf.system.errors import InputError

if TYPE_CHECKING:
    from ham_hf.config.recipe import RunArguments

# Without augmentation these would have no effect
OF_AUGMENTED = (
    *("rotation", "shear", "perspective", "color_jitter", "hue_jitter", "sharpness_jitter", "random_erasing"),
    *("mixup", "cutmix", "randaugment_magnitude", "train_size", "quarter_turns", "auto_augment"),
)


def check_recipe(
    data: DataArguments, image: ImageArguments, model: ModelArguments, loss: LossArguments, training: "RunArguments"
) -> None:
    """Raise an InputError for the first value, or combination of values, that no run can use."""
    for part in (data, image, model, loss, training):
        _check_numbers(part)
    assert training.metric_for_best_model is not None  # it has a default
    _check_metric(training.metric_for_best_model, CLASSES[data.classes])
    check_resolved(training)
    _check_sizes(image, training)
    _check_model(model)
    _check_augmentation(image, model)
    _check_after_training(data, model, training)
    _check_fusion(model, training)
    _check_course(training)
    _check_final_fit(data, training)
    _check_rates(model, training)
    _check_loss(loss, training.label_smoothing_factor)


def _check_sizes(image: ImageArguments, training: "RunArguments") -> None:
    if len(image.crop_scale) != 2 or not 0 < image.crop_scale[0] <= image.crop_scale[1] <= 1:
        raise InputError(f"crop_scale is {image.crop_scale}: expected two numbers, 0 < smallest <= largest <= 1")
    if image.eval_resize is not None and image.eval_resize < image.image_size:
        raise InputError(f"eval_resize is {image.eval_resize}: expected at least image_size, {image.image_size}")
    last = max(image.train_sizes())
    # With max_steps the number of epochs depends on the images, and such a run is mostly a short test of a recipe
    if training.max_steps < 1 and last > math.ceil(training.num_train_epochs):
        raise InputError(
            f"train_size changes in epoch {last}, but num_train_epochs is {training.num_train_epochs:g}: remove that "
            "size, or train for more epochs"
        )


def _check_model(model: ModelArguments) -> None:
    if not all(part.strip() for part in model.freeze.split(",")):
        raise InputError(
            f"freeze is {model.freeze!r}: expected 'none', 'backbone', or names of parts, separated by commas"
        )
    for name in model.config_overrides or {}:
        if name in FIXED_CONFIG:
            raise InputError(f"config_overrides has {name!r}, which the pipeline sets: remove it")


def _check_after_training(data: DataArguments, model: ModelArguments, training: "RunArguments") -> None:
    if model.calibration == "temperature_and_prior" and training.metric_for_best_model not in SELECTION_METRICS:
        raise InputError(
            "calibration: temperature_and_prior optimizes metric_for_best_model, which is "
            f"{training.metric_for_best_model!r}: expected one of {', '.join(SELECTION_METRICS)}"
        )
    if model.melanoma_sensitivity is not None and data.classes != "diagnoses":
        raise InputError(f"melanoma_sensitivity requires classes: diagnoses, but classes is {data.classes!r}")


def _check_course(training: "RunArguments") -> None:
    """Check when a run evaluates, saves and stops."""
    by_steps = training.load_best_model_at_end and training.save_strategy == training.eval_strategy == "steps"
    if by_steps and training.save_steps != training.eval_steps:
        raise InputError(
            f"save_steps is {training.save_steps}, eval_steps is {training.eval_steps}: expected the same "
            "value, because load_best_model_at_end can load only models that were saved"
        )
    if training.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise InputError(
            "early_stopping_patience requires load_best_model_at_end: true, because it keeps the best checkpoint"
        )


def _check_final_fit(data: DataArguments, training: "RunArguments") -> None:
    if training.final_fit is None:
        return
    if not (Path(training.final_fit).expanduser() / "run.json").is_file():
        raise InputError(f"final_fit is {training.final_fit!r}: expected the folder of a finished `ham-hf train`")
    if training.lr_scheduler_type in BY_RESULT:
        raise InputError(
            f"final_fit does not support lr_scheduler_type: {training.lr_scheduler_type.value}, which follows "
            "validation figures: the validation images are training images"
        )
    if training.max_steps > 0:
        raise InputError("final_fit does not support max_steps, because it takes the epochs that the run chose")
    if data.max_train_samples is not None:
        raise InputError("final_fit does not support max_train_samples: it trains on all images")


def _check_numbers(part) -> None:
    """Check every number of a part of the recipe."""
    for name, value in vars(part).items():
        known = RANGES.get(name) or TRAINING_ARGUMENTS.get(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} is {value}: expected a finite number")
        if name.endswith("seed") and value is not None and not 0 <= value < 2**32:
            raise InputError(f"{name} is {value}: expected a whole number from 0 to {2**32 - 1}")
        if isinstance(known, Range) and value is not None and not known.has(value):
            raise InputError(f"{name} is {value}: expected {known}")


def _check_metric(metric: str, names: Sequence[str]) -> None:
    """Check the metric, which the Trainer would look for only after the first epoch."""
    of_diagnoses = [f"{figure}_{name}" for figure in ("precision", "recall", "f1", "auroc") for name in names]
    if metric.removeprefix("eval_") not in ("loss", *HEADLINE, *of_diagnoses):
        raise InputError(
            f"metric_for_best_model is {metric!r}: expected one of {', '.join(HEADLINE)}, loss, or one of "
            f"precision, recall, f1 and auroc with a diagnosis, such as recall_{names[0]}"
        )


def _check_augmentation(image: ImageArguments, model: ModelArguments) -> None:
    fields = ImageArguments.__dataclass_fields__
    for name in OF_AUGMENTED:
        if not image.augment and getattr(image, name) != fields[name].default:
            raise InputError(f"{name} has no effect with augment: false: remove one of them")
    if image.auto_augment != "randaugment" and image.randaugment_magnitude != fields["randaugment_magnitude"].default:
        raise InputError(
            f"randaugment_magnitude requires auto_augment: randaugment, but auto_augment is {image.auto_augment!r}"
        )
    if model.fusion != "none" and (image.mixup or image.cutmix):
        raise InputError(
            f"fusion: {model.fusion} does not support mixup and cutmix, which cannot mix patients: remove them"
        )


def _check_rates(model: ModelArguments, training: "RunArguments") -> None:
    by_part = {
        "head_learning_rate": training.head_learning_rate,
        "layer_decay": training.layer_decay,
        "gradual_unfreezing": training.gradual_unfreezing or None,
    }
    for name, value in by_part.items():
        if value is not None and model.fusion != "none":
            raise InputError(f"{name} does not support fusion: {model.fusion}: use image_learning_rate, or remove it")
    if training.lr_decay_factor is not None and training.lr_scheduler_type != "constant":
        raise InputError(
            f"lr_decay_factor replaces the schedule, but lr_scheduler_type is {training.lr_scheduler_type.value!r}: "
            "set lr_scheduler_type: constant, or remove lr_decay_factor"
        )
    if training.warmup_epochs and training.lr_decay_factor is None:
        raise InputError(
            "warmup_epochs requires lr_decay_factor; with other schedules use warmup_steps (below 1: a share)"
        )
    if training.gradual_unfreezing and training.lr_scheduler_type in BY_RESULT:
        schedule = SchedulerType(training.lr_scheduler_type).value
        raise InputError(
            f"gradual_unfreezing and lr_scheduler_type: {schedule} both set the learning rates: use only one"
        )
    if training.gradual_unfreezing and model.freeze == "backbone":
        raise InputError("gradual_unfreezing and freeze: backbone contradict each other: use only one")
    if training.sgd_nesterov and (training.optimizer != "sgd" or not training.sgd_momentum):
        raise InputError("sgd_nesterov requires optimizer: sgd, with a sgd_momentum above 0")


def _check_loss(loss: LossArguments, label_smoothing: float) -> None:
    fields = LossArguments.__dataclass_fields__
    for name in changed(loss):
        prefix = name.partition("_")[0]  # such as focal_gamma
        if prefix in get_args(fields["loss"].type) and loss.loss != prefix:
            raise InputError(f"{name} requires loss: {prefix}, but loss is {loss.loss!r}")
    if loss.class_weighting_start and loss.class_weighting == "none":
        raise InputError("class_weighting_start requires class_weighting: set it, or remove class_weighting_start")
    # Both would favor the rare diagnoses, or one would read a probability that the other has changed
    weighted, sampled = loss.class_weighting != "none", loss.sampling != "none"
    clashes = {
        "class_weighting and sampling": weighted and sampled,
        "class_weighting and logit_adjustment": weighted and loss.logit_adjustment,
        "sampling and logit_adjustment": sampled and loss.logit_adjustment,
    }
    for pair in (pair for pair, both in clashes.items() if both):
        raise InputError(f"{pair} both rebalance the classes: use only one")
    if loss.logit_adjustment and loss.loss != "cross_entropy":
        raise InputError(f"loss: {loss.loss} does not support logit_adjustment: use only one")
    if label_smoothing and (loss.loss != "cross_entropy" or weighted):
        other = f"loss: {loss.loss}" if loss.loss != "cross_entropy" else f"class_weighting: {loss.class_weighting}"
        raise InputError(
            f"{other} does not support label_smoothing_factor, which changes the target probabilities: use only one"
        )
    if label_smoothing and loss.soft_labels is not None:
        raise InputError("soft_labels and label_smoothing_factor both soften the labels: use only one")
    if loss.soft_label_weight != fields["soft_label_weight"].default and loss.soft_labels is None:
        raise InputError("soft_label_weight requires soft_labels: set it, or remove soft_label_weight")
    weights: Any = loss.dx_type_weights or {}  # a dict, since LossArguments parses JSON
    for dx_type, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"dx_type_weights has {weight!r} for {dx_type!r}: expected a number of at least 0")


def _check_fusion(model: ModelArguments, training: "RunArguments") -> None:
    if model.fusion == "mmbt" and model.text_model_name_or_path is None:
        raise InputError(
            "text_model_name_or_path is missing: fusion: mmbt requires a BERT, such as google-bert/bert-base-uncased "
            "or pypi:all-minilm-l6-v2"
        )
    if model.fusion != "mmbt" and model.text_model_name_or_path is not None:
        raise InputError(
            f"text_model_name_or_path is {model.text_model_name_or_path!r}, which fusion: {model.fusion} does not "
            "use: set fusion: mmbt, or remove it"
        )
    if model.fusion == "none" and training.image_learning_rate is not None:
        raise InputError("image_learning_rate requires a fusion: use learning_rate")
    if model.fusion != "mmbt" and model.patient_encoding != "fields":
        raise InputError(
            f"patient_encoding is {model.patient_encoding!r}: only fusion: mmbt supports others than 'fields'"
        )
    if model.patient_dropout and (model.fusion == "none" or model.patient_encoding != "fields"):
        raise InputError(
            f"patient_dropout is {model.patient_dropout}: it requires a fusion, and patient_encoding: fields"
        )
