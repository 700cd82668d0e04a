"""The figures of report.html, each with a text alternative."""

import base64
from collections.abc import Mapping, Sequence

from ham_hf.evaluation.subgroups import FIELDS
from ham_hf.reporting.formats import number


def figures(pictures: Mapping[str, bytes], split: str, results: Mapping, labels: Sequence[str]) -> dict[str, dict]:
    """Return the figures of a split by kind, from PNG files by name."""
    return {
        kind: _picture(pictures[f"{kind}_{split}.png"], alt(results, labels))
        for kind, alt in ALTS.items()
        if f"{kind}_{split}.png" in pictures
    }


def curves(training: Mapping | None, pictures: Mapping[str, bytes]) -> list[dict]:
    """Return the training curves, each with a `title`; none without a training."""
    if training is None:
        return []
    best = training["best_step"]
    chosen = "" if best is None else f" with a dotted line at the chosen checkpoint, step {best:,}"
    alts = {
        "loss.png": f"Curves of training and validation loss by optimizer step{chosen}.",
        "learning_rate.png": "Curve of the learning rate by optimizer step.",
    }
    titles = {"loss.png": "Loss", "learning_rate.png": "Learning rate"}
    return [_picture(pictures[name], alt) | {"title": titles[name]} for name, alt in alts.items() if name in pictures]


def _picture(png: bytes, alt: str) -> dict:
    """Return a figure with the PNG itself as `src`; the size is in its header, bytes 16 to 24."""
    return {
        "src": "data:image/png;base64," + base64.b64encode(png).decode(),
        "width": int.from_bytes(png[16:20], "big"),
        "height": int.from_bytes(png[20:24], "big"),
        "alt": alt,
    }


def _alt_precision_recall(results: Mapping, labels: Sequence[str]) -> str:
    bars = "Bar chart of precision and recall with 95 % intervals for each diagnosis."
    return bars + _range("Recall", {label: results["metrics"][f"recall_{label}"]["value"] for label in labels})


def _alt_roc(results: Mapping, labels: Sequence[str]) -> str:
    curves = "ROC curves (sensitivity against 1 - specificity) of each diagnosis against the rest."
    values = {label: results["metrics"][f"auroc_{label}"]["value"] for label in labels}
    return curves + _range("The area under the curve", values)


def _alt_reliability(results: Mapping, labels: Sequence[str]) -> str:
    return (
        "Curve of accuracy against confidence, next to the diagonal of a perfectly calibrated model; the calibration "
        f"error is {number(results['metrics']['ece']['value'])}. Below it, a histogram of the images by confidence."
    )


def _alt_subgroups(results: Mapping, labels: Sequence[str]) -> str:
    values = {
        f"{FIELDS[field]} {group['group']}": group["metrics"]["balanced_accuracy"]["value"]
        for field, groups in results["subgroups"].items()
        for group in groups
    }
    return (
        "Balanced accuracy of each group as a dot with its 95 % interval as a line; a dotted line marks the balanced "
        f"accuracy of all images, {number(results['metrics']['balanced_accuracy']['value'])}." + _range("It", values)
    )


def _range(what: str, values: Mapping[str, float | None]) -> str:
    """Return " Recall ranges from .412 (df) to .930 (vasc)."; "" if nothing is defined."""
    ranked = sorted((value, name) for name, value in values.items() if value is not None)
    ends = [f"{number(value)} ({name})" for value, name in (*ranked[:1], *ranked[-1:])]
    return f" {what} ranges from {' to '.join(ends)}." if ends else ""


ALTS = {
    "precision_recall": _alt_precision_recall,
    "roc": _alt_roc,
    "subgroups": _alt_subgroups,
    "reliability": _alt_reliability,
}
