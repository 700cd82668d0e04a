"""`ham-hf doctor`, …: the commands around training and judging.

Imports that take seconds are made by who needs them.
"""

import argparse
from pathlib import Path


def add_around_commands(commands: argparse._SubParsersAction) -> None:
    """Add them to those of `ham-hf`."""
    doctor = commands.add_parser(
        "doctor",
        help="is this machine ready? versions, hardware, disk, Hub and data",
        description="Look at versions, hardware, disk, token, Hub and data. Exit code 1: something is a problem.",
        allow_abbrev=False,
    )
    doctor.add_argument("--data_dir", help="a folder with images and their table, or a Hub dataset id, to audit too")
    doctor.add_argument("--metadata_csv", help="its table, where it has a name of its own")
    doctor.set_defaults(run=_doctor)

    recipes = commands.add_parser(
        "recipes",
        help="the recipes of a clone: what each trains, what the study reported, what its runs here came to",
        description="List recipes, with the study's figures and those of the validation images of runs here.",
        allow_abbrev=False,
    )
    recipes.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", default=Path("recipes"), help="recipes when left out"
    )
    recipes.add_argument(
        "--runs", type=Path, metavar="FOLDER", default=Path("runs"), help="where runs are; runs when left out"
    )
    recipes.set_defaults(run=_recipes)

    completion = commands.add_parser(
        "completion",
        help="print what makes a shell complete ham-hf at the press of TAB",
        description="Print a script for a shell. bash: ham-hf completion bash > "
        "~/.local/share/bash-completion/completions/ham-hf",
        allow_abbrev=False,
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell")
    completion.set_defaults(run=_completion)


def _doctor(args: argparse.Namespace) -> int:
    from collections import Counter

    from ham_hf.cli.doctor import examine, render_check

    states = Counter()
    for check in examine(args.data_dir, args.metadata_csv):
        print(render_check(check), flush=True)
        states[check.state] += 1
    print(f"\n{states['problem']} problems, {states['warning']} warnings")
    return 1 if states["problem"] else 0


def _recipes(args: argparse.Namespace) -> None:
    from ham_hf.cli.catalogue import read_recipes, read_runs, render

    entries, runs = read_recipes(args.folder), read_runs(args.runs)
    for entry in entries:
        print(render(entry, runs))
    print(f"\n{len(entries)} recipes. Reported: by the published study. Of runs in {args.runs}: validation images.")


def _completion(args: argparse.Namespace) -> None:
    from ham_hf.cli.completion import completion_script

    print(completion_script(args.shell))
