"""`ham-hf verify`: recompute the claims of a model card."""

import argparse
from pathlib import Path

from ham_hf.cli.options import (
    add_labeled_images,
    add_model,
    data_arguments,
    require_model,
)
from ham_hf.cli.parser import Commands
from ham_hf.system.outputs import check_output


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="recompute the claims of a model card from its weights and your data",
        description="Recompute the claims of a model card. Exit code 0: all hold; 1: one is false; 2: cannot tell.",
    )
    add_model(parser, "a model folder or a Hub id with any model card")
    add_labeled_images(parser, default_help="the split that the card names")
    parser.add_argument(
        "--part", choices=["validation", "test"], help="what all claims are about, if the card does not say"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a card with the measured values to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify the card, print the verdicts and return the exit code."""
    if args.write:
        check_output("--write", args.write)
    require_model(args)
    data = data_arguments(args)
    from ham_hf.hub.verify import verify

    verification = verify.verify_card(
        args.model, data, revision=args.revision, label_map=args.label_map, part=args.part
    )
    *lines, unchecked = verify.render(verification).splitlines()  # the last line, whatever is printed before
    print("\n".join(lines))
    if args.write:
        verify.write_corrected(args.model, args.revision, verification.verdicts, args.write)
        print(f"corrected card: {args.write}; check its prose too, which is unchanged")
    print(unchecked)
    return verify.exit_code(verification)
