"""What run.json and the Trainer's log must hold for a report: checked here, so that nothing after it stumbles."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from ham_hf.errors import InputError
from ham_hf.labels import label_set
from ham_hf.scoring import HEADLINE

_SPLITS = ("train", "validation", "test")
_SPLIT_FACTS = {"images": int, "lesions": int, "absent_images": int, "classes": dict, "sha256": str}
_NUMBER = int | float
# What the report reads of run.json; anything beside these is kept as it is
_FACTS = {
    "recipe": str | None,
    "argv": list,
    "seed": int | None,
    "versions": dict,
    "hardware": dict,
    "data.kind": str,
    "data.source": str,
    "data.synthetic": bool,
    "data.split": str,
    "data.split_seed": int | None,
    "data.split_sha256": str,
    "data.images_sha256": str,
    **{f"data.splits.{split}.{key}": kind for split in _SPLITS for key, kind in _SPLIT_FACTS.items()},
    "data.audit.near_duplicates.method": str,
    "data.audit.near_duplicates.pairs_across_splits": int,
    "data.audit.near_duplicates.pairs": list,
    "data.audit.near_duplicates.grouped": bool,
    "model.name": str,
    "model.revision": str | None,
    "model.architecture": str,
    "model.parameters": int,
    "model.trainable_parameters": int,
    "model.labels": list,
    "model.image_size": int,
}
_OF_TRAINING = {
    "training.images": int,
    "training.learning_rate": _NUMBER,
    "training.best_metric": str | None,
    "training.best_value": _NUMBER | None,
    "training.best_step": int | None,
    "training.epochs": _NUMBER,
    "training.steps": int,
    "training.processes": int,
    "training.precision": str,
    "training.channels_last": bool,
    "training.seconds": _NUMBER,
}
# Of some models alone
_OPTIONAL = {
    "model.fusion": str,
    "model.text_name": str | None,
    "model.text_revision": str | None,
    "model.color_constancy": bool,
    "model.test_time_augmentation": str,
    "model.melanoma_threshold": _NUMBER | None,
    "model.calibration": dict | None,
    "model.members": list,
    "model.selected_by": str | None,
}
_OF_CALIBRATION = {"temperature": _NUMBER, "prior_strength": _NUMBER, "images": int}
_OF_MEMBER = {"run": str, "weight": _NUMBER, "base": str, "base_revision": str | None}
_LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "eval_top_class_share", "eval_predicted_class_entropy")
_LARGEST = 1e15  # of a count, and of seconds


def check_facts(facts: Mapping, path: Path) -> None:
    """Raises InputError where run.json, read from `path`, lacks something or has something else in its place."""
    for name, kind in (_FACTS | (_OF_TRAINING if facts.get("training", ...) is not None else {})).items():
        _check(_at(facts, name, path), kind, name, path)
    for name, kind in _OPTIONAL.items():
        part, key = name.split(".")
        if key in facts[part]:
            _check(facts[part][key], kind, name, path)
    data, model = facts["data"], facts["model"]
    _require(
        tuple(data["splits"]) == _SPLITS, path, "data.splits", list(data["splits"]), "train, validation and test"
    )
    labels = model["labels"]
    known = all(isinstance(label, str) for label in labels) and label_set(labels)
    _require(known and tuple(labels) == known, path, "model.labels", labels, "the seven diagnoses, or nevus or other")
    for split in _SPLITS:
        for label, count in data["splits"][split]["classes"].items():
            _check(count, int, f"data.splits.{split}.classes.{label}", path)
    for name, count in data["audit"].items():
        if name != "near_duplicates":
            _check(count, int, f"data.audit.{name}", path)
    for pair in data["audit"]["near_duplicates"]["pairs"]:
        _require(isinstance(pair, list) and len(pair) == 5, path, "data.audit.near_duplicates.pairs", pair, "five each")
    threshold = model.get("melanoma_threshold")
    _require(threshold is None or 0 <= threshold <= 1, path, "model.melanoma_threshold", threshold, "0 to 1")
    selected_by = model.get("selected_by")
    _require(selected_by in (None, *HEADLINE), path, "model.selected_by", selected_by, "a metric")
    for key, kind in _OF_CALIBRATION.items() if model.get("calibration") else ():
        _check(_at(model["calibration"], key, path), kind, f"model.calibration.{key}", path)
    for member in model.get("members", []):
        for key, kind in _OF_MEMBER.items():
            _check(_at(member, key, path), kind, f"model.members.{key}", path)


def check_history(history: Any, path: Path) -> None:
    """Raises InputError where log_history of trainer_state.json, read from `path`, is not what the Trainer writes."""
    if not isinstance(history, list):
        raise InputError(f"{path} has no log_history: expected the file the Trainer writes")
    for entry in history:
        _require(isinstance(entry, dict), path, "log_history", entry, "a mapping for each time it logged")
        for key in _LOGGED:
            value = entry.get(key)
            is_number = isinstance(value, _NUMBER) and not isinstance(value, bool)
            fits = is_number and (not math.isfinite(value) or abs(value) < 1e100)
            _require(value is None or fits, path, f"log_history's {key}", value, "a number")
        if any(key in entry for key in _LOGGED[2:]):
            step, epoch = entry.get("step"), entry.get("epoch")
            _require(isinstance(step, int), path, "log_history's step", step, "a whole number")
            _require(isinstance(epoch, _NUMBER) and math.isfinite(epoch), path, "log_history's epoch", epoch, "a number")
        evaluated = "eval_top_class_share" in entry
        share, entropy = entry.get("eval_top_class_share"), entry.get("eval_predicted_class_entropy")
        _require(not evaluated or None not in (share, entropy), path, "log_history", entry, "both figures of a collapse")


def _at(value: Any, name: str, path: Path) -> Any:
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"{path} has no {name}: expected the file that `ham-hf train` writes")
        value = value[key]
    return value


def _check(value: Any, kind: type | UnionType, name: str, path: Path) -> None:
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if isinstance(value, _NUMBER) and name != "training.best_value":  # that is NaN where the training diverged
        fits = fits and -_LARGEST < value < _LARGEST  # false for NaN as well
    if not fits:
        shown = repr(value)[:80]
        raise InputError(f"{path}: {name} is {shown}: expected the file that `ham-hf train` writes")


def _require(fits: bool, path: Path, name: str, value: Any, expected: str) -> None:
    if not fits:
        raise InputError(
            f"{path}: {name} is {repr(value)[:80]}: expected {expected}, as in the file that a training writes"
        )
