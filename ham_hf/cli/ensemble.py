"""`ham-hf ensemble`: combine several models into one."""

import argparse
from pathlib import Path

from ham_hf.cli.options import add_labeled_images, add_output_dir, data_arguments
from ham_hf.cli.parser import Commands
from ham_hf.config.metric_names import SELECTION_METRICS
from ham_hf.system.files import check_new_folder
from ham_hf.system.terminal import show_log


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ensemble",
        help="combine several models into one that averages their probabilities",
        description="Combine image models into one that averages their probabilities, calibrate it, and evaluate it. "
        "The result is used, evaluated and published like any other model.",
    )
    parser.add_argument(
        "members",
        metavar="MEMBER",
        nargs="+",
        help="run folders of `ham-hf train`; recipes, which are trained first; or the folder of one "
        "`ham-hf cross-validate`, for its folds",
    )
    add_labeled_images(parser, default="study")
    parser.add_argument(
        "--greedy",
        metavar="METRIC",
        choices=SELECTION_METRICS,
        help="select members and weights by this validation metric: one of %(choices)s (default: equal weights)",
    )
    parser.add_argument(
        "--calibration",
        choices=["temperature", "none"],
        default="temperature",
        help="calibration on the validation images (default: %(default)s)",
    )
    add_output_dir(parser, "the model and its report")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train the recipes among the members, combine all members, and print the headline metrics."""
    from ham_hf.config.recipe_file import find_recipe

    members = [Path(member) if Path(member).is_dir() else find_recipe(member) for member in args.members]
    from ham_hf.training.members import check_ensemble_members

    check_new_folder(args.output_dir)
    check_ensemble_members(members)
    data = data_arguments(args)
    from ham_hf.reporting.report import print_results
    from ham_hf.training.ensemble import build_ensemble, train_members

    show_log()
    runs = train_members(members, args.output_dir, training_options(args))
    report = build_ensemble(
        runs,
        data,
        args.output_dir,
        greedy=args.greedy,
        calibration=args.calibration != "none",
        argv=args.argv[1:],
    )
    print_results(report, args.output_dir)


def training_options(args: argparse.Namespace) -> list[str]:
    """Return the options that select an ensemble's images, for the training of its members."""
    words = ["--data_dir", args.data_dir, "--split", args.split, "--split_seed", str(args.split_seed)]
    named = ("data_revision", "metadata_csv", "diagnosis_map", "same_lesion")
    optional = {name: getattr(args, name) for name in named}
    words += [word for name, value in optional.items() if value is not None for word in (f"--{name}", value)]
    switches = {name: getattr(args, name) for name in ("drop_hidden_duplicates", "allow_missing_images")}
    return words + [f"--{name}" for name, given in switches.items() if given]
