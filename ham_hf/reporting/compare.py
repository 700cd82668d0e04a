"""Compare two groups of runs on the same images: is one way of training better than another?

ham-hf compare runs/a_seed0 runs/a_seed1 --with runs/b_seed0 runs/b_seed1
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from ham_hf.config.metric_names import COMPARED_METRICS, METRIC_NAMES
from ham_hf.evaluation.bootstrap import mean_draws, percentiles
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.overlap import overlap_sentences
from ham_hf.evaluation.predictions import Predictions, in_order_of
from ham_hf.reporting.formats import difference, images_of_lesions, number
from ham_hf.reporting.report import Run, read_run
from ham_hf.system.errors import InputError
from ham_hf.system.terminal import printable


def compare_runs(first: Sequence[Path], second: Sequence[Path], split: str = "validation") -> dict:
    """Compare two groups of run folders, A (`first`) and B (`second`), by their predictions for a split.

    Returns:
        - `images` and `lesions`, which is None if some of them are unknown
        - `metrics`: for each of COMPARED_METRICS the `runs` of A and B (a value for each), their means `a` and `b`,
          the `difference` B - A and its 95 % `interval`, and `intervals` of the two means. All runs share the drawn
          lesions, and in each draw the means of the groups are compared. Undefined values are NaN, undefined
          intervals None
        - `mcnemar`: see `mcnemar`; None unless one run is compared with one
        - `warnings`: sentences about images whose equality could not be checked, or that a model was trained on

    Raises:
        InputError: a folder is not a run folder, is given twice or has no such predictions, or its images, labels or
            diagnoses differ from those of the first folder.
    """
    runs, lesions_known, warnings = _read([*first, *second], split)
    _, lesion_ids, labels, _, names = runs[0]
    sides = [[run.probabilities for run in side] for side in (runs[: len(first)], runs[len(first) :])]
    scores = [[compute_scores(probabilities, labels, names) for probabilities in side] for side in sides]
    drawn = [mean_draws(side, labels, lesion_ids, names) for side in sides]
    metrics = {}
    for name in COMPARED_METRICS:
        if name not in scores[0][0]:  # melanoma, where models tell nevi from all else
            continue
        values = [[of_run[name] for of_run in side] for side in scores]
        a, b = (float(np.mean(side)) for side in values)
        of_a, of_b = (side[name] for side in drawn)
        metrics[name] = {
            "runs": values,
            "a": a,
            "b": b,
            "intervals": [_interval(of_a), _interval(of_b)],
            "difference": b - a,
            "interval": _interval(of_b - of_a),
        }
    one_each = len(first) == len(second) == 1
    return {
        "images": len(labels),
        "lesions": len(set(lesion_ids)) if lesions_known else None,
        "metrics": metrics,
        "mcnemar": mcnemar(sides[0][0], sides[1][0], labels) if one_each else None,
        "warnings": warnings,
    }


def _interval(draws: np.ndarray) -> tuple[float, float] | None:
    interval = percentiles(draws)
    return None if np.isnan(interval[0]) else interval


def mcnemar(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> dict:
    """McNemar's exact test of two accuracies, from probabilities (N, C) for the same N images and `labels` (N,).

    Returns:
        `a_alone` and `b_alone`, the images that only one of them gets right, and `p`, two-sided. Images of one
        lesion count as independent (McNemar, 1947, https://doi.org/10.1007/BF02295996).
    """
    a, b = (probabilities.argmax(axis=1) == labels for probabilities in (first, second))
    a_alone, b_alone = int((a & ~b).sum()), int((b & ~a).sum())
    p = binomtest(a_alone, a_alone + b_alone).pvalue if a_alone + b_alone else 1.0
    return {"a_alone": a_alone, "b_alone": b_alone, "p": float(p)}


def _read(folders: Sequence[Path], split: str) -> tuple[list[Predictions], bool, list[str]]:
    """Return the predictions of every folder in the order of the first one's images, whether every run knows all
    lesions, and warnings."""
    places = [folder.resolve() for folder in folders]
    runs, predicted, warnings = [], [], []
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{folder} occurs twice: expected different runs")
        runs.append(read_run(folder))
        of_split = runs[-1].predictions[split]
        if of_split is None:
            raise InputError(f"{folder} has no {split} images: choose the other --split")
        predicted.append(of_split)
    files = [folder / f"predictions_{split}.csv" for folder in folders]
    predictions = [
        in_order_of(predicted[0], of_run, files[0], file) for of_run, file in zip(predicted, files, strict=True)
    ]
    for run in runs:
        warnings += _compare_images(runs[0], run, split)
        warnings += overlap_sentences(run.facts["data"], f"the model of {run.folder}", (split,))
    lesions_known = not any(run.facts["data"]["splits"][split].get("unknown_lesions", 0) for run in runs)
    return predictions, lesions_known, warnings


def _compare_images(first: Run, run: Run, split: str) -> list[str]:
    """Return a warning if two runs have different files under the same image ids and the pixels are not recorded.

    Raises:
        InputError: the files decode to different pixels.
    """
    ours, theirs = (of.facts["data"]["splits"][split] for of in (first, run))
    if ours["sha256"] == theirs["sha256"]:
        return []
    if "pixels_sha256" not in ours or "pixels_sha256" not in theirs:
        return [
            f"The {split} images of {first.folder} and {run.folder} have the same ids, but are different files. "
            "Whether they show the same pixels cannot be checked, because an older run does not record it."
        ]
    if ours["pixels_sha256"] != theirs["pixels_sha256"]:
        raise InputError(
            f"{first.folder} and {run.folder} have different {split} images under the same ids: expected the same "
            "pixels. Evaluate both models on one copy of the images with `ham-hf evaluate`, and compare those runs"
        )
    return []


def render_comparison(comparison: dict, first: Sequence[Path], second: Sequence[Path], split: str) -> str:
    """Return the result of `compare_runs` as text for a terminal."""
    metrics, lesions = comparison["metrics"], comparison["lesions"]
    sides = [f"{letter}, {_how_many(runs)}" for letter, runs in (("A", first), ("B", second))]
    rows = [["", *sides, "B - A [95 % interval]", ""]]
    for name, entry in metrics.items():
        means = [number(entry[key], of_mean) for key, of_mean in zip("ab", entry["intervals"], strict=True)]
        change = difference(entry["difference"], entry["interval"])
        rows.append([METRIC_NAMES[name], *means, change, _verdict(entry["interval"])])
    runs = [["", *(METRIC_NAMES[name] for name in metrics)]]
    for side, (letter, folders) in enumerate((("A", first), ("B", second))):
        for at, folder in enumerate(folders):
            name = printable(f"{letter} {folder}")
            runs.append([name, *(number(entry["runs"][side][at]) for entry in metrics.values())])
    return "\n".join(
        [
            f"{split}: {images_of_lesions(comparison)}, {len(first)} runs against {len(second)}",
            "",
            *_columns(rows),
            "",
            f"Intervals: bootstrap over {'images' if lesions is None else 'lesions'}, the same draws for every run. "
            "They exclude the",
            "variation between seeds; the values of the single runs below show it. Lower is better for log loss and",
            "calibration error.",
            *([] if lesions is not None else ["If several images show one lesion, the intervals are too narrow."]),
            *_mcnemar_line(comparison["mcnemar"], lesions is not None),
            *[printable(f"Warning: {warning}") for warning in comparison["warnings"]],
            "",
            *_columns(runs),
        ]
    )


def _how_many(runs: Sequence[Path]) -> str:
    return "one run" if len(runs) == 1 else f"mean of {len(runs)} runs"


def _mcnemar_line(test: dict | None, lesions_known: bool) -> list[str]:
    if test is None:
        return []
    return [
        f"McNemar's test of accuracy: only A is correct on {test['a_alone']} images, only B on {test['b_alone']}, "
        f"p = {test['p']:.2g}; it treats images of one lesion as independent"
        + (", unlike the intervals." if lesions_known else ".")
    ]


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "undefined"
    if interval[0] <= 0 <= interval[1]:
        return "includes zero: no difference shown"
    return f"excludes zero: B is {'higher' if interval[0] > 0 else 'lower'}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
