"""Argument parsers whose errors are an InputError with a suggestion."""

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

from ham_hf.cli.options import check_recipe_command
from ham_hf.system.errors import InputError, did_you_mean

RECIPE = "a YAML file with options (option: value), or the name of a recipe that `ham-hf recipes` lists"

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that accepts no abbreviations and raises InputError instead of exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}{'' if message.endswith('?') else '.'} See `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, in the parser of the command that they were given to."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}{did_you_mean(unknown[0], self._option_string_actions)}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(f"unknown command {value!r}{did_you_mean(value, action.choices)}")
        super()._check_value(action, value)


def add_group(commands: Commands, name: str, help_: str) -> Commands:
    """Add a command that consists of other commands, and prints its help when none of them is given."""
    group = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
    group.set_defaults(run=lambda _args: group.print_help())
    return group.add_subparsers(title="commands", metavar="COMMAND")


class RecipeParser(Parser):
    """The parser of a command that also accepts a recipe and its options, whose parser takes seconds to import."""

    def __init__(self, prog: str, description: str, files: Mapping[str, str] = MappingProxyType({})) -> None:
        """Create the parser.

        Args:
            prog: name of the command.
            description: shown by --help.
            files: name → help of the positional arguments after RECIPE.
        """
        self.files = {"recipe": RECIPE} | dict(files)
        names = " ".join(name.upper() for name in self.files)
        super().__init__(
            prog=prog,
            usage=f"{prog} {names} [--option value ...]",
            description=description,
            epilog="Every option of `ham-hf train` may follow.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_recipe_command(
        self, words: list[str], needs_recipe: bool = False
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the command's own options, and the words for the recipe's parser, whose names have been checked."""
        if {"-h", "--help"} & set(words):
            for name, help_ in self.files.items():
                self.add_argument(name, metavar=name.upper(), help=help_)
            self.parse_args(["--help"])
        args, rest = argparse.ArgumentParser.parse_known_args(self, words)
        if needs_recipe and (not rest or rest[0].startswith("-")):
            self.error("RECIPE is missing")
        check_recipe_command(rest)
        return args, rest
