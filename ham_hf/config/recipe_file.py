"""Find recipes by path or name, and read them, without importing transformers."""

from collections.abc import Mapping
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from ham_hf.config.arguments import DataArguments, ImageArguments, LossArguments, ModelArguments, read_yaml
from ham_hf.config.option_rules import TRAINING_ARGUMENTS
from ham_hf.config.run_options import RunOptions
from ham_hf.system.errors import InputError, did_you_mean
from ham_hf.system.serialization import read_text

PACKAGE = Path(__file__).parent.parent
EXAMPLE = "recipes/quickstart.yaml"
LISTS = "`ham-hf train --help-all` lists every option"
# Each option of a recipe that is not one of TrainingArguments, with its class and its type
OWN_OPTIONS: Mapping[str, tuple[type, Any]] = {
    field.name: (part, field.type)
    for part in (DataArguments, ImageArguments, ModelArguments, LossArguments, RunOptions)
    for field in fields(part)
    if field.init
}
# Every option of a recipe. HfArgumentParser also accepts "-" for "_", and --no_x for a switch x that is on by default
OPTIONS = frozenset(OWN_OPTIONS) | frozenset(TRAINING_ARGUMENTS)


def recipes_folder() -> Path:
    """Return the folder of the recipes that come with ham_hf: in the installed package, or beside it in a clone."""
    installed = PACKAGE / "recipes"
    return installed if (installed / "quickstart.yaml").is_file() else PACKAGE.parent / "recipes"


def shipped_files() -> dict[str, Path]:
    """Return name → path of every YAML file that comes with ham_hf, such as "study/a08_resnet50"."""
    folder = recipes_folder()
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def shipped_recipes() -> dict[str, Path]:
    """Return name → path of the recipes that come with ham_hf, without the files for accelerate and sweeps."""
    is_recipe = {name: "\nmodel_name_or_path:" in f"\n{read_text(path)}" for name, path in shipped_files().items()}
    return {name: path for name, path in shipped_files().items() if is_recipe[name]}


def find_recipe(name: str | Path, what: str = "recipe") -> Path:
    """Return the path of a recipe, given a path or the name of one that comes with ham_hf. A path that exists wins.

    Args:
        name: a path such as my_recipe.yaml, or a name such as study/a08_resnet50.
        what: what kind of file is expected, for the message.

    Raises:
        InputError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped, short = shipped_files(), path.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if short in shipped:
        return shipped[short]
    examples = (
        f"{EXAMPLE}, or a name that `ham-hf recipes` lists" if what == "recipe" else "recipes/sweeps/greedy.yaml"
    )
    expected = f": expected a YAML file, such as {examples}"
    raise InputError(f"no {what} at {name}{did_you_mean(short, shipped) or expected}")


def summary(path: Path) -> str:
    """Return the first sentence of a recipe's header."""
    text = " ".join(takewhile(bool, read_header(path)))
    return text.partition(". ")[0].removesuffix(".")


def read_header(path: Path) -> list[str]:
    """Return the lines of the comment that a file begins with, without their #."""
    lines = read_text(path).splitlines()
    return [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the options in a recipe.

    Raises:
        InputError: the file is no YAML, or no flat mapping of known options.
    """
    values = read_yaml(path, "recipe", EXAMPLE)
    if not isinstance(values, dict) or not values:
        raise InputError(f"{path}: expected a flat mapping of options (key: value), found {type(values).__name__}")
    for key in values:
        if not is_option(str(key)):
            raise InputError(f"{path}: unknown key {str(key)[:80]!r}{suggest(str(key))}")
    return values


def is_option(name: str) -> bool:
    """Return whether a recipe can have an option of that name."""
    return name in OPTIONS or name.removeprefix("no_") in OPTIONS


def suggest(name: str) -> str:
    """Return the words that follow the name of an unknown option."""
    return did_you_mean(name.removeprefix("--"), OPTIONS) or f": {LISTS}"
