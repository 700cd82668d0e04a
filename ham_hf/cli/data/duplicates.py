"""`ham-hf data duplicates`: images of one lesion under different lesion ids."""

import argparse
from dataclasses import replace

from ham_hf.cli.options import add_images, add_output_dir, add_split, data_arguments
from ham_hf.cli.parser import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "duplicates",
        help="find images of one lesion under different lesion ids, or in two collections",
        description="Find pairs of images that show the same lesion under different lesion ids, however they were "
        "turned, mirrored, cropped or edited, and lesion ids that look alike. Write duplicates.csv and "
        "duplicates.html, a page to compare them and mark what they are. The page shows photographs of patients and "
        "stays on this machine. If interrupted, run the same command again to resume.",
    )
    add_images(parser, positional=True)
    add_split(parser, default_help="no split is shown")
    parser.add_argument(
        "--against", metavar="DATA", help="another collection: find the images that show a lesion of both"
    )
    add_output_dir(parser, "duplicates.csv and duplicates.html")
    parser.set_defaults(run=run, allow_missing_images=True)


def run(args: argparse.Namespace) -> None:
    """Search, and print what was found and where it is."""
    from ham_hf.data.source import source_kind

    data = data_arguments(args)
    against = None
    if args.against is not None:
        source_kind(args.against)
        against = replace(data, data_dir=args.against, metadata_csv=None, split="", data_revision=None)
    from ham_hf.duplicates import PAGE, TABLE, write_duplicates

    table = write_duplicates(data, args.output_dir, against)
    what = "in both collections" if against else "of different lesions"
    print(f"{len(table):,} pairs of images {what} that may show one lesion")
    if args.split and against is None:
        print(f"{(table['split_a'] != table['split_b']).sum():,} of them are in different splits")
    print(f"{args.output_dir / TABLE}\n{args.output_dir / PAGE}: photographs of patients, keep it on this machine")
