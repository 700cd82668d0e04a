"""The tables of a report: every cell is from report.json. The templates call these functions and hold the prose."""

import re
import shlex
from collections.abc import Mapping, Sequence

from ham_hf.config.metric_names import HEADLINE, METRIC_NAMES, SUBGROUP_METRICS
from ham_hf.config.train_size import crops_in_words, sizes_by_epoch
from ham_hf.data.split_names import NO_LIST, SHIPPED_LIST, SHIPPED_LISTS
from ham_hf.evaluation.subgroups import FIELDS
from ham_hf.labels import MALIGNANT
from ham_hf.reporting.formats import Table, count, difference, duration, escape, full_name, number, percent
from ham_hf.system.terminal import printable, printable_lines

# What is hidden from the model in the files of ablation/
ABLATIONS = {
    "age_hidden": "age hidden",
    "sex_hidden": "sex hidden",
    "localization_hidden": "body site hidden",
    "all_hidden": "all three hidden",
    "shuffled": "another patient's",
}
_REPRODUCIBLE = "yes: with the same command, versions, number of threads and processor"

# The model, and who made it


def reads_patient(run: Mapping) -> bool:
    """Return whether the model also reads the patient's age, sex and body site."""
    return run["model"].get("fusion", "none") != "none"


def made_here(run: Mapping) -> bool:
    """Return whether the run trained or joined the model; a model from elsewhere has a card of its own."""
    return run["training"] is not None or "members" in run["model"]


def has_views(run: Mapping) -> bool:
    """Return whether the figures are with test-time augmentation; older runs do not say, and are without."""
    return run["model"].get("test_time_augmentation", "none") != "none"


def final_fit(run: Mapping) -> Mapping | None:
    """Return what is known of the run that chose the recipe of a final fit; None for other runs."""
    return (run["training"] or {}).get("final_fit")


def unknown_lesions(data: Mapping) -> int:
    """Return how many validation and test images have an unknown lesion; older runs do not say, and count as 0."""
    return sum(data["splits"][split].get("unknown_lesions", 0) for split in ("validation", "test"))


def unit_of(data: Mapping) -> str:
    """Return what the bootstrap draws: "lesions", or "images" if the lesions are unknown."""
    return "images" if unknown_lesions(data) else "lesions"


def best_metric(training: Mapping) -> str:
    """Return the name of the metric by which the checkpoint was chosen."""
    metric = str(training["best_metric"]).removeprefix("eval_")
    return HEADLINE.get(metric, escape(metric))


def chosen_on_validation(run: Mapping) -> bool:
    """Return whether the members of an ensemble were chosen on its validation images; older ones were."""
    overlap = run["data"].get("overlap", {}).get("validation", {"validation": 1})
    return overlap["validation"] > 0 or bool(run["model"].get("selected_by"))


# Results


def headlines(report: Mapping, evaluated: Sequence[str]) -> Table:
    header, columns = ["metric"], []
    for split in evaluated:
        results = report["results"][split]
        header.append(f"{split} ({results['images']:,} images)")
        columns.append({key: number(entry["value"], entry["interval"]) for key, entry in results["metrics"].items()})
        if results["always_nv"] is not None:
            header.append(f"always nv, {split}")
            columns.append({key: number(value) for key, value in results["always_nv"].items()})
    names = [name for name in HEADLINE if all(name in column for column in columns)]
    return header, [[HEADLINE[name], *(column[name] for column in columns)] for name in names]


def diagnoses(results: Mapping, labels: Sequence[str]) -> Table:
    rows = []
    for label in labels:
        entries = [results["metrics"][f"{name}_{label}"] for name in ("precision", "recall", "f1", "auroc")]
        images = int(results["metrics"][f"support_{label}"]["value"])
        figures = [number(entry["value"], entry["interval"]) for entry in entries]
        rows.append([full_name(label), f"{images:,}", *figures])
    return ["diagnosis", "images", "precision", "recall", "F1", "AUROC"], rows


def subgroups(field: str, groups: Sequence[Mapping]) -> Table:
    metrics = [name for name in SUBGROUP_METRICS if name in groups[0]["metrics"]]
    rows = []
    for group in groups:
        counts = [count(group[key]) for key in ("images", "lesions", "diagnoses")]
        rows.append([escape(group["group"]), *counts, *(_figure(group["metrics"][name]) for name in metrics)])
    return [FIELDS[field], "images", "lesions", "diagnoses", *(METRIC_NAMES[name] for name in metrics)], rows


def _figure(entry: Mapping) -> str:
    return number(entry["value"], entry["interval"]) if entry["value"] is not None else entry["too_few"]


def ablation(report: Mapping) -> Table:
    """Return the metrics with patient data hidden, and the differences."""
    intact = report["results"]["validation"]["metrics"]
    metrics = list(next(iter(report["ablation"].values())))
    header = ["the patient's age, sex and body site"]
    rows = [["as they are"]]
    for metric in metrics:
        header += [HEADLINE[metric], "difference"]
        rows[0] += [number(intact[metric]["value"]), ""]
    for name, entries in report["ablation"].items():
        rows.append([ABLATIONS[name]])
        for entry in entries.values():
            rows[-1] += [number(entry["value"]), difference(entry["difference"], entry["interval"])]
    return header, rows


def missed_malignant(results: Mapping, labels: Sequence[str]) -> tuple[int, int] | None:
    """Return the images with a malignant diagnosis that were classified as benign, and all with a malignant one.

    None if the labels do not say what is malignant.
    """
    if not set(MALIGNANT) <= set(labels):
        return None
    malignant = [label in MALIGNANT for label in labels]
    rows = [counts for counts, of_it in zip(results["confusion_matrix"], malignant, strict=True) if of_it]
    missed = sum(number for counts in rows for number, of_it in zip(counts, malignant, strict=True) if not of_it)
    return missed, sum(map(sum, rows))


# Training


def model(run: Mapping) -> list[list[str]]:
    """Return rows about the model and its training."""
    model, training = run["model"], run["training"]
    frozen = model["parameters"] - model["trainable_parameters"]
    revision = f", revision {escape(model['revision'])}" if model["revision"] else ""
    rows = [
        ["model", escape(model["name"]) + revision],
        ["architecture", escape(model["architecture"])],
        ["parameters", f"{model['parameters']:,}" + (f" ({frozen:,} of them frozen)" if frozen else "")],
        ["input", f"{model['image_size']} x {model['image_size']} pixels{_training_crops(run)}"],
    ]
    if has_views(run):
        views = escape(model["test_time_augmentation"])
        rows.append(["test-time augmentation", f"the mean over several views of each image: {views}"])
    for member in model.get("members", []):
        rows.append(["member, weight", f"{escape(member['run'])}, {number(member['weight'])}"])
    if model.get("selected_by"):
        rows.append(["members chosen by", f"{HEADLINE[model['selected_by']]} on the validation images"])
    if calibration := model.get("calibration"):
        rows.append(["calibration", _calibration(calibration, final_fit(run))])
    if training is None:
        return rows
    rows.append(["training images", f"{training['images']:,}"])
    if soft := training.get("soft_labels"):
        rows.append(["labels", _soft_labels(soft)])
    return rows + [
        ["highest learning rate", f"{training['learning_rate']:g}"],
        ["epochs, steps", f"{training['epochs']:g}, {training['steps']:,}"],
        ["precision", escape(training["precision"]) + (", channels last" if training["channels_last"] else "")],
        ["processes", str(training["processes"])],
        ["time", duration(training["seconds"])],
    ]


def _training_crops(run: Mapping) -> str:
    """Return the sizes of the training crops in words; "" if they are those of evaluation, or not in an older run."""
    size = None if run["training"] is None else run["training"].get("train_size")
    return "" if size in (None, run["model"]["image_size"]) else f"; {crops_in_words(sizes_by_epoch(size))}"


def _calibration(of: Mapping, final_fit: Mapping | None) -> str:
    strength = of["prior_strength"]
    adjusted = f"logits minus {number(strength)} times the log class shares of the training images, then "
    fitted = f"{adjusted if strength else ''}temperature {number(of['temperature'])}, fitted on {of['images']:,} "
    if final_fit is not None:
        return f"{fitted}validation images by the run {escape(final_fit['run'])}"
    figures = "figures" if strength else "log loss and calibration error"
    return f"{fitted}validation images, which makes their {figures} optimistic"


def _soft_labels(of: Mapping) -> str:
    folds = f"the out-of-fold probabilities of {escape(of['teachers'])}"
    if of["weight"] == 1:
        return f"soft: {folds}"
    return f"soft: the diagnosis, and with a weight of {number(of['weight'])} {folds}"


def collapse(evaluations: Sequence[Mapping]) -> Table:
    rows = []
    for entry in evaluations:
        spread = percent(entry["top_class_share"]), number(entry["predicted_class_entropy"])
        rows.append([f"{entry['step']:,}", f"{entry['epoch']:.4g}", *spread])
    return ["step", "epoch", "most frequent prediction", "entropy of the predictions, nats"], rows


# Data


def data(facts: Mapping) -> Table:
    labels = list(next(iter(facts["splits"].values()))["classes"])
    rows = [
        [name, *(count(split[key]) for key in ("images", "lesions", "absent_images"))]
        + [f"{split['classes'].get(label, 0):,}" for label in labels]
        for name, split in facts["splits"].items()
    ]
    return ["split", "images", "lesions", "missing images", *map(escape, labels)], rows


def audit(audit: Mapping) -> list[list[str]]:
    """Return rows of what was looked for, and how often it was found."""
    rows = [[escape(key.replace("_", " ")), count(found)] for key, found in audit.items() if key != "near_duplicates"]
    return [*rows, ["near-duplicate images across splits", f"{audit['near_duplicates']['pairs_across_splits']:,}"]]


def pairs(near: Mapping) -> Table:
    """Return the pairs of near-duplicates."""
    rows = [[escape(part) for part in pair] for pair in near["pairs"]]
    return ["image", "split", "image", "split", "distance"], rows


# Provenance


def provenance(run: Mapping) -> list[list[str]]:
    """Return rows of recipe, hashes, hardware and versions."""
    trained = run["training"] is not None
    rows = []
    if trained:
        rows += [["recipe", escape(run["recipe"] or "none")], ["seed", str(run["seed"])]]
    rows += [
        ["split, SHA-256", escape(run["data"]["split_sha256"])],
        ["images, SHA-256", escape(run["data"]["images_sha256"])],
    ]
    if seen := run["data"].get("seen_before"):
        rows.append(["trained on before", f"{seen:,} other images; evaluated images may be among them"])
    if soft := (run["training"] or {}).get("soft_labels"):
        rows.append(["soft labels, SHA-256", escape(soft["sha256"])])
    weights = run["model"].get("weights_sha256", {})  # older runs and evaluations have none
    rows += [[escape(name) + ", SHA-256", escape(sha256)] for name, sha256 in weights.items()]
    if trained and "hindrances" in run["training"]:
        hindrances = "; ".join(map(escape, run["training"]["hindrances"]))
        rows.append(["reproducible to the byte", hindrances or _REPRODUCIBLE])
    rows += [[escape(key), escape(value)] for part in ("hardware", "versions") for key, value in run[part].items()]
    return rows


# Commands


def command_line(run: Mapping) -> str:
    """Return the command that made the run."""
    trained, joined = run["training"] is not None, "members" in run["model"]
    subcommand = "train" if trained else "ensemble" if joined else "evaluate"
    return printable_lines(shlex.join(["ham-hf", subcommand, *map(str, run["argv"])]))


def verify_command(data: Mapping, repo_id: str) -> str:
    """Return the command that verifies the card."""
    words = [f"ham-hf verify {repo_id} --data_dir {shlex.quote(printable(_data_dir(data)))}"]
    if data["split"] not in ("study", "grouped"):
        words.append(f"--split {shlex.quote(printable('path/to/' + data['split']))}")
    return " ".join(words + _data_flags(data))


def explain_command(run: Mapping, split: str) -> str:
    """Return the command that draws cases; "" if `ham-hf explain` does not take the model or its split is unknown."""
    if reads_patient(run) or not made_here(run):
        return ""
    data = run["data"]
    words = ["ham-hf", "explain", "RUN", "--data_dir", _data_dir(data), "--part", split]
    if data["split"] == "grouped":
        words += ["--split", "grouped", "--split_seed", str(data["split_seed"])]
    elif data["split"] != "study":
        words += ["--split", f"path/to/{data['split']}"]
    return printable(shlex.join([*words, *_data_flags(data), "--output_dir", "cases"]))


def _data_dir(data: Mapping) -> str:
    """Return where the data are, for a command that anyone may type."""
    return data["source"] if data["kind"] in ("hub", "synthetic") else "path/to/HAM10000"


def _data_flags(data: Mapping) -> list[str]:
    absent = any(split["absent_images"] for split in data["splits"].values())
    return [*duplicates_flags(data), *["--allow_missing_images"] * absent]


def duplicates_flags(data: Mapping) -> list[str]:
    """Return the options about duplicates that give the same split; older runs had none."""
    duplicates = data.get("same_lesion", {"list": NO_LIST, "merged": False, "dropped": False})
    flags = ["--drop_hidden_duplicates"] * duplicates["dropped"]
    if not duplicates["merged"] or (data["split"] == "grouped" and duplicates["list"] == SHIPPED_LIST):
        return flags
    built_in = duplicates["list"] in (*SHIPPED_LISTS, NO_LIST)
    return [*flags, "--same_lesion", printable(duplicates["list"] if built_in else f"path/to/{duplicates['list']}")]


def model_title(run: Mapping) -> str:
    """Return the title of the card."""
    name = re.split(r"[/:]", run["model"]["name"].rstrip("/"))[-1]
    what = "synthetic skin lesions" if run["data"]["synthetic"] else "HAM10000"
    return f"{escape(name)} on {what}" + (", image and patient" if reads_patient(run) else "")
