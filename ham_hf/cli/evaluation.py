"""`ham-hf evaluate`, `verify`, `compare`, …: the commands about how good models are, and models made of others.

Imports that take seconds are made by who needs them.
"""

import argparse
from pathlib import Path

from ham_hf.cli.data import GROUPING, add_diagnosis_map, data_arguments
from ham_hf.cli.label_map import add_label_map
from ham_hf.config.arguments import SELECTION_METRICS
from ham_hf.system.outputs import check_output

OWN_SPLIT = "that of the model's training, or study, or all for images that it cannot have seen,"


def add_judging_commands(commands: argparse._SubParsersAction) -> None:
    """Add them to those of `ham-hf`."""
    report = commands.add_parser(
        "report",
        help="rebuild a run's report and pictures from its predictions",
        description="Rebuild report.html, report.json, report.md and plots/ from a run folder's predictions, without "
        "the model.",
        allow_abbrev=False,
    )
    report.add_argument("folder", metavar="RUN", type=Path, help="a run folder of `ham-hf train`")
    report.set_defaults(run=_report)

    evaluate = commands.add_parser(
        "evaluate",
        help="judge any image classifier on images with known diagnoses: the report of a training, without one",
        description="Judge a run, or an image classifier from the Hub, on images with known diagnoses.",
        allow_abbrev=False,
    )
    evaluate.add_argument("model", metavar="RUN_OR_HUB_ID", help="a model folder, or a Hub id")
    _add_data_flags(evaluate, split=None, when_left_out=OWN_SPLIT)
    add_label_map(evaluate)
    evaluate.add_argument("--output_dir", type=Path, required=True, help="a new folder, for the report")
    evaluate.set_defaults(run=_evaluate)

    ensemble = commands.add_parser(
        "ensemble",
        help="several models as one: the mean of their probabilities, calibrated last",
        description="Join models of the image into one, which is then used, judged and published as any other.",
        allow_abbrev=False,
    )
    ensemble.add_argument(
        "members",
        metavar="RUN_OR_RECIPE",
        nargs="+",
        type=Path,
        help="run folders of `ham-hf train`; a recipe (.yaml) is trained first, beside --output_dir; or the folder of "
        "one cross-validation, for its folds",
    )
    _add_data_flags(ensemble, split="study", when_left_out="study", revision=False)
    ensemble.add_argument(
        "--greedy",
        metavar="METRIC",
        choices=SELECTION_METRICS,
        help="choose members and weights by this metric of the validation images; all alike when left out",
    )
    ensemble.add_argument(
        "--calibration",
        choices=["temperature", "none"],
        default="temperature",
        help="fitted on the validation images; temperature when left out",
    )
    ensemble.add_argument("--output_dir", type=Path, required=True, help="a new folder, for the model and its report")
    ensemble.set_defaults(run=_ensemble)

    explain = commands.add_parser(
        "explain",
        help="where a model looks: right and wrong cases of every diagnosis, with saliency",
        description="Draw, for every diagnosis, right and wrong cases that a rule chose, and where the model looked. "
        "The sheets show patients' photographs and stay on this machine.",
        allow_abbrev=False,
    )
    explain.add_argument("model", metavar="RUN_OR_HUB_ID", help="a model folder, or a Hub id")
    _add_data_flags(explain, split=None, when_left_out=OWN_SPLIT)
    add_label_map(explain)
    explain.add_argument(
        "--part", choices=["validation", "test"], default="validation", help="whose cases; validation when left out"
    )
    explain.add_argument("--output_dir", type=Path, required=True, help="a new folder, for the sheets")
    explain.set_defaults(run=_explain)

    verify = commands.add_parser(
        "verify",
        help="compute the claims of a model card again, from its weights and your data",
        description="Compute the claims of a card again. Exit code 0: all hold, 1: one is false, 2: cannot tell.",
        allow_abbrev=False,
    )
    verify.add_argument("model", metavar="RUN_OR_HUB_ID", help="a model folder or a Hub id, with a card of anybody's")
    _add_data_flags(verify, split=None, when_left_out="that of the card")
    add_label_map(verify)
    verify.add_argument(
        "--part", choices=["validation", "test"], help="what all claims are about, where the card does not say it so"
    )
    verify.add_argument("--write", type=Path, metavar="FILE", help="write a card with the measured figures to FILE")
    verify.set_defaults(run=_verify)

    compare = commands.add_parser(
        "compare",
        help="two groups of runs on the same images, with intervals of their difference",
        usage="%(prog)s RUN [RUN ...] --with RUN [RUN ...] [--split {validation,test}]",
        description="Compare two groups of runs, such as three seeds each, on the same images: the runs before --with "
        "are group A, those after it group B. Differences are B - A.",
        allow_abbrev=False,
    )
    compare.add_argument("first", metavar="RUN", nargs="+", type=Path, help="run folders of group A")
    compare.add_argument(
        "--with", dest="second", metavar="RUN", nargs="+", type=Path, required=True, help="run folders of group B"
    )
    compare.add_argument(
        "--split",
        choices=["validation", "test"],
        default="validation",
        help="whose predictions; validation when left out",
    )
    compare.add_argument("--picture", type=Path, metavar="FILE", help="draw the differences into this .png file too")
    compare.set_defaults(run=_compare)


def _add_data_flags(
    parser: argparse.ArgumentParser, *, split: str | None, when_left_out: str, revision: bool = True
) -> None:
    """Which images: the flags of a training, under the same names."""
    parser.add_argument("--data_dir", required=True, help="a folder with images and their table, or a Hub dataset id")
    parser.add_argument("--data_revision", help="commit, branch or tag of a Hub dataset")
    parser.add_argument("--metadata_csv", help="the table: columns image_id and dx, where it has a name of its own")
    add_diagnosis_map(parser)
    parser.add_argument(
        "--split",
        default=split,
        help=f"as in a training: study, grouped or a CSV; or all, every image; {when_left_out} when left out",
    )
    parser.add_argument("--split_seed", type=int, default=0, help="seed of --split grouped")
    parser.add_argument("--group_near_duplicates", action="store_true", help=GROUPING)
    parser.add_argument("--allow_missing_images", action="store_true", help="judge on the images that are there")
    if revision:
        parser.add_argument("--revision", help="commit, branch or tag of the model; its default branch when left out")


def _require_model(args: argparse.Namespace) -> None:
    """Before the imports that take ten seconds: a misspelt name should not."""
    from ham_hf.inference.classifier import find_classifier

    find_classifier(args.model, args.revision)


def _report(args: argparse.Namespace) -> None:
    from ham_hf.reporting.report import write_report

    _print_headlines(write_report(args.folder), args.folder)


def _evaluate(args: argparse.Namespace) -> None:
    _require_model(args)
    from ham_hf.evaluate import evaluate_model

    report = evaluate_model(
        args.model,
        data_arguments(args),
        args.output_dir,
        revision=args.revision,
        label_map=args.label_map,
        argv=args.argv[1:],
    )
    _print_headlines(report, args.output_dir)


def _ensemble(args: argparse.Namespace) -> None:
    import logging

    from ham_hf.training.ensemble import build_ensemble, train_members

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ham_hf").setLevel(logging.INFO)
    runs = train_members(args.members, args.output_dir, _training_flags(args))
    report = build_ensemble(
        runs,
        data_arguments(args),
        args.output_dir,
        greedy=args.greedy,
        calibration=args.calibration != "none",
        argv=args.argv[1:],
    )
    _print_headlines(report, args.output_dir)


def _training_flags(args: argparse.Namespace) -> list[str]:
    """The data of an ensemble, for the trainings of its members."""
    flags = ["--data_dir", args.data_dir, "--split", args.split, "--split_seed", str(args.split_seed)]
    for name in ("data_revision", "metadata_csv", "diagnosis_map"):
        if getattr(args, name) is not None:
            flags += [f"--{name}", getattr(args, name)]
    switches = ("group_near_duplicates", "allow_missing_images")
    return flags + [f"--{name}" for name in switches if getattr(args, name)]


def _explain(args: argparse.Namespace) -> None:
    _require_model(args)
    from ham_hf.explain import explain

    sheets = explain(
        args.model,
        data_arguments(args),
        args.output_dir,
        part=args.part,
        revision=args.revision,
        label_map=args.label_map,
    )
    print(f"{len(sheets)} sheets: {args.output_dir / 'README.md'}")


def _verify(args: argparse.Namespace) -> int:
    if args.write:
        check_output("--write", args.write)
    _require_model(args)
    from ham_hf.hub.verify import verify

    verification = verify.verify_card(
        args.model, data_arguments(args), revision=args.revision, label_map=args.label_map, part=args.part
    )
    *lines, unchecked = verify.render(verification).splitlines()  # which comes last, whatever is printed
    print("\n".join(lines))
    if args.write:
        verify.write_corrected(args.model, args.revision, verification.verdicts, args.write)
        print(f"corrected: {args.write}; look at its text too, which says what it said")
    print(unchecked)
    return verify.exit_code(verification)


def _compare(args: argparse.Namespace) -> None:
    from ham_hf.reporting.compare import compare_runs, render_comparison

    if args.picture:
        from ham_hf.reporting.plots import write_comparison

        check_output("--picture", args.picture, ".png")
    comparison = compare_runs(args.first, args.second, args.split)
    print(render_comparison(comparison, args.first, args.second, args.split))
    if args.picture:
        write_comparison(args.picture, comparison, args.split)
        print(f"picture: {args.picture}")


def _print_headlines(report: dict, folder: Path) -> None:
    from ham_hf.reporting.report import headline_line

    for name, result in report["results"].items():
        if result is not None:
            print(f"{name}: {headline_line(result)}")
    print(f"report: {folder / 'report.html'}, or as text {folder / 'report.md'}")
