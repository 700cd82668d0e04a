"""Publish a run folder as a model repository: the files on a list, redacted, and loaded as users will load them."""

import json
import shutil
import tempfile
from pathlib import Path

from ham_hf import __version__
from ham_hf.hub.published_files import (
    CHECKSUMS,
    EVAL_RESULTS,
    FORMERLY_PUBLISHED,
    PATIENT_DATA,
    PICTURES,
    PUBLISHED,
    RECORD,
    write_checksums,
)
from ham_hf.hub.redaction import redact
from ham_hf.hub.upload import Repository, Target, check_repo_id, listing, publish
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json

MODEL = Repository(
    "model",
    published=(*PUBLISHED, *FORMERLY_PUBLISHED, *PATIENT_DATA, EVAL_RESULTS, CHECKSUMS),
    foreign=("config.json", "run.json"),
    message=f"Publish a run of ham_hf {__version__}",
)


def push_model(
    run: Path,
    target: Target,
    *,
    with_patient_data: bool = False,
    eval_results: bool = False,
    dry_run: bool = False,
) -> None:
    """Publish a run as a model.

    Args:
        run: a run folder of `ham-hf train`.
        target: the repository.
        with_patient_data: also publish age, sex and body site of the patients.
        eval_results: also publish the metrics of the card in the format of the Hub's leaderboards.
        dry_run: print the files and the card, and upload nothing.

    Raises:
        InputError: the run folder, the Hub or the rights on it do not allow it; no commit was made.
    """
    check_repo_id(target.repo_id)
    check_run(run)
    with tempfile.TemporaryDirectory(prefix="ham_hf-push-") as temporary:
        staged = Path(temporary) / "staged"
        for note in stage(run, staged, repo_id=target.repo_id, with_patient_data=with_patient_data):
            print(note)
        if eval_results:
            add_eval_results(staged)
        if dry_run:
            print(listing(staged))
            print(f"Dry run: nothing was uploaded. Without --dry_run, this goes to the model {target.repo_id}.")
        else:
            publish(staged, MODEL, target, lambda: check_that_it_loads(run, staged))


def check_run(run: Path) -> None:
    """Raise InputError if `run` is not the folder of a finished run with its report, or does not match its record."""
    from ham_hf.inference.load import find_classifier
    from ham_hf.inference.run_files import training_data_of
    from ham_hf.models.safe_loading import check_recorded

    if not run.is_dir():
        raise InputError(f"{run} is not a folder: expected a run folder of `ham-hf train`")
    find_classifier(str(run))
    trained = training_data_of(str(run))
    predicted = list(run.glob("predictions_*.csv"))
    if trained is None or not (predicted or trained.get("train_on_validation")):
        missing = "run.json" if trained is None else "predictions_validation.csv"
        raise InputError(f"{run} has no {missing}: expected the run folder of a finished `ham-hf train`")
    for name, what in (("report.json", "report.json"), ("README.md", "card (README.md)")):
        if not (run / name).is_file():
            raise InputError(f"{run} has no {what}: `ham-hf report {run}` writes it")
    check_recorded(str(run), run)


def stage(run: Path, folder: Path, *, repo_id: str, with_patient_data: bool = False) -> list[str]:
    """Copy what is published of `run` into the new `folder`, and return notes for the user about the copies.

    Paths of this machine are reduced to their last part, Hub tokens are replaced by <HUB_TOKEN>, and the commands of
    the card name the repository. SHA256SUMS lists the hash of every file.

    Raises:
        InputError: a file is a link out of the run folder, or is not readable.
    """
    from ham_hf.inference.run_files import is_trained_on_synthetic_images
    from ham_hf.reporting.model_card import REPO_ID

    pictures = _pictures_of_report(run)
    for pattern in PUBLISHED + (PATIENT_DATA if with_patient_data else ()):
        for path in sorted(run.glob(pattern)):
            if pattern == PICTURES and path not in pictures:
                continue
            if path.suffix != ".safetensors" and not path.resolve().is_relative_to(run.resolve()):
                raise InputError(
                    f"{path} is a link to {path.resolve()}, outside the run folder: replace it by the file"
                )
            copy = folder / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    notes = _publish_record(folder / RECORD)
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace(REPO_ID, repo_id), encoding="utf-8")
    notes += redact(folder)
    if is_trained_on_synthetic_images(str(run)):
        notes.append("this model was trained on synthetic images: it has never seen a lesion")
    write_checksums(folder)
    return notes


def _pictures_of_report(run: Path) -> set[Path]:
    """Return the paths of the pictures that the report draws; any other picture may be a photograph."""
    from ham_hf.reporting.plots import picture_names

    if not (run / "report.json").is_file():
        return set()
    return {run / PICTURES.replace("*.png", name) for name in picture_names(read_json(run / "report.json"))}


def _publish_record(path: Path) -> list[str]:
    """Remove the images that are not HAM10000's from the copied record, and return notes for the user about it.

    A hash tells anyone who has a copy of a photograph that it was used, so those of a clinic's images stay here.
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
        f"{RECORD}: {len(public.images):,} of {len(record.images):,} images are from HAM10000 and are published; the "
        "hashes of the others stay in the run folder"
    ]


def add_eval_results(staged: Path) -> None:
    """Add the metrics of the card in the format of the Hub's leaderboards."""
    from ham_hf.reporting.eval_results import render_eval_results

    path = staged / EVAL_RESULTS
    path.parent.mkdir()
    report = json.loads((staged / "report.json").read_text(encoding="utf-8"))
    path.write_text(render_eval_results(report), encoding="utf-8")
    write_checksums(staged)


def check_that_it_loads(run: Path, staged: Path) -> None:
    """Load the staged files as a user of the Hub does, and compare their predictions with the run's model.

    Raises:
        InputError: they do not load, or give other probabilities.
    """
    import numpy as np

    from ham_hf.data.sources.synthetic import LOOKS, draw_image
    from ham_hf.hub.verify.pipeline_check import check_pipeline
    from ham_hf.inference.load import load_classifier
    from ham_hf.models import safe_loading

    print("checking that the files load as users will load them …")
    photo = draw_image(LOOKS["nv"], np.random.default_rng(0), np.random.default_rng(1))
    classifier = load_classifier(str(run))
    labels = safe_loading.read_config(str(run), str(run)).id2label  # loading has imported the model classes of ham_hf
    try:
        check_pipeline(staged, classifier, labels, [photo], own_process=True)
    except InputError as error:
        raise InputError(f"the files to publish do not match {run}: {error}. Nothing was uploaded") from error
