"""Write the folder of a cross-validation of training lesions, with records and predictions but without models."""

from pathlib import Path

import numpy as np

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.source import read_source
from ham_hf.evaluation.predictions import Predictions, read_predictions, write_predictions
from ham_hf.evaluation.training_record import FILE, TrainingImage, TrainingRecord, images_of, read_record, write_record
from tests.helpers.fake_runs import change_facts, make_run
from tests.helpers.small_data import write_split

FOLDS = 2


def make_teachers(folder: Path, data: Path, classes: str = "diagnoses", split: str = "grouped", **changes) -> Path:
    """Write two folds of the training lesions of `data`; return the path of their pooled predictions."""
    folder.mkdir(parents=True)
    args = DataArguments(str(data), split=split, classes=classes, **changes)
    splits, _, _ = load_checked(args)
    lesions = sorted(set(splits["train"]["lesion_id"][:]))
    ids = zip(splits["train"]["image_id"][:], splits["train"]["lesion_id"][:], strict=True)
    fold_of = {image_id: 1 + lesions.index(lesion) % FOLDS for image_id, lesion in ids}
    unused = dict.fromkeys(read_source(args).table["image_id"], "unused")
    write_split(folder / "split.csv", unused | dict.fromkeys(fold_of, "train"))
    for fold in range(1, FOLDS + 1):
        roles = {image_id: "validation" if of == fold else "train" for image_id, of in fold_of.items()}
        path = write_split(folder / f"split_{fold}.csv", unused | roles)
        _write_fold(folder / f"fold_{fold}", *load_checked(DataArguments(str(data), split=path, classes=classes)))
    pool(folder)
    return folder / "predictions_train.csv"


def _write_fold(run: Path, splits, facts, checks) -> None:
    names = tuple(splits["train"].features["label"].names)
    make_run(run, names=names)
    change_facts(run, data=facts)
    own = splits["validation"]
    probabilities = np.random.default_rng(len(run.name)).dirichlet(np.ones(len(names)), len(own))
    labels = np.array(own["label"][:])
    predictions = Predictions(own["image_id"][:], own["lesion_id"][:], labels, probabilities, names)
    write_predictions(run / "predictions_validation.csv", predictions)
    write_record(run, TrainingRecord(images_of(splits["train"], checks, "train"), complete=True))


def pool(folder: Path) -> None:
    """Write the predictions of all folds into one file."""
    parts = [read_predictions(folder / f"fold_{fold}" / "predictions_validation.csv") for fold in range(1, FOLDS + 1)]
    ids, lesions, labels, probabilities, names = zip(*parts, strict=True)
    pooled = Predictions(
        sum(ids, []), sum(lesions, []), np.concatenate(labels), np.concatenate(probabilities), names[0]
    )
    write_predictions(folder / "predictions_train.csv", pooled)


def add_seen(run: Path, *images: TrainingImage, complete: bool = True) -> None:
    """Add images to the record of a fold."""
    write_record(run, TrainingRecord(sorted([*read_record(run / FILE).images, *images]), complete))


def fold_of(path: Path, image_id: str) -> Path:
    """Return the folder of the fold that predicted an image."""
    runs = sorted(path.parent.glob("fold_*"))
    return next(run for run in runs if image_id in read_predictions(run / "predictions_validation.csv").image_ids)
