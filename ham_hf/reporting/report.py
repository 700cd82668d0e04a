"""From a run folder to its report: report.json, report.html, plots/ and the model card README.md.

Reads run.json, trainer_state.json, predictions_{validation,test}.csv and, if present, patients_{validation,test}.csv
and ablation/; it needs neither model nor network. The same folder gives the same report.json, byte for byte.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ham_hf import __version__
from ham_hf.config.metric_names import ABLATION_METRICS
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.bootstrap import bootstrap_intervals, paired_intervals
from ham_hf.evaluation.hidden_duplicates import HIDDEN, hidden_images, hidden_results
from ham_hf.evaluation.metrics import collapsed_steps, compute_scores, constant_scores, prediction_spread
from ham_hf.evaluation.patients import Patients, read_patients
from ham_hf.evaluation.predictions import Predictions, check_rows, in_order_of, read_predictions
from ham_hf.evaluation.subgroups import subgroup_results
from ham_hf.evaluation.thresholds import threshold_results
from ham_hf.inference.classifier import THRESHOLD
from ham_hf.inference.run_record import check_facts, check_history
from ham_hf.labels import DISCLAIMER
from ham_hf.reporting.formats import headline_line
from ham_hf.reporting.tables import ABLATIONS, made_here
from ham_hf.system.errors import InputError, cannot_write
from ham_hf.system.files import replace_files
from ham_hf.system.serialization import read_json

SCHEMA = 1


class Run(NamedTuple):
    """The content of a run folder: run.json, the Trainer's log history, and the predictions of each split.

    `predictions` of a split without images are None, and so are `patients` of older runs. `ablations` are the
    predictions for the validation images by what was hidden, empty if the model does not read the patient.
    """

    folder: Path
    facts: dict
    history: list[dict]
    predictions: dict[str, Predictions | None]
    patients: dict[str, Patients | None]
    ablations: dict[str, Predictions]


def read_run(run_dir: str | Path) -> Run:
    """Read and check a run folder.

    Raises:
        InputError: it is not a run folder, or its files are malformed or do not belong together.
    """
    folder = Path(run_dir)
    _require_files(folder, "run.json")
    facts = _read_json(folder / "run.json")
    trained = facts.get("training", ...) is not None  # null in an evaluation of a model trained elsewhere
    if trained:
        _require_files(folder, "trainer_state.json")
    check_facts(facts, folder / "run.json")
    if trained and not facts["data"].get("train_on_validation"):
        _require_files(folder, "predictions_validation.csv")
    state = _read_json(folder / "trainer_state.json") if trained else {"log_history": []}
    check_history(state.get("log_history"), folder / "trainer_state.json")
    predictions = {split: _read_split(folder, split, facts) for split in EVALUATION_SPLITS}
    patients = {split: _read_patients(folder, split, of_split) for split, of_split in predictions.items()}
    return Run(folder, facts, state["log_history"], predictions, patients, _read_ablations(folder, predictions))


def _require_files(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is not a run folder: expected run.json, trainer_state.json and predictions_validation.csv "
                f"as written by `ham-hf train`, and {name} is missing"
            )


def write_report(run_dir: str | Path) -> dict:
    """Write report.json, report.html, plots/ and the card into `run_dir`; return the content of report.json.

    A model that was trained elsewhere and only evaluated here gets no card. The report.md of an earlier version is
    removed, because it would no longer match.

    Raises:
        InputError: the folder is not a run folder (see `read_run`), or cannot be written.
    """
    # Here, because `ham-hf compare` only reads runs, and these imports take a second
    from ham_hf.reporting.html import render_html
    from ham_hf.reporting.model_card import read_files, render_card
    from ham_hf.reporting.plots import draw_plots

    run = read_run(run_dir)
    report = build_report(run)
    drawn = draw_plots(report, run.history, run.predictions)
    pictures = {name: png for name, png in drawn.items() if png is not None}
    files: dict[str, str | bytes] = {
        **{f"plots/{name}": png for name, png in pictures.items()},
        "report.html": render_html(report, pictures, run.predictions),
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    if made_here(report["run"]):
        files["README.md"] = render_card(report, list(pictures), read_files(run.folder))
    _put(run.folder, files, ["report.md", *(f"plots/{name}" for name, png in drawn.items() if png is None)])
    return report


def print_results(report: dict, folder: Path) -> None:
    """Print the headline metrics of each split, and where the report is."""
    for name, result in report["results"].items():
        if result is not None:
            print(f"{name}: {headline_line(result)}")
    print(f"report: {folder / 'report.html'}")


def _put(folder: Path, files: Mapping[str, str | bytes], gone: Sequence[str]) -> None:
    plots = folder / "plots"
    if plots.is_symlink():
        raise InputError(f"{plots} is a link, and the figures would be written to its target: remove the link")
    try:
        plots.mkdir(exist_ok=True)
        replace_files(folder, files)
        for name in gone:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(
            folder, error, "free some space, or copy the run to a folder that you can write to"
        ) from error


def build_report(run: Run) -> dict:
    """Return the content of report.json: strict JSON, with null for what is undefined."""
    return strict(
        {
            "schema": SCHEMA,
            "ham_hf": __version__,  # `ham-hf verify` renders the card again to compare it
            "run": run.facts,
            "results": {
                split: split_results(
                    run.predictions[split],
                    run.patients[split],
                    run.facts["model"].get(THRESHOLD),
                    unknown_lesions=run.facts["data"]["splits"][split].get("unknown_lesions", 0),
                    hidden=hidden_images(run.facts, split),
                )
                for split in EVALUATION_SPLITS
            },
            "ablation": _ablation(run),
            "collapse": _collapse(run) if run.facts["training"] is not None else None,
            "disclaimer": DISCLAIMER,
        }
    )


def split_results(
    predictions: Predictions | None,
    patients: Patients | None,
    melanoma_threshold: float | None = None,
    *,
    unknown_lesions: int = 0,
    hidden: Sequence[str] = (),
) -> dict | None:
    """Return the results of a split: its metrics with intervals, and subgroups if `patients` are given.

    Args:
        predictions: None for a split without images, which has no results.
        patients: in the order of the predictions; None for older runs.
        melanoma_threshold: adds `threshold_results`.
        unknown_lesions: number of images whose lesion is unknown; if there are any, the number of lesions is None.
        hidden: images whose lesion is in training under another lesion_id; if there are any, adds `hidden_results`.
    """
    if predictions is None:
        return None
    labels, probabilities, names = predictions.labels, predictions.probabilities, predictions.names
    scores = compute_scores(probabilities, labels, names)
    intervals = bootstrap_intervals(probabilities, labels, predictions.lesion_ids, names)
    matrix = scores.pop("confusion_matrix")
    return {
        "images": len(labels),
        "lesions": None if unknown_lesions else len(set(predictions.lesion_ids)),
        "metrics": {name: {"value": value, "interval": _interval(intervals, name)} for name, value in scores.items()},
        "always_nv": constant_scores("nv", labels, names) if "nv" in names else None,
        "confusion_matrix": matrix,
        "subgroups": None if patients is None else subgroup_results(predictions, patients, not unknown_lesions),
        **({} if melanoma_threshold is None else {THRESHOLD: threshold_results(predictions, melanoma_threshold)}),
        **({HIDDEN: hidden_results(predictions, hidden)} if hidden else {}),
    }


def _ablation(run: Run) -> dict | None:
    """Return, by what was hidden, each metric's value and its difference from the intact predictions."""
    if not run.ablations:
        return None
    validation = run.predictions["validation"]
    assert validation is not None  # the ablations are in its order
    _, lesion_ids, labels, intact, names = validation
    before, results = compute_scores(intact, labels, names), {}
    for ablation, predictions in run.ablations.items():
        after = compute_scores(predictions.probabilities, labels, names)
        intervals = paired_intervals(
            [intact], [predictions.probabilities], labels, lesion_ids, names, decisions_only=True
        )
        results[ablation] = {
            metric: {
                "value": after[metric],
                "difference": after[metric] - before[metric],
                "interval": _interval(intervals, metric),
            }
            for metric in ABLATION_METRICS
        }
    return results


def _collapse(run: Run) -> dict:
    """Return the spread of the predictions at every evaluation of the log, and of the saved model on validation.

    The latter is None of a model that was trained on the validation images.
    """
    keys = ("step", "epoch", "eval_top_class_share", "eval_predicted_class_entropy")
    validation = run.predictions["validation"]
    evaluations = [entry for entry in run.history if "eval_top_class_share" in entry]
    return {
        "saved_model": None if validation is None else prediction_spread(validation.probabilities),
        "evaluations": [{key.removeprefix("eval_"): entry[key] for key in keys} for entry in evaluations],
        "collapsed_steps": collapsed_steps(run.history),
    }


def _interval(intervals: Mapping[str, tuple[float, float]], name: str) -> list[float] | None:
    return None if name not in intervals or math.isnan(intervals[name][0]) else list(intervals[name])


def strict(value):
    """Return `value` with None in place of NaN and infinity."""
    match value:
        case dict():
            return {key: strict(item) for key, item in value.items()}
        case list() | tuple():
            return [strict(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _read_json(path: Path) -> dict:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _read_split(folder: Path, split: str, facts: dict) -> Predictions | None:
    path = folder / f"predictions_{split}.csv"
    expected = facts["data"]["splits"][split]["images"]
    not_predicted = split == "test" and not (facts["training"] or {}).get("do_predict", True)
    if not path.exists() and (not_predicted or not expected):
        return None
    predictions = read_predictions(path, facts["model"]["labels"])
    if len(predictions.labels) != expected:
        raise InputError(
            f"{path} has {len(predictions.labels)} images, run.json counts {expected} in {split}: the files are from "
            "different runs; restore the original, or train again"
        )
    check_rows(predictions, facts["data"], split, path)
    return predictions


def _read_patients(folder: Path, split: str, predictions: Predictions | None) -> Patients | None:
    path = folder / f"patients_{split}.csv"
    return read_patients(path, predictions.image_ids) if predictions is not None and path.exists() else None


def _read_ablations(folder: Path, predictions: Mapping[str, Predictions | None]) -> dict[str, Predictions]:
    if not (folder / "ablation").is_dir():
        return {}
    intact, ablations = predictions["validation"], {}
    if intact is None:
        raise InputError(
            f"{folder} has an ablation folder but no predictions_validation.csv, which it belongs to: restore this "
            "file, or remove the folder"
        )
    for name in ABLATIONS:
        path = folder / "ablation" / f"{name}.csv"
        ablations[name] = in_order_of(
            intact, read_predictions(path, intact.names), folder / "predictions_validation.csv", path
        )
    return ablations
