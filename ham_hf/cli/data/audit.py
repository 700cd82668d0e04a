"""`ham-hf data audit`: the leak audit of a copy of the data."""

import argparse
from typing import TYPE_CHECKING

from ham_hf.cli.options import add_images, add_split, data_arguments
from ham_hf.cli.parser import Commands

if TYPE_CHECKING:
    from ham_hf.config.arguments import DataArguments


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "audit",
        help="check a copy of the data, or a split, for leaks and other problems",
        description="Print every problem of a copy of the data, or of a split. Exit code 1: a lesion in two splits, "
        "identical images, or near-certain copies across splits. Exit code 2: lesions are unknown or no image can be "
        "read, so that leaks cannot be ruled out. Suspected duplicates are listed with exit code 0.",
    )
    add_images(parser, positional=True)
    add_split(parser, default_help="no split, only the data")
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="compare images by local features as well, as `ham-hf data duplicates` does: finds copies that were "
        "turned, cropped or edited, in some 15 minutes for HAM10000 on two cores, in seconds once that is cached",
    )
    parser.set_defaults(run=run, allow_missing_images=True)


def run(args: argparse.Namespace) -> int:
    """Print the audit and return the exit code."""
    return print_audit(data_arguments(args), thorough=args.thorough)


def print_audit(data: "DataArguments", *, thorough: bool = False) -> int:
    """Print the problems of the data and return the exit code."""
    from ham_hf.data.audit_report import exit_code, inspect_data, render_inspection

    inspection = inspect_data(data, thorough=thorough)
    print(render_inspection(inspection))
    return exit_code(inspection)
