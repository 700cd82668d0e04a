"""Check the TrainingArguments of a recipe: whatever a run would ignore or could not do is refused before it starts."""

import os
from collections.abc import Iterator
from dataclasses import MISSING, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.integrations import get_available_reporting_integrations

from ham_hf.config.arguments import BY_RESULT
from ham_hf.config.metric_names import LOWER_IS_BETTER
from ham_hf.config.option_rules import TRAINING_ARGUMENTS
from ham_hf.system.errors import InputError

if TYPE_CHECKING:
    from ham_hf.config.recipe import RunArguments

WITHOUT_BETAS = ("sgd", "adagrad", "rmsprop", "adafactor")
# What optim_args may set for the optimizers of torch and transformers
OPTIM_ARGS = {
    "adamw_torch": (),
    "adamw_torch_fused": (),
    "adafactor": (),
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov"),
    "adagrad": ("lr_decay", "weight_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "weight_decay", "centered"),
}
NEEDED_KWARGS = {
    "cosine_with_min_lr": ('"min_lr" or "min_lr_rate"', {"min_lr", "min_lr_rate"}, '{"min_lr_rate": 0.1}'),
    "cosine_warmup_with_min_lr": ('"min_lr" or "min_lr_rate"', {"min_lr", "min_lr_rate"}, '{"min_lr_rate": 0.1}'),
    "warmup_stable_decay": ('"num_decay_steps"', {"num_decay_steps"}, '{"num_decay_steps": 100}'),
}


def spell(value) -> str:
    """Return a value as it is written in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value)[:80]


def changed(arguments) -> dict[str, Any]:
    """Return the fields of a dataclass instance that differ from their defaults and are not None, in their order."""
    values = {}
    for field in fields(arguments):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(arguments, field.name)
        if value is not None and value != default:
            values[field.name] = value
    return values


def check_given(args: "RunArguments") -> None:
    """Check the arguments as given, before TrainingArguments derives some of them from others.

    Raises:
        InputError: an argument is not supported, or has no effect in combination with the others.
    """
    given = changed(args)
    known = {field.name for field in fields(TrainingArguments)}
    for name in [name for name in given if name in known]:
        words = "is set" if name.endswith("token") else f"is {spell(given[name]) or 'empty'}"
        if name not in TRAINING_ARGUMENTS:
            raise InputError(f"{name} {words}: ham_hf does not know this option of transformers; remove it")
        if isinstance(reason := TRAINING_ARGUMENTS[name], str):
            raise InputError(f"{name} {words}: {reason}")
    if args.output_dir == "":
        raise InputError("output_dir is empty: expected the path of a folder, such as runs/my-run")
    for names, reason in _without_effect(args):
        for name in names:
            if name in given:
                raise InputError(f"{name} is {spell(given[name])}, which has no effect {reason}; remove it")


def check_resolved(args: "RunArguments") -> None:
    """Check combinations of arguments, and what this machine supports.

    Raises:
        InputError: a run could not use them.
    """
    _check_lengths(args)
    _check_precision(args)
    _check_reporting(args)
    _check_optim_args(args)
    _check_schedule(args)
    _check_processes(args)


def _check_lengths(args: "RunArguments") -> None:
    if args.max_steps < 1 and args.max_steps != -1:
        raise InputError(f"max_steps is {args.max_steps}: expected at least 1, or -1 for num_train_epochs")
    for name in ("warmup_steps", "logging_steps", "eval_steps", "save_steps"):
        value = getattr(args, name)
        if value is not None and value > 1 and value != int(value):
            raise InputError(f"{name} is {value}: expected a whole number of steps, or below 1 a share of all steps")
    last = {"epoch": None if args.max_steps > 0 else args.num_train_epochs, "steps": args.max_steps}
    end = last.get(args.eval_strategy)
    if end is not None and 0 < end < args.eval_delay:
        raise InputError(
            f"eval_delay is {args.eval_delay:g}, but the run ends after {end:g} "
            f"{'epochs' if args.eval_strategy == 'epoch' else 'steps'}: the model would never be evaluated"
        )


def _check_precision(args: "RunArguments") -> None:
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else launched
    if precision not in ("no", "bf16") and args.device.type == "cpu":
        raise InputError(f"{precision} requires a GPU, and this run would use the CPU: use bf16, or remove it")


def _check_reporting(args: "RunArguments") -> None:
    available = get_available_reporting_integrations()
    for name in args.report_to:
        if name not in available:
            installed = ", ".join(["none", *available])
            raise InputError(f"report_to is {name!r}, which is not installed: expected one of {installed}")
    if DebugOption.TPU_METRICS_DEBUG in args.debug:
        raise InputError("debug is tpu_metrics_debug, which requires a TPU: expected underflow_overflow")
    metric, lower = (args.metric_for_best_model or "").removeprefix("eval_"), args.greater_is_better is False
    if args.metric_for_best_model and lower != (metric in LOWER_IS_BETTER):
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        raise InputError(
            f"greater_is_better is {spell(args.greater_is_better)}, but a {better} {metric} is better: remove it"
        )


def _check_optim_args(args: "RunArguments") -> None:
    words = (args.optim_args or "").replace(" ", "").split(",")
    pairs = [word.partition("=") for word in words if word]
    if any(not key or not equals for key, equals, _ in pairs):
        raise InputError(f"optim_args is {args.optim_args!r}: expected name=value, separated by commas")
    optim = spell(args.optim)
    for key, _, _ in pairs:
        if key not in OPTIM_ARGS.get(optim, (key,)):
            expected = ", ".join(OPTIM_ARGS[optim]) or "none; see learning_rate, weight_decay and adam_beta1"
            raise InputError(f"optim_args has {key!r}, which optim: {optim} does not read: expected {expected}")


def _check_schedule(args: "RunArguments") -> None:
    kind, kwargs = spell(args.lr_scheduler_type), args.lr_scheduler_kwargs or {}
    if not isinstance(kwargs, dict):
        raise InputError(
            f"lr_scheduler_kwargs is {spell(kwargs)!r}: expected a JSON object, such as '{{\"power\": 2}}'"
        )
    if kind in NEEDED_KWARGS:
        words, names, example = NEEDED_KWARGS[kind]
        if not names & set(kwargs):
            raise InputError(f"lr_scheduler_type: {kind} requires {words} in lr_scheduler_kwargs, such as '{example}'")


def _check_processes(args: "RunArguments") -> None:
    if args.fsdp and args.world_size == 1:
        raise InputError("fsdp requires several processes, and there is one: see `accelerate launch`")
    if args.fsdp and args.deepspeed:
        raise InputError("fsdp and deepspeed both divide the model among processes: use only one")
    if args.base_learning_rate is not None and args.auto_find_batch_size:
        raise InputError(
            "auto_find_batch_size changes the batch size, which base_learning_rate depends on: use only one"
        )


def _without_effect(args: "RunArguments") -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the names of options that have no effect in combination with the others, and why."""
    optim, kind = spell(args.optim), spell(args.lr_scheduler_type)
    if args.optimizer == "sgd" or (args.optimizer == "adamw" and optim in WITHOUT_BETAS):
        name = f"optim: {optim}" if args.optimizer == "adamw" else "optimizer: sgd"
        yield ("adam_beta1", "adam_beta2", "adam_epsilon"), f"with {name}"
    if args.optimizer != "adamw":
        yield ("optim", "optim_args", "optim_target_modules"), f"with optimizer: {args.optimizer}"
    if args.optimizer != "sgd":
        yield ("sgd_momentum",), f"with optimizer: {args.optimizer}"
    if not optim.startswith(("galore", "apollo")):
        yield ("optim_target_modules",), f"with optim: {optim}"
    if args.lr_decay_factor is not None:
        yield (
            ("lr_scheduler_kwargs", "warmup_steps"),
            "with lr_decay_factor (see lr_decay_epochs, warmup_epochs)",
        )
    if kind in ("constant", "constant_with_warmup"):
        yield ("lr_scheduler_kwargs",), f"with lr_scheduler_type: {kind}"
    if kind in ("constant", *BY_RESULT):
        remedy = ", unlike constant_with_warmup" if kind == "constant" else ""
        yield ("warmup_steps",), f"with lr_scheduler_type: {kind}{remedy}"
    if not args.gradient_checkpointing:
        names: tuple[str, ...] = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
        yield names, "without gradient_checkpointing"
    if not args.fsdp:
        yield ("fsdp_config",), "without fsdp"
    # Not eval_steps, save_steps, logging_steps: the command line may change the strategy of a recipe that sets them
    if args.report_to in ("none", ["none"], []):
        yield ("run_name",), "without report_to"
    if "trackio" not in args.report_to and "all" not in args.report_to:
        names = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
        yield names, "without report_to: trackio"
    if args.dataloader_num_workers == 0:
        names = ("dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_prefetch_factor")
        yield names, "with dataloader_num_workers: 0"
    if args.base_learning_rate is not None:
        yield ("learning_rate",), "with base_learning_rate"
    if args.lr_decay_factor is None:
        yield ("lr_decay_epochs",), "without lr_decay_factor"
