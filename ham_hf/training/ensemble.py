"""Build one model from several: the mean of their probabilities, calibrated last.

ham-hf ensemble runs/a runs/b runs/c --data_dir path/to/HAM10000 --output_dir runs/ensemble
ham-hf ensemble recipes/a.yaml recipes/b.yaml --data_dir path/to/HAM10000 --output_dir runs/ensemble
ham-hf ensemble runs/a-cross-validation --data_dir path/to/HAM10000 --output_dir runs/folds
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import DatasetDict
from transformers import PreTrainedModel

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.evaluation.calibration import calibrate
from ham_hf.evaluation.contamination import check_members
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.model_facts import evaluation_facts
from ham_hf.evaluation.predict_splits import predict_splits
from ham_hf.evaluation.predictions import Predictions, check_rows, in_order_of, read_predictions
from ham_hf.evaluation.training_record import TrainingRecord, images_of, join_records, write_record
from ham_hf.inference.classifier import Classifier, labels_of
from ham_hf.inference.load import load_classifier
from ham_hf.inference.run_record import check_facts
from ham_hf.inference.tta import set_test_time_augmentation, which_views
from ham_hf.labels import classes_of
from ham_hf.models.ensemble import EnsembleConfig, EnsembleForImageClassification
from ham_hf.reporting.report import write_report
from ham_hf.system.environment import weights_sha256
from ham_hf.system.errors import InputError
from ham_hf.system.files import apply_umask, new_folder, replace_file
from ham_hf.system.serialization import read_json
from ham_hf.training.checkpointing import only_writer
from ham_hf.training.child_run import train_in_child
from ham_hf.training.members import CROSS_VALIDATION_SPLIT, check_ensemble_members, is_cross_validation

logger = logging.getLogger("ham_hf.training.ensemble")

MOST_PICKS = 20  # by the greedy selection, which may pick a member more than once


class Member(NamedTuple):
    """A trained model, its predictions on validation, and its run.json."""

    folder: Path
    classifier: Classifier
    validation: Predictions
    facts: dict


def build_ensemble(
    runs: Sequence[Path],
    data: DataArguments,
    folder: Path,
    *,
    greedy: str | None = None,
    calibration: bool = True,
    argv: list[str],
) -> dict:
    """Join the models of `runs` into one in the new `folder`, evaluate it on `data` and write its report and card.

    Args:
        runs: run folders of `ham-hf train`, of image models with the same processor; or one folder of
            `ham-hf cross-validate`, for its folds.
        data: its validation images calibrate the ensemble, and its validation and test images evaluate it. Folds have
            seen all but the test images, so their ensemble is evaluated on these only, and not calibrated; unless the
            folds are of the training lesions only.
        folder: loads like any model folder.
        greedy: a metric of `compute_scores` that chooses the members and their weights on validation (Caruana et al.,
            2004, https://doi.org/10.1145/1015330.1015432); None: equal weights.
        calibration: fit a temperature on validation.
        argv: the command line, for the report.

    Returns:
        The content of report.json.

    Raises:
        InputError: the folder is not empty, or the runs or the data do not fit together.
    """
    with new_folder(folder) as unfinished:  # at once, so that another process is refused before any work
        return _build_into(unfinished, runs, data, greedy, calibration, argv)


def _build_into(
    unfinished: Path, runs: Sequence[Path], data: DataArguments, greedy: str | None, calibration: bool, argv: list[str]
) -> dict:
    cross_validation = runs[0] if len(runs) == 1 and is_cross_validation(runs[0]) else None
    if cross_validation is not None:
        data.split = str(cross_validation / CROSS_VALIDATION_SPLIT)
        runs = sorted(cross_validation.glob("fold_*"))
    members = _read(runs, same_images=cross_validation is None)
    data.classes = classes_of(members[0].classifier.labels)
    splits, facts, checks = load_checked(data)
    if cross_validation is None:
        _check_data(members, facts)
    else:
        _check_folds(cross_validation, splits, greedy)
        calibration = calibration and len(splits["validation"]) > 0  # none that all folds have not seen
    weights = _weights(members, greedy)
    chosen = [(member, weight) for member, weight in zip(members, weights, strict=True) if weight]
    for member, weight in chosen:
        logger.info("%s: weight %.2f", member.folder, weight)
    record = check_members([member.folder for member, _ in chosen], splits, facts, checks)
    model = join([member.classifier.model for member, _ in chosen], [weight for _, weight in chosen])
    processor = chosen[0][0].classifier.processor
    if calibration or greedy is not None:
        record = join_records([record, TrainingRecord(images_of(splits["validation"], checks, "validation"), True)])
    if calibration:
        calibrate(Classifier(model, processor), splits["validation"], None, "accuracy")
    model.save_pretrained(unfinished)
    apply_umask(unfinished)
    processor.save_pretrained(unfinished)
    if cross_validation is not None:  # required by `ham-hf verify`
        shutil.copyfile(cross_validation / CROSS_VALIDATION_SPLIT, unfinished / CROSS_VALIDATION_SPLIT)
    joined = load_classifier(str(unfinished))
    predict_splits(unfinished, joined, splits)
    write_record(unfinished, record)
    run = evaluation_facts("ensemble", None, joined, facts, argv)
    run["model"] |= {
        "members": [_member_facts(*of) for of in chosen],
        "selected_by": greedy,
        "weights_sha256": weights_sha256(unfinished),
    }
    replace_file(unfinished / "run.json", json.dumps(run, indent=2) + "\n")
    return write_report(unfinished)


def _member_facts(member: Member, weight: float) -> dict:
    model = member.facts["model"]
    return {"run": member.folder.name, "weight": weight, "base": model["name"], "base_revision": model["revision"]}


def train_members(members: Sequence[Path], folder: Path, flags: Sequence[str]) -> list[Path]:
    """Train the recipes among `members` in child processes, unless that is done, and return all run folders.

    They go into a folder beside the ensemble's `folder`, with -members added to its name.

    Raises:
        InputError: a run fails, or a run folder belongs to another recipe.
        MachineError: another process trains them.
    """
    recipes = [member for member in members if member.suffix == ".yaml"]
    if not recipes:
        return list(members)
    trained = folder.with_name(f"{folder.name}-members")
    runs = {recipe: trained / recipe.stem for recipe in recipes}
    with only_writer(trained):
        for recipe, run in runs.items():
            train_in_child(run, recipe, [str(recipe), "--output_dir", str(run), "--resume", *flags])
    return [runs.get(member, member) for member in members]


def join(models: Sequence[PreTrainedModel], weights: Sequence[float]) -> EnsembleForImageClassification:
    """Return one model made of several with the same labels and views, in evaluation mode."""
    labels = labels_of(models[0])
    config = EnsembleConfig(
        members=[model.config.to_dict() for model in models],
        weights=[float(weight) for weight in weights],
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    joined = EnsembleForImageClassification(config)
    for ours, model in zip(joined.members, models, strict=True):
        ours.load_state_dict(model.state_dict())
    set_test_time_augmentation(joined, which_views(models[0]))
    return joined.to(models[0].device, memory_format=torch.channels_last).eval()


def select_greedily(
    probabilities: Sequence[np.ndarray], labels: np.ndarray, names: Sequence[str], metric: str
) -> list[float]:
    """Return the weights of the members: pick the best one, then repeatedly whichever improves the mean most.

    Args:
        probabilities: (N, C) of each member.
        labels: (N,).
        names: of the C classes.
        metric: of `compute_scores`; the selection stops when no pick improves it.
    """
    picks: list[int] = []
    best = -np.inf
    while len(picks) < MOST_PICKS:
        so_far = sum((probabilities[pick] for pick in picks), np.zeros_like(probabilities[0]))
        scores = [
            compute_scores((so_far + of_member) / (len(picks) + 1), labels, names)[metric]
            for of_member in probabilities
        ]
        if max(scores) <= best:
            break
        best = max(scores)
        picks.append(int(np.argmax(scores)))
    counts = Counter(picks)
    return [counts[number] / len(picks) for number in range(len(probabilities))]


def _weights(members: Sequence[Member], greedy: str | None) -> list[float]:
    if greedy is None:
        return [1 / len(members)] * len(members)
    first = members[0].validation
    return select_greedily([member.validation.probabilities for member in members], first.labels, first.names, greedy)


def _check_data(members: Sequence[Member], facts: dict) -> None:
    """Check that all were trained and chosen on these images: the test images might otherwise have been seen."""
    for member in members:
        for part in ("train", "validation"):
            if member.facts["data"]["splits"][part]["sha256"] != facts["splits"][part]["sha256"]:
                raise InputError(
                    f"{member.folder} has other {part} images: expected the --data_dir and --split of its run, which "
                    "must be the same for all members"
                )


def _check_folds(folder: Path, splits: DatasetDict, greedy: str | None) -> None:
    if greedy is not None:
        raise InputError("--greedy compares predictions for the same images, and each fold has its own: remove it")
    if not (folder / "cross_validation.json").is_file():
        raise InputError(f"{folder} is not finished: run the same `ham-hf cross-validate` again to resume")
    if not len(splits["validation"]) + len(splits["test"]):
        raise InputError(
            f"there are no test images, and the folds of {folder} have seen all others, so their ensemble cannot be "
            f"evaluated; {folder / 'cross_validation.md'} evaluates the folds"
        )


def _read(runs: Sequence[Path], same_images: bool) -> list[Member]:
    check_ensemble_members(runs)
    members = []
    for run in runs:
        classifier = load_classifier(str(run))
        if classifier.reads_patients:
            raise InputError(f"{run} also reads the patient: an ensemble supports only image models")
        predictions = read_predictions(run / "predictions_validation.csv", classifier.labels)
        facts = read_json(run / "run.json")
        check_facts(facts, run / "run.json")
        check_rows(predictions, facts["data"], "validation", run / "predictions_validation.csv")
        members.append(Member(run, classifier, predictions, facts))
        _check_alike(members[0], members[-1])
    if not same_images:
        return members
    files = [run / "predictions_validation.csv" for run in runs]
    ordered = [
        in_order_of(members[0].validation, member.validation, files[0], file)
        for member, file in zip(members, files, strict=True)
    ]
    return [member._replace(validation=of_member) for member, of_member in zip(members, ordered, strict=True)]


def _check_alike(first: Member, member: Member) -> None:
    if member.classifier.labels != first.classifier.labels:
        raise InputError(f"{member.folder} has other classes than {first.folder}")
    views, of_first = which_views(member.classifier.model), which_views(first.classifier.model)
    if views != of_first:
        raise InputError(
            f"test_time_augmentation is {views!r} in {member.folder}, but {of_first!r} in {first.folder}: expected "
            "the same"
        )
    ours, theirs = (json.loads(of.classifier.processor.to_json_string()) for of in (first, member))
    if other := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise InputError(
            f"{member.folder} and {first.folder} prepare images differently ({', '.join(other)}): train all members "
            "with the same image_size, eval_resize and normalization"
        )
