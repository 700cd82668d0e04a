"""Read a recipe: flags in one flat YAML file, then the command line, which takes precedence.

    ham-hf train recipes/quickstart.yaml --num_train_epochs 1

The arguments are `transformers.TrainingArguments` under their own names, with defaults for this task, and a few more.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ham_hf.config.arguments import BY_RESULT, DataArguments, ImageArguments, LossArguments, ModelArguments
from ham_hf.config.early_checks import check_words
from ham_hf.config.metric_names import LOWER_IS_BETTER
from ham_hf.config.recipe_file import find_recipe, read_recipe, suggest
from ham_hf.config.run_options import RunOptions
from ham_hf.config.training_arguments import changed, check_given
from ham_hf.config.validation import check_recipe
from ham_hf.system.errors import InputError
from ham_hf.system.hardware import has_accelerator, supports_bf16
from ham_hf.system.serialization import read_text


@dataclass
class RunArguments(RunOptions, TrainingArguments):
    """`transformers.TrainingArguments` with defaults for this task, and some options that they lack."""

    output_dir: str | None = field(
        default=None, metadata={"help": "The run folder (default: runs/ and the name of the recipe)."}
    )

    # Defaults that differ from those of TrainingArguments
    include_num_input_tokens_seen: str = field(
        default="no", metadata={"help": "Must stay no, because images have no tokens."}
    )
    do_train: bool = field(
        default=True, metadata={"help": "Always true: `ham-hf evaluate` evaluates a trained model."}
    )
    do_eval: bool = field(default=True, metadata={"help": "Always true: a run ends with an evaluation."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to save a checkpoint: no, steps, epoch or best."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the checkpoint with the best metric_for_best_model on validation."}
    )
    metric_for_best_model: str | None = field(
        default="balanced_accuracy", metadata={"help": "Validation metric that chooses the checkpoint."}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Number of checkpoints to keep, besides the best one and the last one."}
    )
    logging_steps: float = field(
        default=0.01, metadata={"help": "Steps between two points of the loss curve; below 1: a share of all steps."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log the previous loss instead of a NaN or infinite one; waits for the GPU at every step."},
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Batch size of a process in evaluation."})
    do_predict: bool = field(
        default=True, metadata={"help": "Predict the test images at the end; false while tuning settings."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay false: the image column would be dropped before its transform."}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Train with bfloat16 autocast; default: if the hardware supports it."}
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
            # Otherwise the schedule would mistake a falling accuracy for progress
            defaults = {"mode": "max" if self.greater_is_better else "min"}
            if self.lr_scheduler_type == "greedy":
                defaults["min_lr"] = 0.0  # its own minimum, 1e-3, exceeds the initial rate of most runs
            self.lr_scheduler_kwargs = defaults | (self.lr_scheduler_kwargs or {})
        if self.base_learning_rate is not None:
            self.learning_rate = (
                self.base_learning_rate
                * (self.train_batch_size * self.gradient_accumulation_steps * self.world_size)
                / 256
            )


class Recipe(NamedTuple):
    """The arguments of a run; `path` is the YAML file, if there is one, and `argv` the command line as given.

    `text` is the content of that file when it was read: it may be edited during the run.
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
        raise InputError(f"{message}. `ham-hf train --help` lists the options")


def recipe_parser() -> HfArgumentParser:
    """Return a parser of every option of a recipe, without the path of the recipe."""
    parser = _Parser(
        (DataArguments, ImageArguments, ModelArguments, LossArguments, RunArguments),
        prog="ham-hf train",
        allow_abbrev=False,
    )
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):  # HfArgumentParser repeats the help of the option itself
            action.help = f"Same as --{action.option_strings[0].removeprefix('--no_')} false."
    return parser


def parse_recipe(argv: list[str] | None = None) -> Recipe:
    """Parse `[RECIPE] [--option value …]` into the argument classes.

    Raises:
        InputError: the recipe is missing, empty or not a flat mapping, or an option or its value is not valid.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    check_words(argv)
    path = find_recipe(argv[0]) if argv and not argv[0].startswith("-") else None
    words = _words_of(path) if path else []
    given = argv[1:] if path else argv
    default_output = ["--output_dir", str(Path("runs") / (path.stem if path else "run"))]
    try:
        data, image, model, loss, training, unknown = recipe_parser().parse_args_into_dataclasses(
            [*default_output, *words, *given], look_for_args_file=False, return_remaining_strings=True
        )
    except InputError:
        raise
    except Exception as error:  # TrainingArguments' own checks, and what they import and open, raise anything
        raise InputError(f"{path or 'command line'}: {error}") from error
    if unknown:
        raise InputError(f"unknown argument {unknown[0]!r}{suggest(unknown[0])}")
    check_recipe(data, image, model, loss, training)
    if training.final_fit is not None:
        _choose_nothing(data, training)
    return Recipe(data, image, model, loss, training, path, read_text(path) if path else None, argv)


def _choose_nothing(data: DataArguments, training: RunArguments) -> None:
    """Train on the validation images too, and turn off what reads them."""
    data.train_on_validation = True
    training.eval_strategy = IntervalStrategy.NO
    training.load_best_model_at_end = False
    training.early_stopping_patience = None
    if training.save_strategy == SaveStrategy.BEST:
        training.save_strategy = SaveStrategy.EPOCH


def spell_flag(name: str, value) -> list[str]:
    """Return an option of a recipe and its value as words of a command line."""
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


def _words_of(path: Path) -> list[str]:
    # An empty value keeps the default
    return [word for key, value in read_recipe(path).items() if value is not None for word in _words(path, key, value)]


def _words(path: Path, key: str, value) -> list[str]:
    """Return an option and its value; raise an InputError for a value that no command line could hold."""
    try:
        words = spell_flag(key, value)
        "".join(words).encode()
    except (TypeError, ValueError) as error:  # a date in a mapping, half a character
        raise InputError(f"{path}: {key} is {str(value)[:80]!r}: {error}; expected text and numbers") from error
    if any("\0" in word for word in words):
        raise InputError(f"{path}: {key} is {str(value)[:80]!r}: must not contain NUL bytes")
    return words
