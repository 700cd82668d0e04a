"""Completion of `ham-hf` by a shell: a script, written once, that starts no Python at the press of a key.

ham-hf completion bash > ~/.local/share/bash-completion/completions/ham-hf
"""

import argparse
from pathlib import Path

import shtab

from ham_hf.cli.main import build_parser


def completion_script(shell: str) -> str:
    """What the shell is to read: commands, flags with their choices, a recipe's too, and files for all other text."""
    parser = build_parser(_parents())
    _complete_files(parser)
    return shtab.complete(parser, shell)


def _parents() -> dict[str, list[argparse.ArgumentParser]]:
    """The flags of the commands that read a recipe: those of the recipe, then their own."""
    from ham_hf.training import cross_validation, preview, search

    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("recipe", metavar="RECIPE.yaml", type=Path, help="a recipe")
    # A parser of a recipe for each: a command's own flags take the place of the recipe's that have their names
    return {
        "train": [_recipe_flags(), file],
        "cross-validate": [_recipe_flags(), file, cross_validation.own_parser()],
        "sweep": [_recipe_flags(), search.own_parser()],
        "data preview": [_recipe_flags(), file, preview.own_parser()],
    }


def _recipe_flags() -> argparse.ArgumentParser:
    """Each flag under one name: HfArgumentParser takes --data-dir for --data_dir as well."""
    from ham_hf.config.recipe import recipe_parser

    parser = recipe_parser()
    for action in parser._actions:
        action.option_strings = [name for name in action.option_strings if "-" not in name.lstrip("-")]
    return parser


def _complete_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.choices is None and action.nargs != 0 and action.type in (None, str, Path):
            action.complete = shtab.FILE
