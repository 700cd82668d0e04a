"""The recipes of a folder: what each trains, what the published study reported of it, and what its runs here came to.

ham-hf recipes recipes --runs runs

All of it is read from the files: a recipe's header says in its first sentence what it is, and after "Reported:" the
study's figures; a run folder is a recipe's where its recipe.yaml says the same.
"""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ham_hf.config.arguments import read_yaml
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json, read_text
from ham_hf.system.terminal import printable

REPORTED = "Reported:"
WHERE_FLAGS = ("--data_dir", "--output_dir", "--resume")  # which change no figure


class Entry(NamedTuple):
    """A recipe. `what` is "" where it has no header, `reported` where the study has no figure."""

    path: Path
    model: str
    what: str
    reported: str
    values: dict


class Run(NamedTuple):
    """A run folder and what stands in its files."""

    folder: Path
    recipe: dict
    facts: dict


def read_recipes(folder: Path) -> list[Entry]:
    """Every recipe in `folder` and below, by name; files without model_name_or_path (of accelerate, sweeps) are none.

    Raises:
        InputError: there is no such folder, no recipe in it, or a file is no YAML.
    """
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}: recipes come with a clone of the repository, not with the installed package; run "
            "this in the clone, or name a folder with recipes"
        )
    values = {path: read_yaml(path, "recipe", "recipes/quickstart.yaml") for path in sorted(folder.rglob("*.yaml"))}
    recipes = {path: of for path, of in values.items() if isinstance(of, dict) and "model_name_or_path" in of}
    if not recipes:
        raise InputError(f"{folder} holds no recipe: expected .yaml files with the key model_name_or_path")
    return [_entry(path, of) for path, of in recipes.items()]


def _entry(path: Path, values: dict) -> Entry:
    header = read_header(path)
    text = " ".join(takewhile(bool, header))
    reported = [line.removeprefix(REPORTED).strip() for line in header if line.startswith(REPORTED)]
    models = [values[key] for key in ("model_name_or_path", "text_model_name_or_path") if values.get(key)]
    return Entry(path, " + ".join(map(str, models)), re.split(r"(?<=[.?!]) ", text)[0], "; ".join(reported), values)


def read_header(path: Path) -> list[str]:
    """The comment that a file begins with, as lines without their #."""
    lines = read_text(path).splitlines()
    return [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]


def read_runs(folder: Path) -> list[Run]:
    """The runs in `folder` that were trained with a recipe; none where there is no such folder.

    Raises:
        InputError: a file of a run is not readable.
    """
    folders = sorted(path.parent for path in folder.glob("*/run.json") if (path.parent / "recipe.yaml").is_file())
    return [
        Run(run, read_yaml(run / "recipe.yaml", "recipe", "recipes/quickstart.yaml"), _read(run / "run.json"))
        for run in folders
    ]


def _read(path: Path) -> dict:
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(f"{error}; mend it, or move its folder elsewhere") from error


def render(entry: Entry, runs: Sequence[Run]) -> str:
    """The recipe in a few lines, with the figures of those of `runs` that are its own."""
    lines = [f"{entry.path}: {entry.model}"]
    lines += [f"  {entry.what}"] if entry.what else []
    lines += [f"  reported: {entry.reported}"] if entry.reported else []
    lines += [f"  {run.folder}: {_figures(run)}" for run in runs if run.recipe == entry.values]
    return "\n".join(map(printable, lines))


def _figures(run: Run) -> str:
    """Of the validation images, and what was not as in the recipe."""
    from ham_hf.reporting.sections import SYNTHETIC, headline_line

    if not (run.folder / "report.json").is_file():
        return f"no report.json: `ham-hf report {run.folder}` writes it"
    try:
        data, result = run.facts["data"], _read(run.folder / "report.json")["results"]["validation"]
        notes = [f"split {data['split']}", *_other_flags(run.facts["argv"][1:])]
        notes += [SYNTHETIC] if data["synthetic"] else []
        return "; ".join([headline_line(result), *notes])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{run.folder} is no run folder as `ham-hf train` writes it: {error!r}") from error


def _other_flags(argv: Sequence[str]) -> list[str]:
    """The flags of a command line, each with its values, but WHERE_FLAGS."""
    flags: list[list[str]] = []
    for word in argv:
        if word.startswith("--"):
            flags.append([word])
        else:
            flags[-1].append(word)
    return [" ".join(flag) for flag in flags if flag[0].partition("=")[0] not in WHERE_FLAGS]
