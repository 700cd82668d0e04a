"""Check what report.json says about the model, the images and the training, apart from its results.

Whatever the model, the images or another file shows as well is compared. Names and what the training logged cannot be
checked; a name that is a sentence is named as such.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers

from ham_hf import __version__
from ham_hf.config.arguments import DataArguments, ImageArguments, LossArguments, ModelArguments
from ham_hf.config.recipe import RunArguments
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, KEYS, MALFORMED, Finding, different, unreadable
from ham_hf.inference.run_record import unknown_facts
from ham_hf.labels import DISCLAIMER
from ham_hf.models import safe_loading
from ham_hf.models.ensemble.configuration_ensemble import EnsembleConfig
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.pypi import PYPI_WEIGHTS
from ham_hf.reporting.report import strict
from ham_hf.reporting.tables import reads_patient
from ham_hf.system.environment import PACKAGES
from ham_hf.system.serialization import parse_yaml, read_json, read_text

_OF_TABLE = ("dropped_rows", "not_scored", "split_by_default", "identical_images", "broken_images")
_HARDWARE = ("device", "gpu", "cpu", "cpu_cores", "threads")
_NAME_WORDS, _NAME_LENGTH = 3, 96  # of a name, at most
_GPU_WORDS = 8
_BEST_VALUE = 0.03  # between an evaluation in a training's own precision and one in float32


def check_report_facts(
    folder: Path, report: Mapping, model: Mapping, config: Mapping, data: Mapping, spread: Mapping | None
) -> list[Finding]:
    """Return every fact in report.json that is not what the model, the images or the files beside it show.

    Args:
        folder: with run.json and arguments.json, where there are any.
        report: report.json's content.
        model: what `model_facts` says of the model in `folder`, `config` its config.json.
        data: the facts of the images here, as `load_checked` gives them.
        spread: `prediction_spread` of the validation predictions; None where they were not measured.
    """
    found = []
    try:
        found += _differing_facts("model", report["run"]["model"], model, _MODEL_FACTS)
        found += _check_base(report["run"]["model"]["name"], config)
        found += _check_kind(report["run"], config)
        found += _check_data(report, data)
        found += _check_words(report)
        found += _check_names(report["run"])
        found += _check_training(report)
        found += _check_parts(folder, report)
        found += _check_files(folder, report["run"])
        if spread is not None and report["collapse"] is not None:
            found += _differing_facts("collapse.saved_model", report["collapse"]["saved_model"], spread, tuple(spread))
    except MALFORMED as error:
        found.append(unreadable(error))
    return found


# Not trainable_parameters, which the training alone knows, and bf16_difference, which depends on the hardware
_MODEL_FACTS = (
    "architecture",
    "parameters",
    "labels",
    "image_size",
    "test_time_augmentation",
    "calibration",
    "melanoma_threshold",
)


def _differing_facts(place: str, theirs: Mapping, ours: Mapping, keys: Sequence[str]) -> list[Finding]:
    """Find the facts `keys` in which report.json differs, skipping those that older versions did not write."""
    pairs = (
        (f"{place}.{name}", claimed, other)
        for key in keys
        if key in theirs
        for name, claimed, other in different(theirs[key], strict(ours[key]), 0, key)
    )
    return [Finding("report.json", FALSE, f"{name} is {one}, found {other}") for name, one, other in pairs]


def _check_base(base: str, config: Mapping) -> list[Finding]:
    """timm's architectures have names, which the config of a model that began with one of them has as well."""
    expected = PYPI_WEIGHTS[base].architecture if base in PYPI_WEIGHTS else None
    if base.startswith("timm/"):
        expected = base.removeprefix("timm/").partition(".")[0]
    architectures = [value for key, value in safe_loading.entries(config) if key == "architecture"]
    if expected is None or expected in architectures:
        return []
    words = f"model.name is {base}, and config.json describes {', '.join(architectures) or config['model_type']}"
    return [Finding("report.json", FALSE, words)]


def _check_kind(run: Mapping, config: Mapping) -> list[Finding]:
    """Check that the model reads patient data, or is an ensemble, if report.json says so."""
    model, kind = run["model"], config["model_type"]
    claimed: dict[str, Any] = {
        "members": [member["weight"] for member in model["members"]] if "members" in model else None
    }
    expected: dict[str, Any] = {"members": config["weights"] if kind == EnsembleConfig.model_type else None}
    if run["training"] is not None:
        fusion = {MMBTConfig.model_type: "mmbt", FusionConfig.model_type: "mlp"}.get(kind, "none")
        claimed |= {"fusion": model.get("fusion", "none"), "text": model.get("text_name") is not None}
        expected |= {"fusion": fusion, "text": fusion == "mmbt"}
    return _differing_facts("model", claimed, expected, tuple(expected))


def _check_data(report: Mapping, ours: Mapping) -> list[Finding]:
    theirs, same, found = report["run"]["data"], [], []
    for name, split in theirs["splits"].items():
        if split["sha256"] == ours["splits"][name]["sha256"]:
            same.append(name)
            of_split = ("images", "lesions", "classes", "unknown_lesions")
            keys = [key for key in of_split if key in ours["splits"][name]]
            found += _differing_facts(f"data.splits.{name}", split, ours["splits"][name], keys)
    if len(same) < len(theirs["splits"]):
        if "train" not in same:  # of the others, `check_results` says it
            words = "its training images are others than this split's: what it says of them was not checked"
            found.append(Finding("report.json", CANNOT_TELL, words))
        return found
    if theirs["split"] != ours["split"] or theirs["split_seed"] != ours["split_seed"]:
        splits = [f"{data['split']} (seed {data['split_seed']})" for data in (theirs, ours)]
        found.append(Finding("report.json", CANNOT_TELL, f"its split is called {splits[0]}, here it is {splits[1]}"))
    found += _differing_facts("data", theirs, ours, ("split_sha256", "synthetic"))
    found += _check_duplicates(theirs, ours)
    if theirs.get("local_features") and ours["local_features"]:  # which only a machine that has searched knows
        found += _differing_facts("data", theirs, ours, ("local_features",))
    if theirs["images_sha256"] == ours["images_sha256"]:
        found += _check_table(theirs, ours)
        keys = [key for key in theirs["audit"] if key in ours["audit"]]
        audit = _differing_facts("data.audit", theirs["audit"], ours["audit"], keys)
        audit += [
            Finding("report.json", FALSE, f"data.audit.{key} is {theirs['audit'][key]}, which no audit checks")
            for key in theirs["audit"].keys() - ours["audit"].keys()
        ]
        if report.get("ham_hf") != __version__:  # whose audit may look for other things
            audit = [finding._replace(verdict=CANNOT_TELL) for finding in audit]
        found += audit
    return found


def _check_duplicates(theirs: Mapping, ours: Mapping) -> list[Finding]:
    """Compare what the list of duplicates says of the images; a different list says something else."""
    if "same_lesion" not in theirs:  # in older runs
        return []
    if theirs["same_lesion"]["list"] != ours["same_lesion"]["list"]:
        names = [str(data["same_lesion"]["list"])[:60] for data in (theirs, ours)]
        words = f"its list of duplicates is {names[0]}, here it is {names[1]}"
        return [Finding("report.json", CANNOT_TELL, words)]
    return _differing_facts("data.same_lesion", theirs["same_lesion"], ours["same_lesion"], [*theirs["same_lesion"]])


def _check_table(theirs: Mapping, ours: Mapping) -> list[Finding]:
    """Facts about the table of the images, which another copy of the same images may have otherwise."""
    pairs = [(f"data.{key}", *(data.get(key) or None for data in (theirs, ours))) for key in _OF_TABLE]
    for name, split in theirs["splits"].items():
        key = "absent_images"
        pairs.append((f"data.splits.{name}.{key}", split[key], ours["splits"][name][key]))
    words = [f"{place} is {one}, here it is {other}" for place, one, other in pairs if one != other]
    return [Finding("report.json", CANNOT_TELL, said) for said in words]


def _check_words(report: Mapping) -> list[Finding]:
    """Words that the pages show, and that are always the same."""
    found = []
    if report["disclaimer"] != DISCLAIMER:
        found.append(Finding("report.json", FALSE, f"its disclaimer is {str(report['disclaimer'])[:60]!r}"))
    run = report["run"]
    others = [(f"run.hardware.{key}", run["hardware"][key]) for key in run["hardware"] if key not in _HARDWARE]
    for key, version in run["versions"].items():
        if key not in ("python", "ham_hf", *PACKAGES) or not re.fullmatch(r"[\w.+!-]{1,40}", str(version)):
            others.append((f"run.versions.{key}", version))
    others += [(key, report[key]) for key in report if key not in KEYS]
    if report.get("ham_hf") == __version__:
        others += [(f"run.{place}", value) for place, value in unknown_facts(run)]
    found += [
        Finding("report.json", CANNOT_TELL, f"ham_hf {__version__} writes no such {key}: {str(value)[:60]}")
        for key, value in others
    ]
    return found


def _check_names(run: Mapping) -> list[Finding]:
    """Names that the pages show, and that could say anything in more words."""
    model, data, training = run["model"], run["data"], run["training"] or {}
    names = {
        "model.name": model["name"],
        "model.revision": model["revision"],
        "model.text_name": model.get("text_name"),
        "data.source": data["source"],
        "data.split": data["split"],
        "data.same_lesion.list": data.get("same_lesion", {}).get("list"),
        "recipe": run["recipe"],
        "training.precision": training.get("precision"),
        "training.soft_labels.teachers": training.get("soft_labels", {}).get("teachers"),
        "training.final_fit.run": (training.get("final_fit") or {}).get("run"),
    }
    names |= {f"model.members[{number}].run": member["run"] for number, member in enumerate(model.get("members", []))}
    names |= {f"hardware.{key}": value for key, value in run["hardware"].items()}
    found = []
    for place, name in names.items():
        last = re.split(r"[/\\]", str(name or "").rstrip("/\\"))[-1]
        words = _GPU_WORDS if place == "hardware.gpu" else _NAME_WORDS
        if len(last.split()) > words or len(last) > _NAME_LENGTH:
            found.append(Finding("report.json", CANNOT_TELL, f"{place} is a sentence, not a name: {last[:60]}"))
    return found


def _check_training(report: Mapping) -> list[Finding]:
    run = report["run"]
    if run["training"] is None:
        return []
    images, there = run["training"]["images"], run["data"]["splits"]["train"]["images"]
    if images > there:
        words = f"training.images is {images:,}, and its training split has {there:,}"
        return [Finding("report.json", FALSE, words)]
    if not 0 <= run["model"]["trainable_parameters"] <= run["model"]["parameters"]:
        return [Finding("report.json", FALSE, "model.trainable_parameters is more than model.parameters")]
    return _check_best_value(report)


def _check_best_value(report: Mapping) -> list[Finding]:
    """Check the figure that selected the checkpoint: it is the saved model's on validation, unless changed later."""
    run, validation = report["run"], report["results"]["validation"]
    training, model = run["training"], run["model"]
    name = str(training["best_metric"]).removeprefix("eval_")
    later = model.get("test_time_augmentation", "none") != "none" or model.get("calibration")
    if later or validation is None or training["best_value"] is None or name not in validation["metrics"]:
        return []
    value = validation["metrics"][name]["value"]
    if value is not None and abs(training["best_value"] - value) <= _BEST_VALUE + 2 / validation["images"]:
        return []
    words = f"training.best_value is {training['best_value']}, and {name} on validation is {value}"
    return [Finding("report.json", CANNOT_TELL, words)]


def _check_parts(folder: Path, report: Mapping) -> list[Finding]:
    """Results that cannot be there, or that are missing."""
    found, run = [], report["run"]
    if run["training"] is None and "members" not in run["model"]:
        words = "belongs to an evaluation: `ham-hf train` writes a different one"
        found.append(Finding("report.json", CANNOT_TELL, words))
    if report["ablation"] is not None and not reads_patient(run):
        found.append(
            Finding("report.json", FALSE, "has an ablation of the patient's data, which the model does not read")
        )
    if report["collapse"] is not None and run["training"] is None:
        found.append(Finding("report.json", FALSE, "has a collapse check, but there was no training"))
    for split, results in report["results"].items():
        predict = split == "validation" or (run["training"] or {}).get("do_predict", True)
        expected = run["data"]["splits"][split]["images"] and predict
        if results is None and (expected or (folder / f"predictions_{split}.csv").is_file()):
            words = f"has no results of the {split} images, and the model was evaluated on them"
            found.append(Finding("report.json", FALSE, words))
    return found


# In arguments.json, and where report.json has the same
_ARGUMENTS = {
    "model_name_or_path": "model.name",
    "text_model_name_or_path": "model.text_name",
    "fusion": "model.fusion",
    "test_time_augmentation": "model.test_time_augmentation",
    "seed": "seed",
    "learning_rate": "training.learning_rate",
    "train_size": "training.train_size",
    "split": "data.split",
    "max_train_samples": "training.images",
}


def _check_files(folder: Path, run: Mapping) -> list[Finding]:
    """Facts that run.json and arguments.json have as well: a forger has to change them all."""
    found = []
    path = folder / "run.json"
    if not path.is_file():
        found.append(Finding("run.json", CANNOT_TELL, "is missing, and `ham-hf train` writes it with report.json"))
    elif (other := read_json(path)) != run and strict(other) != run:
        keys = sorted(key for key in run if not isinstance(other, dict) or other.get(key) != run[key])
        found.append(Finding("run.json", FALSE, f"contradicts report.json ({', '.join(keys) or 'it says more'})"))
    path = folder / "arguments.json"
    arguments = read_json(path) if path.is_file() else {}
    if not isinstance(arguments, dict):
        return [*found, Finding("arguments.json", CANNOT_TELL, "is not a mapping, as `ham-hf train` writes it")]
    if run["training"] is None:
        return found
    found += _check_arguments(folder, run, arguments)
    for key, place in _ARGUMENTS.items():
        value, fact = arguments.get(key), _at(run, place)
        if key == "max_train_samples":  # more than there are is all of them
            value = min(value or 10**9, run["data"]["splits"]["train"]["images"]) if key in arguments else None
        elif key == "split" and value is not None:
            value = Path(str(value)).name
        if value is not None and fact is not None and value != fact:
            words = f"its {key} is {str(value)[:60]}, and report.json has {place} {str(fact)[:60]}"
            found.append(Finding("arguments.json", FALSE, words))
    return found


def _check_arguments(folder: Path, run: Mapping, arguments: Mapping) -> list[Finding]:
    """Entries of arguments.json and recipe.yaml that no training has."""
    found = []
    if run["versions"].get("transformers") == transformers.__version__:  # whose arguments are among them
        classes = (DataArguments, ImageArguments, ModelArguments, LossArguments, RunArguments)
        known = {field.name for kind in classes for field in fields(kind)} | {"train_batch_size", "eval_batch_size"}
        unknown = [key for key in arguments if key not in known]
        found += [Finding("arguments.json", CANNOT_TELL, f"there is no argument {key[:60]}") for key in unknown]
    path = folder / "recipe.yaml"
    recipe = parse_yaml(read_text(path), path) if path.is_file() else {}
    if not isinstance(recipe, dict):
        return [*found, Finding("recipe.yaml", CANNOT_TELL, "is not a mapping of arguments")]
    unknown = [key for key in recipe if arguments and key not in arguments]
    return found + [Finding("recipe.yaml", CANNOT_TELL, f"arguments.json has no {str(key)[:60]}") for key in unknown]


def _at(run: Mapping, place: str) -> Any:
    part, _, key = place.rpartition(".")
    return (run[part] if part else run).get(key)
