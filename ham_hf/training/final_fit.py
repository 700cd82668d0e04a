"""Train a chosen recipe again on the training and validation images together, without choosing anything.

ham-hf train runs/chosen/recipe.yaml --final_fit runs/chosen --data_dir path/to/HAM10000 --output_dir runs/final
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from ham_hf.config.recipe import Recipe
from ham_hf.evaluation.calibration import Calibration
from ham_hf.inference.classifier import THRESHOLD
from ham_hf.inference.run_record import check_facts
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json
from ham_hf.training.resume import OPTIMIZATION

# Of TrainingArguments; the seed may differ
_SAME = (*OPTIMIZATION, "num_train_epochs", "gradient_accumulation_steps")


class Choice(NamedTuple):
    """The epochs, calibration and threshold that a finished run chose on its validation images.

    `facts` are those of the final fit about it: the run's name and seed, the epochs after which its checkpoint was
    chosen, and the metric and value that it was chosen by (None for the last checkpoint). `data` are those of the run
    in `folder` about its images.
    """

    folder: Path
    data: dict[str, Any]
    facts: dict[str, Any]
    calibration: Calibration | None
    threshold: float | None


def read_choice(recipe: Recipe) -> Choice:
    """Return what the run chose that `final_fit` names.

    Raises:
        InputError: the run is not finished, is a final fit itself, or was trained by another recipe.
    """
    assert recipe.training.final_fit is not None
    folder = Path(recipe.training.final_fit).expanduser()
    run = read_json(folder / "run.json")
    check_facts(run, folder / "run.json")
    training, model = run["training"], run["model"]
    if training is None or training.get("final_fit"):
        what = "was only evaluated" if training is None else "is a final fit itself"
        raise InputError(f"final_fit is {folder}, which {what}: expected the run that chose the recipe on validation")
    _check_recipe(recipe, read_json(folder / "arguments.json"), training["processes"], folder)
    best, fitted = training["best_step"], model.get("calibration")
    return Choice(
        folder,
        run["data"],
        facts={
            "run": folder.resolve().name,
            "seed": run["seed"],
            "epochs": training["epochs"] if best is None else training["epochs"] * best / training["steps"],
            "metric": training["best_metric"],
            "value": training["best_value"],
        },
        calibration=Calibration(**fitted) if fitted else None,
        threshold=model.get(THRESHOLD),
    )


def _check_recipe(recipe: Recipe, before: dict, processes: int, folder: Path) -> None:
    """Check that the run was trained with the settings of this recipe."""
    args = recipe.training
    parts = (recipe.image, recipe.model, recipe.loss)
    now = {name: value for part in parts for name, value in asdict(part).items()}
    written = args.to_sanitized_dict()
    now |= {name: written[name] for name in _SAME} | {"classes": recipe.data.classes}
    del now["soft_labels"]  # another file, for the validation images as well
    changed = [
        f"{name} is {before[name]!r} there and {value!r} here"
        for name, value in json.loads(json.dumps(now)).items()
        if name in before and before[name] != value  # a newer version may know more names
    ]
    batches = before["per_device_train_batch_size"] * processes, args.per_device_train_batch_size * args.world_size
    if (recipe.loss.soft_labels is None) != (before.get("soft_labels") is None):
        changed.append("soft_labels is set in only one of them")
    if batches[0] != batches[1]:
        changed.append(f"the batch of all processes has {batches[0]} images there and {batches[1]} here")
    if changed:
        raise InputError(
            f"final_fit is {folder}, which was trained with another recipe: {'; '.join(changed)}. Expected the same: "
            f"use {folder / 'recipe.yaml'} and the options of its run"
        )


def check_images(choice: Choice, data: dict) -> None:
    """Check that the run was trained on the images of the final fit, and has never seen its test images.

    `data` are the facts of `load_checked` about the images of the final fit.

    Raises:
        InputError: it was trained on other images, or has other test images.
    """
    folder, chosen = choice.folder, choice.data
    if chosen["images_sha256"] != data["images_sha256"]:
        raise InputError(f"final_fit is {folder}, which was trained on other images: expected the same --data_dir")
    tests = [of["splits"]["test"]["sha256"] for of in (chosen, data)]
    if data["split"] != "all" and tests[0] != tests[1]:
        raise InputError(
            f"final_fit is {folder}, whose split is {chosen['split']}, with other test images than this one "
            f"({data['split']}): expected the same --split, or all to train on every image"
        )


class StopAfter(TrainerCallback):
    """Stop after a number of epochs, which may be a fraction, while the rate follows the recipe's schedule."""

    def __init__(self, epochs: float):
        self._epochs = epochs

    def on_train_begin(self, args, state, control, **kwargs):
        self._stop(state, control)  # a resumed run may have ended

    def on_step_end(self, args, state, control, **kwargs):
        self._stop(state, control)

    def _stop(self, state, control) -> None:
        step = state.num_train_epochs / state.max_steps  # in epochs
        if (state.epoch or 0) > self._epochs - step / 2:  # both are quotients, and so not exact
            control.should_training_stop = True
