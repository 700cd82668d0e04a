"""`ham-hf explain`: saliency sheets of correct and wrong cases."""

import argparse

from ham_hf.cli.options import (
    OWN_SPLIT,
    add_labeled_images,
    add_model,
    add_output_dir,
    data_arguments,
    require_model,
)
from ham_hf.cli.parser import Commands
from ham_hf.system.files import check_new_folder
from ham_hf.system.installation import require


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="show where a model looks, in correct and wrong cases of every diagnosis",
        description="Draw saliency maps of correct and wrong cases of every diagnosis, selected by a fixed rule. The "
        "sheets show photographs of patients and stay on this machine.",
    )
    add_model(parser, "a model folder, or a Hub id")
    add_labeled_images(parser, default_help=OWN_SPLIT)
    parser.add_argument(
        "--part",
        choices=["validation", "test"],
        default="validation",
        help="which part of the split to draw cases from (default: %(default)s)",
    )
    add_output_dir(parser, "the sheets")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw the sheets and print where they are."""
    check_new_folder(args.output_dir)
    require("captum", "explain", "ham-hf explain")
    require_model(args)
    data = data_arguments(args)
    from ham_hf.explain import explain

    sheets = explain(
        args.model,
        data,
        args.output_dir,
        part=args.part,
        revision=args.revision,
        label_map=args.label_map,
    )
    print(f"{len(sheets)} sheets: {args.output_dir / 'README.md'}")
