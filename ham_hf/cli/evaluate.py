"""`ham-hf evaluate`: the report of any image classifier on labeled images."""

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


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="score any image classifier on labeled images and write the same report",
        description="Score a run, or any image classifier on the Hub, on labeled images, and write the same report "
        "as a training run.",
    )
    add_model(parser, "a model folder, or a Hub id")
    add_labeled_images(parser, default_help=OWN_SPLIT)
    parser.add_argument(
        "--training_data",
        metavar="DATA",
        help="where the model's training images are: compare the evaluated images with them by local features, "
        "which finds turned, cropped or edited copies (requires the extra audit; minutes, the first time)",
    )
    add_output_dir(parser, "the report")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate, write the report and print its headline metrics."""
    from ham_hf.config.arguments import DataArguments
    from ham_hf.data.source import source_kind

    check_new_folder(args.output_dir)
    require_model(args)
    data, training_data = data_arguments(args), None
    if args.training_data is not None:
        source_kind(args.training_data)
        training_data = DataArguments(data_dir=args.training_data, split="", allow_missing_images=True)
    from ham_hf.evaluate import evaluate_model
    from ham_hf.reporting.report import print_results

    report = evaluate_model(
        args.model,
        data,
        args.output_dir,
        revision=args.revision,
        label_map=args.label_map,
        argv=args.argv[1:],
        training_data=training_data,
    )
    print_results(report, args.output_dir)
