"""`ham-hf doctor`, …: the commands around training and judging.

Imports that take seconds are made by who needs them.
"""

import argparse


def add_around_commands(commands: argparse._SubParsersAction) -> None:
    """Add them to those of `ham-hf`."""
    doctor = commands.add_parser(
        "doctor",
        help="is this machine ready? versions, hardware, disk, Hub and data",
        description="Look at versions, hardware, disk, token, Hub and data. Exit code 1: something is a problem.",
        allow_abbrev=False,
    )
    doctor.add_argument("--data_dir", help="a folder with images and their table, or a Hub dataset id, to audit too")
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from collections import Counter

    from ham_hf.doctor import examine, render_check

    states = Counter()
    for check in examine(args.data_dir):
        print(render_check(check), flush=True)
        states[check.state] += 1
    print(f"\n{states['problem']} problems, {states['warning']} warnings")
    return 1 if states["problem"] else 0
