"""A recipe is command-line flags written down: one flat YAML file, then the command line, and the last word wins.

    ham-hf train recipes/quickstart.yaml --num_train_epochs 1

The arguments are `transformers.TrainingArguments` under their own names, with defaults for this task, and the few
below.
"""

import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ham_hf.config.arguments import BY_RESULT, DataArguments, ImageArguments, LossArguments, ModelArguments, read_yaml
from ham_hf.config.training_arguments import LOWER_IS_BETTER, changed, check_given
from ham_hf.config.validation import check_recipe
from ham_hf.system.errors import InputError
from ham_hf.system.hardware import has_accelerator, supports_bf16
from ham_hf.system.serialization import read_text


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
    include_num_input_tokens_seen: str = field(default="no", metadata={"help": "Stays no: images have no tokens."})
    do_train: bool = field(
        default=True, metadata={"help": "Always true: `ham-hf evaluate` evaluates a trained model."}
    )
    do_eval: bool = field(default=True, metadata={"help": "Always true: a run ends with an evaluation."})
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
        check_given(self)
        self.given = changed(self)
        # TrainingArguments refuses bf16 on a machine without an accelerator unless told that the CPU is meant
        self.use_cpu = self.use_cpu or not has_accelerator()
        if self.bf16 is None:
            self.bf16 = not self.fp16 and supports_bf16(use_cpu=self.use_cpu)
        if self.greater_is_better is None:
            self.greater_is_better = (self.metric_for_best_model or "").removeprefix("eval_") not in LOWER_IS_BETTER
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
    check_recipe(data, image, model, loss, training)
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
