"""report.json as one page for a browser, `report.html`: it needs no network and contains no photographs.

Every figure is from report.json, except the most confident errors and the bins of confidence, which are from
predictions_*.csv. The same run folder gives the same page, byte for byte.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple, cast

import numpy as np
from markupsafe import Markup

from ham_hf.config.metric_names import METRIC_NAMES
from ham_hf.evaluation.metrics import calibration_bins
from ham_hf.evaluation.overlap import overlap_note, overlap_warning
from ham_hf.evaluation.predictions import Predictions
from ham_hf.reporting.formats import Table, escape, full_name, number
from ham_hf.reporting.html_figures import curves, figures
from ham_hf.reporting.rendering import render

CASES = 3  # of each diagnosis
ERRORS = 5  # most frequent ones
INTERVAL = "95\N{NO-BREAK SPACE}% interval"
LEVELS = 5  # shades of the confusion matrix, apart from that of empty cells

# Metrics in plain words; {} is the figure of 100 and its interval
PLAIN = {
    "balanced_accuracy": "About {} of 100 images are classified correctly if every diagnosis counts equally.",
    "accuracy": "About {} of 100 images are classified correctly.",
    "macro_auroc": "An image with a diagnosis gets a higher probability of it than one without about {} times in 100; "
    "every diagnosis counts equally.",
    "recall_mel": "About {} of 100 melanoma images are classified as melanoma. Always nv finds none.",
    "ece": "The predicted probabilities are off by about {} in 100 on average. Lower is better.",
}


class Error(NamedTuple):
    """A misclassified image; the probabilities are those of the predicted and of the true diagnosis."""

    truth: str
    image_id: str
    prediction: str
    probability: float
    of_truth: float


def render_html(report: Mapping, pictures: Mapping[str, bytes], predictions: Mapping[str, Predictions | None]) -> str:
    """Return the whole page from the content of report.json and the predictions of each split.

    `pictures` are PNG files by their names in plots/; kinds that the page does not show are ignored.
    """
    css, script = (
        resources.files("ham_hf.reporting").joinpath(f"templates/report.{kind}").read_text("utf-8")
        for kind in ("css", "js")
    )
    run = report["run"]
    # The test images played no part in choosing the model: they come first
    evaluated = [split for split in ("test", "validation") if report["results"][split] is not None]
    failed = "validation" if "validation" in evaluated else "test"
    predicted = cast(Mapping[str, Predictions], predictions)  # a split with results has predictions
    return render(
        "report.html.jinja",
        css=Markup(css),
        script=Markup(script),
        hashes={"style": _sha256(css), "script": _sha256(script)},
        report=report,
        run=run,
        seen=overlap_warning(run),
        overlap=overlap_note(run),
        splits=[_split(report, split, predicted[split], pictures) for split in evaluated],
        failed=failed,
        most_cases=CASES,
        cases=_cases(most_confident_errors(predicted[failed])) if evaluated else [],
        curves=curves(run["training"], pictures),
        split_hashes=[[name, of["sha256"]] for name, of in run["data"]["splits"].items()],
    )


def most_confident_errors(predictions: Predictions) -> list[Error]:
    """Return the CASES wrong predictions of each diagnosis with the highest probability, one per lesion."""
    labels, probabilities, names = predictions.labels, predictions.probabilities, predictions.names
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    errors = []
    for index in range(len(names)):
        wrong = np.flatnonzero((labels == index) & (predicted != index))
        of_lesion: dict[str, int] = {}
        # Backwards, not negated: among equals the same one as in `ham-hf explain`
        for row in wrong[np.argsort(confidence[wrong], kind="stable")][::-1].tolist():
            of_lesion.setdefault(predictions.lesion_ids[row], row)
        for row in list(of_lesion.values())[:CASES]:
            figures = float(confidence[row]), float(probabilities[row, index])
            errors.append(Error(names[index], predictions.image_ids[row], names[predicted[row]], *figures))
    return errors


def _sha256(text: str) -> str:
    """Return the hash by which a Content-Security-Policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _split(report: Mapping, split: str, predictions: Predictions, pictures: Mapping[str, bytes]) -> dict:
    """Return what the template shows of a split."""
    results, labels = report["results"][split], report["run"]["model"]["labels"]
    return {
        "name": split,
        "results": results,
        "tiles": [_tile(results, name) for name in PLAIN if name in results["metrics"]],
        "matrix": _matrix(results, labels),
        "confidence": float(predictions.probabilities.max(1).mean()),
        "bins": _bins(predictions),
        "errors": _frequent_errors(results, labels),
        "pictures": figures(pictures, split, results, labels),
    }


def _tile(results: Mapping, name: str) -> dict:
    entry, constant = results["metrics"][name], results["always_nv"] or {}
    value, interval, always = entry["value"], entry["interval"], constant.get(name)
    return {
        "name": METRIC_NAMES[name],
        "value": number(value),
        "interval": "" if interval is None else f"{INTERVAL} {number(interval[0])} to {number(interval[1])}",
        "always": "" if always is None else f"always nv {number(always)}",
        "words": "" if value is None else PLAIN[name].format(_of_100(value, interval)),
        # The mark of a calibration error would be at the wrong end
        "bar": None if value is None or interval is None or name == "ece" else _bar(value, interval, always),
    }


def _of_100(value: float, interval: Sequence[float] | None) -> str:
    """Return "58 (95 % interval 49 to 67)"."""
    text = f"{100 * value:.0f}"
    return text if interval is None else f"{text} ({INTERVAL} {100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def _bar(value: float, interval: Sequence[float], always: float | None) -> dict[str, str | None]:
    """Return places on a line from 0 to 100."""
    return {
        "value": f"{100 * value:.1f}",
        "low": f"{100 * interval[0]:.1f}",
        "width": f"{100 * (interval[1] - interval[0]):.1f}",
        "always": None if always is None else f"{100 * always:.1f}",
    }


def _matrix(results: Mapping, labels: Sequence[str]) -> list[dict]:
    """Return a row for each true diagnosis, with a cell for each prediction."""
    rows = []
    for label, counts in zip(labels, results["confusion_matrix"], strict=True):
        images = sum(counts)
        cells = [
            {
                "count": count,
                "share": _share(count, images) if count else "",
                "level": 1 + min(int(LEVELS * count / images), LEVELS - 1) if count else 0,
                "right": prediction == label,
            }
            for prediction, count in zip(labels, counts, strict=True)
        ]
        rows.append({"label": label, "name": full_name(label), "images": images, "cells": cells})
    return rows


def _share(count: int, images: int) -> str:
    return "<1 %" if count / images < 0.005 else f"{100 * count / images:.0f} %"


def _bins(predictions: Predictions) -> Table:
    bins = zip(*calibration_bins(predictions.probabilities, predictions.labels), strict=True)
    rows = [[number(confidence), number(accuracy), f"{images:,}"] for confidence, accuracy, images in bins]
    return ["mean probability of the prediction", "accuracy", "images"], rows


def _frequent_errors(results: Mapping, labels: Sequence[str]) -> list[dict]:
    """Return the most frequent pairs of true and wrongly predicted diagnosis."""
    errors = [
        {"truth": truth, "prediction": prediction, "count": count, "images": sum(counts)}
        for truth, counts in zip(labels, results["confusion_matrix"], strict=True)
        for prediction, count in zip(labels, counts, strict=True)
        if count and prediction != truth
    ]
    return sorted(errors, key=lambda error: -error["count"])[:ERRORS]


def _cases(errors: Sequence[Error]) -> Table:
    header = ["true diagnosis", "image", "prediction", "probability of the prediction"]
    return [*header, "probability of the true diagnosis"], [
        [full_name(truth), escape(image_id), full_name(prediction), number(probability), number(of_truth)]
        for truth, image_id, prediction, probability, of_truth in errors
    ]
