"""`ham-hf data push`: HAM10000 as a dataset on the Hub."""

import argparse
from pathlib import Path

from ham_hf.cli.options import add_allow_missing_images, add_images, add_split, data_arguments
from ham_hf.cli.parser import Commands
from ham_hf.system.errors import InputError

DESCRIPTION = """Publish a copy of HAM10000 as a dataset on the Hub.

The dataset has Parquet files with the unchanged image files, the splits, and a card with license, split, hashes and
leak audit. `--data_dir REPO_ID` with the same --split then gives the same images in the same splits."""
EPILOG = """license:
  HAM10000 is CC BY-NC 4.0: you may share it for non-commercial purposes if you credit its authors. Its photographs
  show patients. Nothing is uploaded without --accept_license, and images that are not HAM10000's never are.

examples:
  ham-hf data push path/to/HAM10000 you/ham10000 --private --dry_run
  ham-hf data push path/to/HAM10000 you/ham10000 --private --accept_license"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "push",
        help="publish a copy of HAM10000 as a dataset on the Hub",
        description="Publish a copy of HAM10000 as a dataset on the Hub: first the dataset card with the license, "
        "then Parquet files with images and splits.",
    )
    add_images(parser, positional=True, hub=False)
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name; created if it does not exist")
    add_split(parser, default="study")
    add_allow_missing_images(parser)
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--token", help="Hub token (default: HF_TOKEN, or the token of `hf auth login`)")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, and upload nothing")
    parser.add_argument(
        "--accept_license",
        action="store_true",
        help="confirm that the license of HAM10000 (CC BY-NC 4.0, non-commercial) is respected and that its "
        "photographs of patients may leave this machine; required to upload",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Publish the data."""
    if not Path(args.data_dir).expanduser().is_dir():
        raise InputError(f"{args.data_dir} is not a folder: expected a copy of HAM10000 on this machine")
    from ham_hf.hub.dataset import push_dataset

    push_dataset(
        data_arguments(args),
        args.repo_id,
        private=args.private,
        token=args.token,
        dry_run=args.dry_run,
        accept_license=args.accept_license,
    )
