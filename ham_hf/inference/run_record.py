"""Check that run.json and the Trainer's log have everything that a report needs."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any

from ham_hf.config.metric_names import HEADLINE
from ham_hf.config.train_size import read_train_size
from ham_hf.labels import label_set
from ham_hf.models.safe_loading import COLOR_CONSTANCY
from ham_hf.system.errors import InputError

_SPLITS = ("train", "validation", "test")
_SPLIT_FACTS = {"images": int, "lesions": int | None, "absent_images": int, "classes": dict, "sha256": str}
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
    "data.seen_before": int | None,
    "data.train_on_validation": bool,
    "data.dropped_rows": dict,
    "data.overlap": dict,
    "data.split_by_default": bool,
    "data.not_scored": dict,
    "data.same_lesion": dict,
    "data.local_features": dict | None,
    "data.training_copies": dict,
    "model.fusion": str,
    "model.text_name": str | None,
    "model.text_revision": str | None,
    "model.test_time_augmentation": str,
    "model.melanoma_threshold": _NUMBER | None,
    "model.calibration": dict | None,
    "model.members": list,
    "model.selected_by": str | None,
    "model.weights_sha256": dict,
    "training.do_predict": bool,
    "training.train_size": int | dict | None,
    "training.final_fit": dict | None,
    "training.hindrances": list,
    "training.soft_labels": dict,
}
# Written, and not read by the report; `data.audit` is a count of each kind of leak
_UNREAD: tuple[str, ...] = ("data.identical_images", "data.broken_images", "data.audit", "model.bf16_difference")
_UNREAD += ("model.patient_encoding", "model.color_constancy")
_OF_CALIBRATION: dict[str, type | UnionType] = {"temperature": _NUMBER, "prior_strength": _NUMBER, "images": int}
# Of each split, in newer runs
_HASHES_OF_SPLIT = ("pixels_sha256", "rows_sha256")
_OF_OVERLAP = ("images", "train", "validation", "siblings")
_OF_SAME_LESION: dict[str, type | UnionType] = {"list": str, "merged": bool, "dropped": bool}
_OF_SAME_LESION |= {"pairs": int, "dropped_images": int}
_OF_MEMBER: dict[str, type | UnionType] = {"run": str, "weight": _NUMBER, "base": str, "base_revision": str | None}
_OF_SOFT_LABELS: dict[str, type | UnionType] = {"teachers": str, "weight": _NUMBER, "sha256": str}
_OF_FINAL_FIT: dict[str, type | UnionType] = {"run": str, "seed": int, "epochs": _NUMBER}
_OF_FINAL_FIT |= {"metric": str | None, "value": _NUMBER | None}
_OF_COLLAPSE = ("eval_top_class_share", "eval_predicted_class_entropy")
_LOGGED = ("loss", "eval_loss", "learning_rate", *_OF_COLLAPSE)
_LARGEST = 1e15  # of a count, and of seconds


def check_facts(facts: Any, path: Path) -> None:
    """Raise InputError if run.json, read from `path`, lacks a field or has one of another type."""
    if not isinstance(facts, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(facts).__name__}")
    for name, kind in (_FACTS | (_OF_TRAINING if facts.get("training", ...) is not None else {})).items():
        _check(_at(facts, name, path), kind, name, path)
    for name, kind in _OPTIONAL.items():
        part, key = name.split(".")
        if key in (facts[part] or {}):
            _check(facts[part][key], kind, name, path)
    if (facts["training"] or {}).get("train_size") is not None:
        try:
            read_train_size(facts["training"]["train_size"])
        except InputError as error:
            raise InputError(f"{path}: training.{error}") from error
    data, model = facts["data"], facts["model"]
    if model.get("color_constancy"):
        raise InputError(f"{path}: the model {COLOR_CONSTANCY}")
    labels, threshold, selected_by = model["labels"], model.get("melanoma_threshold"), model.get("selected_by")
    known = all(isinstance(label, str) for label in labels) and label_set(labels)
    for name, value, expected, fits in (
        ("data.splits", list(data["splits"]), ", ".join(_SPLITS), tuple(data["splits"]) == _SPLITS),
        ("model.labels", labels, "the seven diagnoses, or nevus or other", known and tuple(labels) == known),
        ("model.melanoma_threshold", threshold, "a probability", threshold is None or 0 <= threshold <= 1),
        ("model.selected_by", selected_by, "the name of a metric", selected_by in (None, *HEADLINE)),
    ):
        _require(fits, path, name, value, expected)
    for split in _SPLITS:
        for label, count in data["splits"][split]["classes"].items():
            _check(count, int, f"data.splits.{split}.classes.{label}", path)
        # Older runs do not have it: they took every image of an unknown lesion for a lesion of its own
        _check(data["splits"][split].get("unknown_lesions", 0), int, f"data.splits.{split}.unknown_lesions", path)
    hashes = {"data.split_sha256": data["split_sha256"], "data.images_sha256": data["images_sha256"]}
    hashes |= {f"data.splits.{split}.sha256": data["splits"][split]["sha256"] for split in _SPLITS}
    for split, key in product(_SPLITS, _HASHES_OF_SPLIT):
        if key in data["splits"][split]:
            hashes[f"data.splits.{split}.{key}"] = data["splits"][split][key]
    for name, sha256 in hashes.items():
        fits = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
        _require(fits, path, name, sha256, "a SHA-256 in hexadecimal")
    for name, count in data["audit"].items():
        if name != "near_duplicates":
            _check(count, int | None, f"data.audit.{name}", path)
    _check_overlap(data.get("overlap", {}), path)
    if "not_scored" in data:
        for key, kind in {"image_id": str, "predicted": bool}.items():
            _check(_at(data["not_scored"], key, path), kind, f"data.not_scored.{key}", path)
    if data.get("local_features"):
        _check_found(data["local_features"], path)
    if "training_copies" in data:
        _check(_at(data["training_copies"], "training_images", path), int, "data.training_copies", path)
        _check_images(data["training_copies"], "data.training_copies", path)
    if "same_lesion" in data:
        _check_same_lesion(data["same_lesion"], path)
    for pair in data["audit"]["near_duplicates"]["pairs"]:
        fits = isinstance(pair, list) and len(pair) == 5
        _require(fits, path, "data.audit.near_duplicates.pairs", pair, "two images, their splits and a distance")
    for key, kind in _OF_CALIBRATION.items() if model.get("calibration") else ():
        _check(_at(model["calibration"], key, path), kind, f"model.calibration.{key}", path)
    soft_labels = (facts.get("training") or {}).get("soft_labels")
    for key, kind in _OF_SOFT_LABELS.items() if soft_labels is not None else ():
        _check(_at(soft_labels, key, path), kind, f"training.soft_labels.{key}", path)
    if final_fit := (facts["training"] or {}).get("final_fit"):
        for key, kind in _OF_FINAL_FIT.items():
            _check(_at(final_fit, key, path), kind, f"training.final_fit.{key}", path)
    for member in model.get("members", []):
        for key, kind in _OF_MEMBER.items():
            _check(_at(member, key, path), kind, f"model.members.{key}", path)


def unknown_facts(run: Mapping) -> Iterator[tuple[str, Any]]:
    """Yield the place and the value of each fact in run.json's content that no command of this version writes."""
    places = {place for table in (_FACTS, _OF_TRAINING, _OPTIONAL, _UNREAD) for place in table} | {"training"}
    places |= {f"data.splits.{split}.{key}" for split in _SPLITS for key in (*_HASHES_OF_SPLIT, "unknown_lesions")}
    waiting: list[tuple[str, Mapping]] = [("", run)]
    while waiting:
        prefix, values = waiting.pop()
        for key, value in values.items():
            place = f"{prefix}{key}"
            if isinstance(value, dict) and any(known.startswith(f"{place}.") for known in places - {"data.audit"}):
                waiting += [(f"{place}.", value)] if place not in _UNREAD else []
            elif place not in places:
                yield place, value
    for number, member in enumerate(run["model"].get("members", [])):
        yield from ((f"model.members[{number}].{key}", member[key]) for key in member.keys() - _OF_MEMBER.keys())


def _check_overlap(overlap: dict, path: Path) -> None:
    known = overlap.get("record", "none") in ("complete", "incomplete", "none")
    _require(known, path, "data.overlap.record", overlap.get("record"), "complete, incomplete or none")
    for split in overlap.keys() - {"record"}:
        for key in _OF_OVERLAP:
            _check(_at(overlap[split], key, path), int, f"data.overlap.{split}.{key}", path)


def _check_same_lesion(same_lesion: dict, path: Path) -> None:
    for key, kind in _OF_SAME_LESION.items():
        _check(_at(same_lesion, key, path), kind, f"data.same_lesion.{key}", path)
    _check_images(same_lesion, "data.same_lesion", path)


def _check_images(facts: dict, place: str, path: Path) -> None:
    for split in _SPLITS[1:]:
        images = _at(facts, f"images.{split}", path)
        fits = isinstance(images, list) and all(isinstance(image_id, str) for image_id in images)
        _require(fits, path, f"{place}.images.{split}", images, "a list of image ids")


def _check_found(found: dict, path: Path) -> None:
    place = "data.local_features"
    _check(_at(found, "pairs_across_splits", path), int, f"{place}.pairs_across_splits", path)
    for pair in _at(found, "pairs", path):
        fits = isinstance(pair, list) and len(pair) == 5
        _require(fits, path, f"{place}.pairs", pair, "two images, their splits and a score")


def check_history(history: Any, path: Path) -> None:
    """Raise InputError if log_history of trainer_state.json, read from `path`, is not as the Trainer writes it."""
    if not isinstance(history, list):
        raise InputError(f"{path} has no log_history: expected the file the Trainer writes")
    for entry in history:
        _require(isinstance(entry, dict), path, "log_history", entry, "a mapping for each time it logged")
        for key in set(_LOGGED) & set(entry):
            _require(
                entry[key] is None or _is_number(entry[key]), path, f"log_history's {key}", entry[key], "a number"
            )
            step, epoch = entry.get("step"), entry.get("epoch")
            _require(isinstance(step, int) and _is_number(step), path, "log_history's step", step, "a whole number")
            _require(_is_number(epoch) and math.isfinite(epoch), path, "log_history's epoch", epoch, "a number")
        if _OF_COLLAPSE[0] in entry:
            both = [entry.get(key) for key in _OF_COLLAPSE]
            fits = all(_is_number(value) and math.isfinite(value) for value in both)
            _require(fits, path, f"log_history's {' and '.join(_OF_COLLAPSE)}", both, "two finite numbers")


def _is_number(value: Any) -> bool:
    """NaN and infinity are numbers of a training that diverged; beyond 1e100 no picture can be drawn."""
    fits = isinstance(value, _NUMBER) and not isinstance(value, bool)
    return fits and (value != value or abs(value) == math.inf or abs(value) < 1e100)


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


def _require(fits: object, path: Path, name: str, value: Any, expected: str) -> None:
    if not fits:
        raise InputError(
            f"{path}: {name} is {repr(value)[:80]}: expected {expected}, as in the file that `ham-hf train` writes"
        )
