"""`ham-hf report`: rebuild the report of a run."""

import argparse
from pathlib import Path

from ham_hf.cli.options import require_run
from ham_hf.cli.parser import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="rebuild the report of a run from its predictions",
        description="Rebuild report.html, report.json, README.md and plots/ from the predictions in a run folder, "
        "without the model.",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder of `ham-hf train`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the report and print its headline metrics."""
    require_run(args.folder)
    from ham_hf.reporting.report import print_results, write_report

    print_results(write_report(args.folder), args.folder)
