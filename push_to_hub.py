"""Publish a run folder as a model repository on the Hugging Face Hub, in one commit.

python push_to_hub.py runs/quickstart you/your-model --dry_run
python push_to_hub.py runs/quickstart you/your-model --private
python push_to_hub.py runs/quickstart you/your-space --space --model you/your-model

What goes is on a list; checkpoints, optimiser state, logs and images are not on it. Before anything is sent, the files
are loaded as their users will load them, in a new process without ham_hf, and must answer as the run's model does.

The third makes a Space of the model that the first two published: the page of `ham-hf demo`, for everybody.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from markupsafe import escape

from ham_hf import __version__
from ham_hf.hub.published_files import CHECKSUMS, EVAL_RESULTS, PATIENT_DATA, PUBLISHED, RECORD, write_checksums
from ham_hf.hub.upload import Destination, check_is_published, check_repo_id, listing, publish
from ham_hf.system.command import run_command
from ham_hf.system.errors import InputError

# Where paths of this machine and tokens could stand
TEXTS = (
    "README.md",
    "report.html",
    "report.md",
    "report.json",
    "run.json",
    "arguments.json",
    "recipe.yaml",
    "config.json",
)
TOKEN = r"\bhf_[A-Za-z0-9]{20,}"
BEFORE_A_PATH = r"(?<![\w./~+-])"  # no sign of base64 among them: report.html's pictures have slashes too


def main(argv: list[str] | None = None) -> None:
    """Publish what the command line names.

    Raises:
        InputError: the run folder, the Hub or the rights on it do not allow it; no commit was made.
    """
    args = _parser().parse_args(argv)
    check_repo_id(args.repo_id)
    _check_space(args)
    _check_run(args.run)
    to = _destination(args)
    with tempfile.TemporaryDirectory(prefix="ham_hf-push-") as temporary:
        staged = Path(temporary) / "staged"
        if args.space:
            _stage_space(args, staged)
        else:
            for line in stage(args.run, staged, repo_id=args.repo_id, with_patient_data=args.with_patient_data):
                print(line)
        if args.eval_results:
            _add_eval_results(staged)
        if args.dry_run:
            print(listing(staged))
            print(f"Nothing was sent. Without --dry_run, this goes to the {to.repo_type} {args.repo_id}.")
        elif args.space:
            weights = sorted(args.run.glob("model*.safetensors"))
            publish(staged, to, lambda: check_is_published(args.model, weights, args.token))
        else:
            publish(staged, to, lambda: check_that_it_loads(args.run, staged))


def _destination(args: argparse.Namespace) -> Destination:
    where = {"private": args.private, "revision": args.revision, "create_pr": args.create_pr, "token": args.token}
    if args.space:
        from ham_hf.hub import space

        return Destination(
            args.repo_id,
            "space",
            published=space.PUBLISHED,
            foreign=("app.py", "ham_hf/inference/demo.py"),
            message=f"The page of ham-hf demo {__version__} for {args.model}",
            **where,
        )
    return Destination(
        args.repo_id,
        "model",
        published=(*PUBLISHED, *PATIENT_DATA, EVAL_RESULTS, CHECKSUMS),
        foreign=("config.json", "run.json"),
        message=f"Publish a run of ham_hf {__version__}",
        **where,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="push_to_hub.py",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        epilog="--debug shows tracebacks.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder of `ham-hf train`")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made where it is not there yet")
    parser.add_argument("--private", action="store_true", help="make the new repository private")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, and send nothing")
    parser.add_argument(
        "--create_pr", action="store_true", help="propose it as a pull request, in a repository that is there"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="a branch that is there; main when left out")
    parser.add_argument("--token", help="of the Hub; HF_TOKEN or that of `hf auth login` when left out")
    parser.add_argument(
        "--with_patient_data", action="store_true", help="publish patients_*.csv (age, sex, body site) as well"
    )
    parser.add_argument(
        "--eval_results", action="store_true", help=f"publish the card's claims as {EVAL_RESULTS} as well"
    )
    parser.add_argument(
        "--space", action="store_true", help="publish a Space with the page of `ham-hf demo`, in place of a model"
    )
    parser.add_argument(
        "--model", metavar="MODEL_ID", help="with --space: the model on the Hub that RUN was pushed to"
    )
    return parser


# The files


def _check_space(args: argparse.Namespace) -> None:
    if args.space == (args.model is None):
        raise InputError("--space and --model go together: --model names the published model that the Space asks")
    if args.space and (args.with_patient_data or args.eval_results):
        raise InputError("--with_patient_data and --eval_results are for a model: leave them out with --space")
    if args.model is not None:
        check_repo_id(args.model, "--model")


def _stage_space(args: argparse.Namespace, folder: Path) -> None:
    from ham_hf.hub.space import stage_space
    from ham_hf.inference.classifier import is_trained_on_synthetic_images

    folder.mkdir()
    stage_space(folder, args.repo_id, args.model, synthetic=is_trained_on_synthetic_images(str(args.run)))


def _check_run(run: Path) -> None:
    from ham_hf.inference.classifier import find_classifier
    from ham_hf.models.safe_loading import check_recorded

    if not run.is_dir():
        raise InputError(f"{run} is no folder: expected a run folder of `ham-hf train`")
    find_classifier(str(run))
    if not (run / "run.json").is_file() or not list(run.glob("predictions_*.csv")):
        missing = "predictions_validation.csv" if (run / "run.json").is_file() else "run.json"
        raise InputError(f"{run} has no {missing}: expected the run folder of a finished `ham-hf train`")
    for name, what in (("report.json", "report.json"), ("README.md", "card (README.md)")):
        if not (run / name).is_file():
            raise InputError(f"{run} has no {what}: `ham-hf report {run}` writes it")
    check_recorded(str(run), run)


def stage(run: Path, folder: Path, *, repo_id: str, with_patient_data: bool = False) -> list[str]:
    """Copy what is published of `run` into the new `folder`; returns what a user should know about the copies.

    Paths of this machine are replaced by their last part, and tokens of the Hub by <HUB_TOKEN>; the card's commands
    name the repository. SHA256SUMS lists the hash of every file.
    """
    from ham_hf.inference.classifier import is_trained_on_synthetic_images
    from ham_hf.reporting.model_card import REPO_ID

    report = (run / "report.md").read_text(encoding="utf-8") if (run / "report.md").is_file() else ""
    for pattern in PUBLISHED + (PATIENT_DATA if with_patient_data else ()):
        for path in sorted(run.glob(pattern)):
            if path.suffix == ".png" and f"plots/{path.name})" not in report:
                continue  # not drawn by the report: it may be a photograph
            if path.suffix != ".safetensors" and not path.resolve().is_relative_to(run.resolve()):
                raise InputError(f"{path} is a link out of the run folder, to {path.resolve()}: put the file there")
            copy = folder / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    record_notes = _publish_record(folder / RECORD)
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace(REPO_ID, repo_id), encoding="utf-8")
    notes = record_notes + _hide_paths(folder)
    if is_trained_on_synthetic_images(str(run)):
        notes.append("this model was trained on synthetic images: it has never seen a lesion")
    write_checksums(folder)
    return notes


def _publish_record(path: Path) -> list[str]:
    """Take the images that are not HAM10000's out of the copied record; returns what a user should know about it.

    A hash tells whoever has a copy of a photograph that it was used, so that those of a clinic's stay here.
    """
    from ham_hf.evaluation.training_record import public_record, read_record, render_record

    if not path.is_file():
        return []
    record = read_record(path)
    public = public_record(record)
    if len(public.images) == len(record.images):
        return []
    if public.images:
        path.write_text(render_record(public), encoding="utf-8")
    else:
        path.unlink()
    return [
        f"{RECORD}: {len(public.images):,} of {len(record.images):,} images are HAM10000's and are published; the "
        "hashes of the others stay in the run folder"
    ]


def _add_eval_results(staged: Path) -> None:
    """The claims as the Hub's leaderboards read them: a beta, and shown for the datasets that the Hub lists."""
    from ham_hf.reporting.eval_results import render_eval_results

    path = staged / EVAL_RESULTS
    path.parent.mkdir()
    report = json.loads((staged / "report.json").read_text(encoding="utf-8"))
    path.write_text(render_eval_results(report), encoding="utf-8")
    write_checksums(staged)


def _hide_paths(folder: Path) -> list[str]:
    """Take this machine's paths and tokens out of the texts in `folder`; returns what was replaced, and where."""
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in TEXTS if (folder / name).is_file()}
    replacements = [(TOKEN, "<HUB_TOKEN>", "a token of the Hub → <HUB_TOKEN>")]
    for path in sorted(_paths_of_this_machine(texts), key=len, reverse=True):
        name = re.split(r"[/\\]", path)[-1]
        # As it is, as JSON has it beyond ASCII, as the report's command line has an apostrophe, and both as HTML
        spellings = {path, json.dumps(path)[1:-1], path.replace("'", "'\"'\"'")}
        for spelt in spellings | {str(escape(spelt)) for spelt in spellings}:
            start, end = map(_loose, re.fullmatch(r"(.*[/\\])(.+)", spelt).groups())
            replacements.append((rf"{BEFORE_A_PATH}{start}({end})(?![\w-]|\.\w)", r"\1", f"{path} → {name}"))
    if len(Path.home().parts) > 1:
        replacements.append((rf"{BEFORE_A_PATH}{_loose(str(Path.home()))}(?=\\?[/\\])", "~", f"{Path.home()} → ~"))
    notes = {}
    for name, text in texts.items():
        for pattern, replacement, note in replacements:
            text, count = re.subn(pattern, replacement, text)
            if count:
                notes.setdefault(note, []).append(name)
        if text != texts[name]:
            (folder / name).write_text(text, encoding="utf-8")
    return [f"replaced in the published copies: {note} ({', '.join(names)})" for note, names in notes.items()]


def _paths_of_this_machine(texts: dict[str, str]) -> set[str]:
    """The absolute paths among the values of run.json, arguments.json and recipe.yaml, also as --flag=/path."""
    from ham_hf.system.serialization import parse_yaml

    found = set()
    for name in {"run.json", "arguments.json", "recipe.yaml"} & texts.keys():
        try:
            values = parse_yaml(texts[name], name) if name == "recipe.yaml" else json.loads(texts[name])
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{name} is not readable: {error}; put back the file that `ham-hf train` wrote"
            ) from error
        for value in _strings(values):
            path = re.sub(r"^--\w+=", "", value).rstrip("/\\")
            if path.startswith(("/", "~/")) or PureWindowsPath(path).is_absolute():
                found.add(path)
    return found


def _strings(value) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)


def _loose(text: str) -> str:
    r"""A pattern for `text` as JSON and Markdown spell it: with a backslash before any character, or without."""
    return "".join(rf"\\?{re.escape(character)}" for character in text)


# Does it load?


def check_that_it_loads(run: Path, staged: Path) -> None:
    """Load the staged files as a user of the Hub does, and compare with ours on one synthetic image.

    Raises:
        InputError: they do not load, or give other probabilities than the run's model.
    """
    import numpy as np

    from ham_hf.data.sources.synthetic import LOOKS, draw_image
    from ham_hf.hub.verify.pipeline_check import check_pipeline
    from ham_hf.inference.classifier import load_classifier
    from ham_hf.models import safe_loading

    print("checking that the files load as their users will load them …")
    photo = draw_image(LOOKS["nv"], np.random.default_rng(0), np.random.default_rng(1))
    model, processor = load_classifier(str(run))
    labels = safe_loading.read_config(str(run), str(run)).id2label  # of our own classes too, which are known by now
    try:
        check_pipeline(staged, model, processor, labels, [photo], own_process=True)
    except InputError as error:
        raise InputError(f"the files to publish are not what {run} is: {error}. Nothing was sent") from error


if __name__ == "__main__":
    raise SystemExit(run_command(main))
