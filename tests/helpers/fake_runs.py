"""Write run folders as training leaves them, without a model and without training."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ham_hf.evaluation.patients import Patients, write_patients
from ham_hf.evaluation.predictions import Predictions, read_predictions, write_predictions
from ham_hf.labels import LABELS

PREVALENCE = np.array([327, 514, 1099, 115, 1113, 6705, 142]) / 10015


def same_lesion(name: str, validation: tuple[str, ...] = ()) -> dict:
    """Facts about a list of duplicates that was given; `validation` are images whose lesion is in training."""
    images = {"validation": list(validation), "test": []}
    return {"list": name, "pairs": 3, "merged": True, "dropped": False, "dropped_images": 0, "images": images}


def make_run(folder: Path, images=(150, 130), names=LABELS, synthetic=False) -> Path:
    """A run folder as training leaves it, without the model; `images` of validation and test."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    splits = {"train": {"images": 500, "lesions": 400, "absent_images": 0, "classes": dict.fromkeys(names, 50)}}
    splits["train"]["sha256"] = "01" * 32
    for split, count in zip(("validation", "test"), images, strict=True):
        labels = rng.choice(len(names), count, p=PREVALENCE if len(names) == 7 else None)
        splits[split] = {
            "images": count,
            "lesions": count * 3 // 4,
            "absent_images": 0 if count else 2001,
            "classes": {name: int((labels == index).sum()) for index, name in enumerate(names)},
            "sha256": hashlib.sha256(split.encode()).hexdigest(),
        }
        if not count:
            continue
        powers = np.exp(1.5 * rng.normal(size=(count, len(names))) + 2.5 * np.eye(len(names))[labels])
        image_ids = [f"ISIC_{split}{number:05d}" for number in range(count)]
        lesion_ids = [f"HAM_{split}{number * 3 // 4:05d}" for number in range(count)]
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        predictions = Predictions(image_ids, lesion_ids, labels, probabilities, names)
        write_predictions(folder / f"predictions_{split}.csv", predictions)
    history = []
    for step in range(10, 101, 10):
        history.append(
            {"loss": 2 / step**0.3, "learning_rate": 1e-3 * (1 - step / 100), "step": step, "epoch": step / 50}
        )
    history += [{"eval_loss": 0.9, "step": 50, "epoch": 1}, {"eval_loss": 0.7, "step": 100, "epoch": 2}]
    history.append({"train_runtime": 60.0, "train_loss": 0.8, "step": 100, "epoch": 2})
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    near = {"method": "perceptual hash", "pairs_across_splits": 1}
    near["pairs"] = [["ISIC_1", "train", "ISIC_2", "test", 2]]
    facts = {
        "recipe": "recipes/x.yaml",
        "argv": ["recipes/x.yaml", "--data_dir", "my images"],
        "seed": 42,
        "versions": {"python": "3.11", "ham_hf": "0.1.0"},
        "hardware": {"processor": "two cores"},
        "data": {
            "source": "my images",
            "kind": "folder",
            "synthetic": synthetic,
            "split": "study",
            "split_seed": None,
            "split_sha256": "ab" * 32,
            "images_sha256": "cd" * 32,
            "splits": splits,
            "audit": {"lesions_in_two_splits": 0, "identical_images": 0, "near_duplicates": near},
        },
        "model": {
            "name": "pypi:efficientnet-lite0",
            "revision": None,
            "architecture": "TimmWrapperForImageClassification",
            "parameters": 3_380_000,
            "trainable_parameters": 3_380_000,
            "labels": list(names),
            "image_size": 224,
        },
        "training": {
            "images": 500,
            "learning_rate": 1e-3,
            "best_metric": "balanced_accuracy",
            "best_value": 0.741,
            "best_step": 50,
            "epochs": 2.0,
            "steps": 100,
            "processes": 1,
            "precision": "bf16",
            "channels_last": True,
            "seconds": 83.2,
        },
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def change_json(path: Path, **changes) -> None:
    """Set entries of a JSON file, named with __ for the dot."""
    values = json.loads(path.read_text())
    for name, value in changes.items():
        *way, last = name.split("__")
        entry = values
        for key in way:
            entry = entry[key]
        entry[last] = value
    path.write_text(json.dumps(values))


def change_facts(run: Path, **changes) -> None:
    """Set entries of run.json, named with __ for the dot."""
    change_json(run / "run.json", **changes)


def replace(old, new, count=1):
    return lambda text: text.replace(old, new, count)


def cell(row, column, value):
    def edit(text):
        lines = [line.split(",") for line in text.splitlines()]
        lines[row - 1][column] = value
        return "\n".join(map(",".join, lines))

    return edit


def blurred(probabilities, seed, noise=1.0):
    """The probabilities with noise on their logarithms: another, worse model of the same images."""
    powers = probabilities * np.exp(noise * np.random.default_rng(seed).normal(size=probabilities.shape))
    return powers / powers.sum(axis=1, keepdims=True)


def make_other_run(folder: Path, seed: int, noise=1.0, **changes) -> Path:
    """A run on the same images as `make_run`'s, with other predictions."""
    run = make_run(folder, **changes)
    for path in run.glob("predictions_*.csv"):
        predictions = read_predictions(path)
        write_predictions(path, predictions._replace(probabilities=blurred(predictions.probabilities, seed, noise)))
    return run


def some_predictions(images=300, names=LABELS, ties=False, seed=0):
    """Probabilities (N, C), labels (N,), lesion ids: better than chance; with `ties`, all multiples of a tenth."""
    rng = np.random.default_rng(seed)
    prevalence = PREVALENCE if len(names) == 7 else np.full(len(names), 1 / len(names))
    labels = rng.choice(len(names), images, p=prevalence)
    logits = rng.normal(size=(images, len(names))) + 1.5 * np.eye(len(names))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if ties:
        probabilities = np.array([rng.multinomial(10, row) for row in probabilities]) / 10
    lesions = [f"HAM_{number:07d}" for number in rng.integers(0, images * 3 // 4, images)]
    return probabilities, labels, lesions


def add_patients(run, split="validation", age=None):
    """Patients in turn female and male, all of the back, for the predictions in `run`."""
    ids = read_predictions(run / f"predictions_{split}.csv").image_ids
    sexes = [("female", "male")[number % 2] for number in range(len(ids))]
    others = [[value] * len(ids) for value in ("back", "histo")]
    write_patients(run / f"patients_{split}.csv", ids, Patients([age] * len(ids), sexes, *others))
