"""The command `ham-hf`. Imports that take seconds are made by the command that needs them."""

import argparse
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import NoReturn

from ham_hf.cli.data import add_data_commands
from ham_hf.cli.demo import add_demo_command
from ham_hf.cli.environment import add_around_commands
from ham_hf.cli.evaluation import add_judging_commands
from ham_hf.cli.label_map import add_label_map
from ham_hf.system.command import run_command
from ham_hf.system.errors import InputError
from ham_hf.system.terminal import printable

NO_PARENTS: Mapping[str, list[argparse.ArgumentParser]] = {}


def main(argv: list[str] | None = None) -> int:
    """Run `ham-hf …` and return its exit code."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int | None:
    if argv[:1] == ["train"]:  # a recipe's flags are TrainingArguments': their parser takes seconds to import
        from ham_hf.train import main as train

        return train(argv[1:])
    if argv[:1] == ["cross-validate"]:
        from ham_hf.training.cross_validation import main as cross_validate

        return cross_validate(argv[1:])
    if argv[:1] == ["sweep"]:
        from ham_hf.training.search import main as sweep

        return sweep(argv[1:])
    if argv[:2] == ["data", "preview"]:
        from ham_hf.training.preview import main as preview

        print(f"{preview(argv[2:])}: training images as the model sees them, from epoch to epoch")
        print("It shows photographs of patients: keep it on this machine.")
        return 0
    args = build_parser().parse_args(argv)
    args.argv = argv
    return args.run(args)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. `{self.prog} --help` says what is expected.")


def build_parser(parents: Mapping[str, list[argparse.ArgumentParser]] = NO_PARENTS) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        parents: whose flags train, cross-validate, sweep and "data preview" have besides, which read them themselves:
            for the completion of a shell.
    """
    parser = _Parser(
        prog="ham-hf",
        description="Fine-tune, judge and use skin-lesion classifiers. Research software, not a medical device.",
        epilog="--debug shows the traceback of an error. For several processes: accelerate launch -m ham_hf.train …",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, help_ in {
        "train": "fine-tune a model: ham-hf train RECIPE.yaml [--flag value …]",
        "cross-validate": "judge a recipe on every lesion: ham-hf cross-validate RECIPE.yaml [--folds N] [--flag …]",
        "sweep": "search for better settings: ham-hf sweep RECIPE.yaml SWEEP.yaml [--flag value …]",
    }.items():
        of_recipe = parents.get(name, [])
        commands.add_parser(name, help=help_, add_help=False, parents=of_recipe, conflict_handler="resolve")

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
    predict.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the probabilities to this file as well; - for stdout"
    )
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
    add_label_map(predict)
    predict.set_defaults(run=_predict)
    add_demo_command(commands)

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
    add_label_map(onnx)
    onnx.set_defaults(run=_export_onnx)

    add_judging_commands(commands)
    add_data_commands(commands, parents.get("data preview", []))
    add_around_commands(commands)

    return parser


def _predict(args: argparse.Namespace) -> None:
    from ham_hf.system.outputs import check_table, is_standard_output

    if args.csv:
        check_table("--csv", args.csv)
    # A table on standard output is for another program: what is said goes to stderr
    with redirect_stdout(sys.stderr) if args.csv and is_standard_output(args.csv) else nullcontext():
        _predict_photos(args)


def _predict_photos(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ham_hf.data.image_io import check_photos, find_photos, list_suffixes
    from ham_hf.inference import classifier, onnx, predict
    from ham_hf.inference.thresholds import suspicion, threshold_of
    from ham_hf.labels import DISCLAIMER

    # What fails fast comes first: paths, then every photograph, then the model
    photos, others = find_photos(args.photos)
    is_onnx = args.model.endswith(onnx.SUFFIX)
    if is_onnx:
        if args.label_map:
            raise InputError("--label_map is not for an ONNX file, which has our labels: remove it")
        session, facts = onnx.open_onnx(Path(args.model), args.revision)
        synthetic = facts["synthetic"]
    else:
        classifier.find_classifier(args.model, args.revision)
        synthetic = classifier.is_trained_on_synthetic_images(args.model, args.revision)
    patients = _patients(args, photos)
    check_photos(photos)
    if is_onnx:
        model, processor = onnx.load_onnx(session, facts)
    else:
        model, processor = classifier.load_classifier(args.model, args.revision, args.label_map)
    if patients is not None:
        predict.check_patients(model, processor, patients)
    bf16 = classifier.usable_bf16_difference(args.model, len(photos))
    for photo, row in predict.predict_photos(model, processor, photos, args.csv, patients, bf16):
        tqdm.write(predict.table(photo, row, classifier.labels_of(model)) + "\n")  # above the progress bar
    if not is_onnx and (threshold := threshold_of(model)) is not None:
        print(suspicion(threshold))
    if others:
        print(f"{others.total()} other files in the folders were skipped: {list_suffixes(others)}.")
    if args.csv:
        print(f"{len(photos)} rows in {printable(str(args.csv))}")
    if bf16 is not None:
        print(
            "Computed in bfloat16, which moved no probability of the run's validation images by more than "
            f"{bf16:.4f}; where that could change the answer, in float32."
        )
    if synthetic:
        print(predict.SYNTHETIC_ALONE)
    print(DISCLAIMER)


def _patients(args: argparse.Namespace, photos: list[Path]) -> list[tuple] | None:
    """(age, sex, site) of each photograph's patient; None where the command line says nothing about them."""
    from ham_hf.inference.predict import read_patients

    one = (args.age, args.sex, args.site)
    if args.patients is None:
        return None if one == (None, None, None) else [one] * len(photos)
    if one != (None, None, None):
        raise InputError("--patients has each patient's age, sex and site: leave out --age, --sex and --site")
    return read_patients(args.patients, photos)


def _export_onnx(args: argparse.Namespace) -> None:
    from ham_hf.inference import export

    path, difference = export.export_onnx(args.model, args.output, args.revision, args.label_map)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"probabilities of {export.CHECKED} synthetic images differ from the model's by {difference:.1g} at most")
