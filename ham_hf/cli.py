"""The command `ham-hf`. Imports that take seconds are made by the command that needs them."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ham_hf.data_cli import add_data_commands, data_arguments
from ham_hf.errors import InputError

# TrainingArguments has a --debug of its own, with one of these as its value
TRAINER_DEBUG_OPTIONS = ("underflow_overflow", "tpu_metrics_debug")


def main(argv: list[str] | None = None) -> int:
    """Run `ham-hf …` and return its exit code."""
    return run_command(_run, argv)


def run_command(command: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Call `command(argv)` and return an exit code: the command's own, 2 after a user's mistake, 130 after Ctrl-C.

    The user's mistake is one message on stderr, from the main process alone where there are several; `--debug` among
    the arguments shows the traceback too. Any other exception is a mistake of ours and passes through.
    """
    argv, debug = _without_debug(sys.argv[1:] if argv is None else argv)
    try:
        return command(argv) or 0
    except InputError as error:
        if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
            if debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted: a training goes on from its last checkpoint with the same command and --resume",
            file=sys.stderr,
        )
        return 130


def _without_debug(argv: list[str]) -> tuple[list[str], bool]:
    kept = [
        word
        for i, word in enumerate(argv)
        if word != "--debug" or (i + 1 < len(argv) and argv[i + 1] in TRAINER_DEBUG_OPTIONS)
    ]
    return kept, len(kept) < len(argv)


def _run(argv: list[str]) -> int | None:
    if argv[:1] == ["train"]:  # a recipe's flags are TrainingArguments': their parser takes seconds to import
        from ham_hf.train import main as train

        return train(argv[1:])
    if argv[:1] == ["cross-validate"]:
        from ham_hf.cross_validate import main as cross_validate

        return cross_validate(argv[1:])
    if argv[:1] == ["sweep"]:
        from ham_hf.sweep import main as sweep

        return sweep(argv[1:])
    if argv[:2] == ["data", "preview"]:
        from ham_hf.preview import main as preview

        print(f"{preview(argv[2:])}: training images as the model sees them, from epoch to epoch")
        print("It shows photographs of patients: keep it on this machine.")
        return 0
    args = _parser().parse_args(argv)
    args.argv = argv
    return args.run(args)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. `{self.prog} --help` says what is expected.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ham-hf",
        description="Fine-tune, judge and use skin-lesion classifiers. Research software, not a medical device.",
        epilog="--debug shows the traceback of an error. For several processes: accelerate launch -m ham_hf.train …",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("train", help="fine-tune a model: ham-hf train RECIPE.yaml [--flag value …]", add_help=False)
    commands.add_parser(
        "cross-validate",
        help="judge a recipe on every lesion: ham-hf cross-validate RECIPE.yaml --folds 5 [--flag value …]",
        add_help=False,
    )

    commands.add_parser(
        "sweep",
        help="search for better settings: ham-hf sweep RECIPE.yaml SWEEP.yaml [--flag value …]",
        add_help=False,
    )

    predict = commands.add_parser(
        "predict",
        help="seven probabilities for photographs of one's own",
        description="Seven probabilities for each photograph, from a run folder, a model on the Hub or an ONNX file.",
        allow_abbrev=False,
    )
    predict.add_argument(
        "model",
        metavar="RUN_OR_HUB_ID",
        help="a run folder of `ham-hf train`, a Hub id, or a file.onnx of `ham-hf export onnx`",
    )
    predict.add_argument("photos", metavar="PHOTO", nargs="+", help="image files, or folders with image files")
    predict.add_argument("--csv", type=Path, metavar="FILE", help="write the probabilities to this file as well")
    predict.add_argument("--age", type=float, metavar="YEARS", help="the patient's, for models that read it")
    predict.add_argument("--sex", choices=["female", "male", "unknown"], help="the patient's; unknown when left out")
    predict.add_argument("--site", help="of the lesion on the body, such as back; unknown when left out")
    predict.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="a CSV in place of these three: columns file, age, sex, localization; empty cells are unknown",
    )
    predict.add_argument("--revision", help="commit, branch or tag of a Hub id; its default branch when left out")
    predict.set_defaults(run=_predict)

    export = commands.add_parser("export", help="the model in another format", allow_abbrev=False)
    formats = export.add_subparsers(title="formats", metavar="FORMAT", required=True)
    onnx = formats.add_parser(
        "onnx",
        help="one file with weights, labels and preprocessing, for onnxruntime",
        description="Write an ONNX file and check that it answers as the model does. `ham-hf predict` reads it.",
        allow_abbrev=False,
    )
    onnx.add_argument("model", metavar="RUN_OR_HUB_ID", help="a run folder of `ham-hf train`, or a Hub id")
    onnx.add_argument("--output", type=Path, metavar="FILE", help="model.onnx in the run folder when left out")
    onnx.add_argument("--revision", help="commit, branch or tag of a Hub id; its default branch when left out")
    onnx.set_defaults(run=_export_onnx)

    report = commands.add_parser(
        "report",
        help="rebuild a run's report and pictures from its predictions",
        description="Rebuild report.json, report.md and plots/ from a run folder's predictions, without the model.",
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
    _add_data_flags(evaluate, split="study", when_left_out="study")
    evaluate.add_argument(
        "--label_map",
        metavar="JSON",
        help='what a model\'s own labels mean, such as \'{"SCC": "akiec", "other": null}\'; null leaves one out. '
        "The seven codes and their full names need no mention",
    )
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
        choices=["balanced_accuracy", "accuracy", "macro_f1", "macro_auroc"],
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
    _add_data_flags(explain, split="study", when_left_out="study")
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
    verify.add_argument("--label_map", metavar="JSON", help="as for `ham-hf evaluate`")
    verify.add_argument(
        "--part", choices=["validation", "test"], help="what all claims are about, where the card does not say it so"
    )
    verify.add_argument("--write", type=Path, metavar="FILE", help="write a card with the measured figures to FILE")
    verify.set_defaults(run=_verify)

    add_data_commands(commands)

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
    return parser


def _add_data_flags(
    parser: argparse.ArgumentParser, *, split: str | None, when_left_out: str, revision: bool = True
) -> None:
    """Which images: the flags of a training, under the same names."""
    parser.add_argument("--data_dir", required=True, help="a folder with images and their table, or a Hub dataset id")
    parser.add_argument("--data_revision", help="commit, branch or tag of a Hub dataset")
    parser.add_argument("--metadata_csv", help="the table: columns image_id and dx, where it has a name of its own")
    parser.add_argument(
        "--split",
        default=split,
        help=f"as in a training: study, grouped or a CSV; or all, every image; {when_left_out} when left out",
    )
    parser.add_argument("--split_seed", type=int, default=0, help="seed of --split grouped")
    parser.add_argument("--allow_missing_images", action="store_true", help="judge on the images that are there")
    if revision:
        parser.add_argument("--revision", help="commit, branch or tag of the model; its default branch when left out")


def _label_map(text: str | None) -> dict:
    import json

    try:
        label_map = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--label_map is {text!r}: expected a JSON object ({error})") from None
    if not isinstance(label_map, dict):
        raise InputError(f"--label_map is {text!r}: expected a JSON object, label → code or null")
    return label_map


def _require_model(args: argparse.Namespace) -> None:
    """Before the imports that take ten seconds: a misspelt name should not."""
    from ham_hf.predict import find_classifier

    find_classifier(args.model, args.revision)


def _verify(args: argparse.Namespace) -> int:
    label_map = _label_map(args.label_map)
    _require_model(args)
    from ham_hf import verify

    verification = verify.verify_card(
        args.model, data_arguments(args), revision=args.revision, label_map=label_map, part=args.part
    )
    print(verify.render(verification))
    if args.write:
        verify.write_corrected(args.model, args.revision, verification.verdicts, args.write)
        print(f"corrected: {args.write}; look at its text too, which says what it said")
    return verify.exit_code(verification)


def _evaluate(args: argparse.Namespace) -> None:
    label_map = _label_map(args.label_map)
    _require_model(args)
    from ham_hf.evaluate import evaluate_model

    report = evaluate_model(
        args.model,
        data_arguments(args),
        args.output_dir,
        revision=args.revision,
        label_map=label_map,
        argv=args.argv[1:],
    )
    _print_headlines(report, args.output_dir)


def _ensemble(args: argparse.Namespace) -> None:
    import logging

    from ham_hf.ensemble import build_ensemble, train_members

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


def _explain(args: argparse.Namespace) -> None:
    _require_model(args)
    from ham_hf.explain import explain

    sheets = explain(args.model, data_arguments(args), args.output_dir, part=args.part, revision=args.revision)
    print(f"{len(sheets)} sheets: {args.output_dir / 'README.md'}")


def _training_flags(args: argparse.Namespace) -> list[str]:
    """The data of an ensemble, for the trainings of its members."""
    flags = ["--data_dir", args.data_dir, "--split", args.split, "--split_seed", str(args.split_seed)]
    for name in ("data_revision", "metadata_csv"):
        if getattr(args, name) is not None:
            flags += [f"--{name}", getattr(args, name)]
    return flags + (["--allow_missing_images"] if args.allow_missing_images else [])


def _predict(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ham_hf import onnx, predict
    from ham_hf.labels import DISCLAIMER
    from ham_hf.photos import check_photos, find_photos

    # What fails fast comes first: paths, then every photograph, then the model
    if args.csv:
        predict.check_csv_path(args.csv)
    photos, others = find_photos(args.photos)
    is_onnx = args.model.endswith(onnx.SUFFIX)
    if is_onnx:
        session, facts = onnx.open_onnx(Path(args.model), args.revision)
        synthetic = facts["synthetic"]
    else:
        predict.find_classifier(args.model, args.revision)
        synthetic = predict.is_trained_on_synthetic_images(args.model)
    patients = _patients(args, photos)
    check_photos(photos)
    if is_onnx:
        model, processor = onnx.load_onnx(session, facts)
    else:
        model, processor = predict.load_classifier(args.model, args.revision)
    if patients is not None:
        predict.check_patients(model, processor, patients)
    bf16 = predict.usable_bf16_difference(args.model, len(photos))
    for photo, row in predict.predict_photos(model, processor, photos, args.csv, patients, bf16):
        tqdm.write(predict.table(photo, row, predict.labels_of(model)) + "\n")  # above the progress bar
    from ham_hf.thresholds import KEY

    if not is_onnx and (threshold := model.config.to_dict().get(KEY)) is not None:
        print(f"Melanoma is to be suspected where its probability is at least {threshold:.4f}, whatever is likeliest.")
    if others:
        print(f"{others} other files in the folders were left out, for their suffixes.")
    if args.csv:
        print(f"{len(photos)} rows in {args.csv}")
    if bf16 is not None:
        print(
            "Computed in bfloat16, which moved no probability of the run's validation images by more than "
            f"{bf16:.4f}; where that could change the answer, in float32."
        )
    if synthetic:
        print("This model was trained on synthetic images: it has never seen a lesion, and its numbers mean nothing.")
    print(DISCLAIMER)


def _patients(args: argparse.Namespace, photos: list[Path]) -> list[tuple] | None:
    """(age, sex, site) of each photograph's patient; None where the command line says nothing about them."""
    from ham_hf.predict import read_patients

    one = (args.age, args.sex, args.site)
    if args.patients is None:
        return None if one == (None, None, None) else [one] * len(photos)
    if one != (None, None, None):
        raise InputError("--patients has each patient's age, sex and site: leave out --age, --sex and --site")
    return read_patients(args.patients, photos)


def _export_onnx(args: argparse.Namespace) -> None:
    from ham_hf import export

    path, difference = export.export_onnx(args.model, args.output, args.revision)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"probabilities of {export.CHECKED} synthetic images differ from the model's by {difference:.1g} at most")


def _report(args: argparse.Namespace) -> None:
    from ham_hf.report import write_report

    _print_headlines(write_report(args.folder), args.folder)


def _print_headlines(report: dict, folder: Path) -> None:
    from ham_hf.report import headline_line

    for name, result in report["results"].items():
        if result is not None:
            print(f"{name}: {headline_line(result)}")
    print(f"report: {folder / 'report.md'}")


def _compare(args: argparse.Namespace) -> None:
    from ham_hf.compare import compare_runs, render_comparison

    if args.picture and (args.picture.suffix != ".png" or not args.picture.parent.is_dir()):
        raise InputError(f"--picture is {args.picture}: expected the name of a .png file, in a folder that is there")
    comparison = compare_runs(args.first, args.second, args.split)
    print(render_comparison(comparison, args.first, args.second, args.split))
    if args.picture:
        from ham_hf.plots import write_comparison

        write_comparison(args.picture, comparison, args.split)
        print(f"picture: {args.picture}")
