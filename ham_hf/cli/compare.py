"""`ham-hf compare`: the difference between two groups of runs."""

import argparse
from pathlib import Path

from ham_hf.cli.options import require_run
from ham_hf.cli.parser import Commands
from ham_hf.system.outputs import check_output


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="compare two groups of runs on the same images, with confidence intervals",
        usage="%(prog)s RUN [RUN ...] --with RUN [RUN ...] [--split {validation,test}]",
        description="Compare two groups of runs, such as three seeds each, on the same images: the runs before --with "
        "are group A, those after it group B. Differences are B - A.",
    )
    parser.add_argument("first", metavar="RUN", nargs="+", type=Path, help="run folders of group A")
    parser.add_argument(
        "--with", dest="second", metavar="RUN", nargs="+", type=Path, required=True, help="run folders of group B"
    )
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        default="validation",
        help="which predictions to compare (default: %(default)s)",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the differences to this .png file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare the runs and print a table."""
    if args.picture:
        check_output("--picture", args.picture, ".png")
    for folder in (*args.first, *args.second):
        require_run(folder)
    from ham_hf.reporting.compare import compare_runs, render_comparison

    comparison = compare_runs(args.first, args.second, args.split)
    print(render_comparison(comparison, args.first, args.second, args.split))
    if args.picture:
        from ham_hf.reporting.plots import write_comparison

        write_comparison(args.picture, comparison, args.split)
        print(f"picture: {args.picture}")
