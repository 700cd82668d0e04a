"""`ham-hf predict`: class probabilities for photographs."""

import argparse
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from ham_hf.cli.options import add_model
from ham_hf.cli.parser import Commands
from ham_hf.system.errors import InputError
from ham_hf.system.terminal import printable

OLDEST = 120  # years


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict",
        help="predict the probability of each diagnosis for your photographs",
        description="Predict the probability of each diagnosis for every photograph.",
    )
    add_model(parser, "a run folder of `ham-hf train`, a Hub id, or a .onnx file of `ham-hf export onnx`")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="image files, or folders with image files")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the probabilities to this CSV file; - for stdout"
    )
    parser.add_argument("--age", type=_age, metavar="YEARS", help="age of the patient, for models that use it")
    parser.add_argument("--sex", choices=["female", "male", "unknown"], help="sex of the patient (default: unknown)")
    parser.add_argument("--site", help="body site of the lesion, such as back (default: unknown)")
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="a CSV file to use instead of --age, --sex and --site, with the columns file, age, sex, localization; "
        "empty cells are unknown",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the computation; the 16-bit types are faster on hardware that supports them, and change "
        "the probabilities a little (default: float32)",
    )
    parser.set_defaults(run=run)


def _age(text: str) -> float:
    try:
        age = float(text)
    except ValueError:
        age = -1.0
    if not 0 <= age <= OLDEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of years from 0 to {OLDEST}")
    return age


def run(args: argparse.Namespace) -> None:
    """Predict and print a table for each photograph."""
    from ham_hf.system.outputs import check_table, is_standard_output

    if args.csv:
        check_table("--csv", args.csv)
    # With the CSV on standard output, everything else goes to stderr
    with redirect_stdout(sys.stderr) if args.csv and is_standard_output(args.csv) else nullcontext():
        _predict_photos(args)


def _predict_photos(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ham_hf.data.image_io import check_photos, find_photos, list_suffixes
    from ham_hf.inference import load, onnx, predict
    from ham_hf.inference.classifier import suspicion
    from ham_hf.inference.run_files import is_trained_on_synthetic_images
    from ham_hf.labels import DISCLAIMER
    from ham_hf.models.loading import PROCESSOR_FILES

    # What fails fast comes first: paths, then every photograph, then the model
    photos, others = find_photos(args.photos)
    is_onnx = args.model.endswith(onnx.SUFFIX)
    if is_onnx:
        if args.label_map:
            raise InputError("--label_map does not apply to an ONNX file, which has our labels: remove it")
        if args.dtype != "float32":
            raise InputError(f"--dtype {args.dtype} does not apply to an ONNX file: remove it")
        session, facts = onnx.open_onnx(Path(args.model), args.revision)
        synthetic = facts["synthetic"]
    else:
        load.find_classifier(args.model, args.revision)
        synthetic = is_trained_on_synthetic_images(args.model, args.revision)
    patients = _patients(args, photos)
    # Transformers writes the second file for models with more than one kind of input
    folder = Path(args.model)
    if patients is not None and folder.is_dir() and not (folder / PROCESSOR_FILES[1]).is_file():
        raise InputError(predict.IMAGE_ALONE)
    check_photos(photos)
    if is_onnx:
        classifier = onnx.load_onnx(session, facts)
    else:
        classifier = load.load_classifier(args.model, args.revision, args.label_map)
    if patients is not None:
        predict.check_patients(classifier, patients)
    for photo, row in predict.predict_photos(classifier, photos, args.csv, patients, args.dtype):
        tqdm.write(predict.table(photo, row, classifier.labels) + "\n")  # above the progress bar
    if (threshold := classifier.threshold) is not None:
        print(suspicion(threshold))
    if others:
        print(f"{others.total()} other files in the folders were skipped: {list_suffixes(others)}.")
    if args.csv:
        print(f"{len(photos)} rows in {printable(str(args.csv))}")
    if synthetic:
        print(predict.SYNTHETIC_ALONE)
    print(DISCLAIMER)


def _patients(args: argparse.Namespace, photos: list[Path]) -> list[tuple] | None:
    """Return (age, sex, site) for each photograph; None if the command line says nothing about the patient."""
    from ham_hf.inference.predict import read_patients

    one = (args.age, args.sex, args.site)
    if args.patients is None:
        return None if one == (None, None, None) else [one] * len(photos)
    if one != (None, None, None):
        raise InputError("--patients replaces --age, --sex and --site: use one or the other")
    return read_patients(args.patients, photos)
