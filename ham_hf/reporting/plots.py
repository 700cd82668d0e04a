"""The figures of a report, drawn without pyplot: no window, no global state, the same file each time."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from ham_hf.config.metric_names import METRIC_NAMES
from ham_hf.evaluation.metrics import CALIBRATION_BINS, calibration_bins
from ham_hf.evaluation.predictions import Predictions
from ham_hf.evaluation.subgroups import FIELDS
from ham_hf.reporting.formats import SYNTHETIC, number
from ham_hf.system.files import replace_file

# Okabe and Ito's colors for color-blind readers; black in place of their yellow, which is too pale for a line
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#000000", "#D55E00", "#0072B2", "#CC79A7")
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#777777"
LINES = ("-", "--", "-.", ":")
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
SPLIT_PICTURES = ("precision_recall", "confusion_matrix", "roc", "reliability", "subgroups")


def picture_names(report: Mapping) -> set[str]:
    """Return the file names of the pictures that `draw_plots` can draw for a report."""
    names = {"loss.png", "learning_rate.png"} if report["run"]["training"] is not None else set()
    evaluated = [split for split, results in report["results"].items() if results is not None]
    return names | {f"{name}_{split}.png" for name in SPLIT_PICTURES for split in evaluated}


def draw_plots(
    report: Mapping, history: Sequence[Mapping], predictions: Mapping[str, Predictions | None]
) -> dict[str, bytes | None]:
    """Return file name → PNG of every figure that a report can have; None if the run has no data for it."""
    run, figures = report["run"], {}
    with style.context(["default", STYLE]):
        if run["training"] is not None:
            figures["loss.png"] = _loss(history, run["training"])
            figures["learning_rate.png"] = _learning_rate(history, run["training"])
        for split, predicted in predictions.items():
            results = report["results"][split]
            if predicted is None:
                figures |= {f"{name}_{split}.png": None for name in SPLIT_PICTURES}
                continue
            names = run["model"]["labels"]
            figures[f"precision_recall_{split}.png"] = _precision_recall(results, names, split)
            figures[f"confusion_matrix_{split}.png"] = _confusion_matrix(results, names, split)
            figures[f"roc_{split}.png"] = _roc(results, predicted, split)
            figures[f"reliability_{split}.png"] = _reliability(results, predicted, split)
            figures[f"subgroups_{split}.png"] = _subgroups(results, split)
        for figure in figures.values() if run["data"]["synthetic"] else ():
            if figure is not None:
                figure.supxlabel(SYNTHETIC, fontsize=9, color=ORANGE)
        return {name: None if figure is None else png_of(figure) for name, figure in figures.items()}


def write_comparison(path: Path, comparison: Mapping, split: str) -> None:
    """Draw the differences of `compare_runs`, B - A, with their intervals."""
    metrics = {name: of for name, of in comparison["metrics"].items() if of["interval"] is not None}
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(7.2, 1.4 + 0.5 * len(metrics)))
        axes = figure.add_subplot()
        for row, of in enumerate(metrics.values()):
            low, high = of["interval"]
            color = GRAY if low <= 0 <= high else BLUE
            axes.plot([low, high], [row, row], color=color, linewidth=2)
            axes.plot(of["difference"], row, "o", color=color)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(metrics)), [METRIC_NAMES[name] for name in metrics])
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set(
            title=f"B - A, {split}: {comparison['images']:,} images",
            xlabel=f"difference, 95 % interval by {'image' if comparison['lesions'] is None else 'lesion'}",
        )
        save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    replace_file(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    """Return the figure as PNG, without metadata about the program."""
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, metadata={"Software": None})
    return png.getvalue()


def _points(history: Sequence[Mapping], key: str) -> tuple[list, list]:
    entries = [(entry["step"], entry[key]) for entry in history if key in entry and entry[key] is not None]
    return [step for step, _ in entries], [value for _, value in entries]


def _by_step(training: Mapping, title: str, label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="optimizer step", ylabel=label)
    axes.grid(alpha=0.3)
    if training["epochs"] and training["steps"]:
        rate = training["epochs"] / training["steps"]
        top = axes.secondary_xaxis("top", functions=(lambda step: step * rate, lambda epoch: epoch / rate))
        top.set_xlabel("epoch", color=GRAY)
        top.tick_params(colors=GRAY)
    return figure, axes


def _loss(history: Sequence[Mapping], training: Mapping) -> Figure | None:
    train, validation = _points(history, "loss"), _points(history, "eval_loss")
    if not train[0] and not validation[0]:
        return None
    figure, axes = _by_step(training, "Loss", "loss")
    axes.plot(*train, color=BLUE, linewidth=1.4, label="training (mean since the last point)")
    axes.plot(*validation, color=ORANGE, marker="o", markersize=5, linewidth=1.8, label="validation")
    if training["best_step"] is not None:
        axes.axvline(training["best_step"], color=GRAY, linestyle=":", label="chosen checkpoint")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _learning_rate(history: Sequence[Mapping], training: Mapping) -> Figure | None:
    steps, rates = _points(history, "learning_rate")
    if not steps:
        return None
    figure, axes = _by_step(training, "Learning rate", "learning rate")
    axes.plot(steps, rates, color=BLUE, linewidth=1.8, marker="." if len(steps) < 30 else None)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:.3g}")
    return figure


def _title(what: str, split: str, results: Mapping) -> str:
    return f"{what}, {split}: {results['images']:,} images"


def _precision_recall(results: Mapping, names: Sequence[str], split: str) -> Figure:
    figure = Figure(figsize=(1.2 + 1.05 * max(len(names), 6), 4.4))
    axes = figure.add_subplot()
    place = np.arange(len(names))
    for metric, shift, color, hatch in (("precision", -0.2, BLUE, ""), ("recall", 0.2, "#E69F00", "//")):
        entries = [results["metrics"][f"{metric}_{name}"] for name in names]
        values = np.array([np.nan if entry["value"] is None else entry["value"] for entry in entries])
        bounds = np.array([entry["interval"] or (np.nan, np.nan) for entry in entries])
        axes.bar(place + shift, values, 0.38, color=color, hatch=hatch, edgecolor="white", label=metric)
        middle, reach = bounds.mean(axis=1), (bounds[:, 1] - bounds[:, 0]) / 2
        axes.errorbar(place + shift, middle, reach, fmt="none", ecolor="#333333", elinewidth=1.1, capsize=3)
        for x, value, top in zip(place + shift, values, bounds[:, 1], strict=True):
            height = 0 if np.isnan(value) else max(value, np.nan_to_num(top, nan=0))
            axes.annotate(
                number(value, digits=2), (x, height), (0, 3), textcoords="offset points", ha="center", fontsize=9
            )
    supports = [int(results["metrics"][f"support_{name}"]["value"]) for name in names]
    axes.set_xticks(place, [f"{name}\n{count:,}" for name, count in zip(names, supports, strict=True)])
    axes.set(title=_title("Precision and recall", split, results), xlabel="diagnosis, and its images", ylim=(0, 1.08))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel("value and 95 % interval")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return figure


def _confusion_matrix(results: Mapping, names: Sequence[str], split: str) -> Figure:
    counts = np.array(results["confusion_matrix"])
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    side = 2.6 + 0.72 * max(len(names), 4)
    figure = Figure(figsize=(side + 0.6, side - 0.9))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        share, count = shares[row, column], counts[row, column]
        text = f"{count:,}\n{'<1%' if share < 0.005 else f'{share:.0%}'}" if count else "0"
        color = "white" if share > 0.55 else "black" if count else GRAY
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), [f"{name} ({n:,})" for name, n in zip(names, support[:, 0], strict=True)])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(title=_title("Confusion matrix", split, results), xlabel="predicted", ylabel="true diagnosis (images)")
    bar = figure.colorbar(image, ax=axes, shrink=0.85, label="share of the true diagnosis")
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    bar.outline.set_visible(False)
    return figure


def _roc(results: Mapping, predicted: Predictions, split: str) -> Figure:
    figure = Figure(figsize=(7.6, 5.2))
    axes = figure.add_subplot(aspect="equal")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1)
    for index, name in enumerate(predicted.names):
        entry = results["metrics"][f"auroc_{name}"]
        if entry["value"] is None:
            continue
        false_alarms, sensitivity, _ = roc_curve(predicted.labels == index, predicted.probabilities[:, index])
        axes.plot(
            false_alarms,
            sensitivity,
            color=COLORS[index % len(COLORS)],
            linestyle=LINES[index % len(LINES)],
            linewidth=2.6 if name == "mel" else 1.6,
            label=f"{name} {number(entry['value'], entry['interval'])}",
        )
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="1 - specificity", ylabel="sensitivity")
    axes.set_title(_title("ROC, one against the rest", split, results))
    axes.grid(alpha=0.3)
    if len(axes.lines) > 1:  # only the diagonal is there if all images are of one diagnosis
        legend: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "handlelength": 3, "fontsize": 10}
        axes.legend(title="AUROC [95 % interval]", **legend)
    return figure


def _reliability(results: Mapping, predicted: Predictions, split: str) -> Figure:
    confidence, accuracy, _ = calibration_bins(predicted.probabilities, predicted.labels)
    figure = Figure(figsize=(5.4, 6.2))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    upper.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="perfectly calibrated")
    entry = results["metrics"]["ece"]
    label = f"{CALIBRATION_BINS} bins of equal mass\nECE {number(entry['value'], entry['interval'])}"
    upper.plot(confidence, accuracy, color=BLUE, marker="o", linewidth=1.6, label=label)
    upper.set(ylim=(0, 1.02), xlim=(0, 1), ylabel="accuracy")
    upper.set_title(_title("Reliability", split, results))
    upper.grid(alpha=0.3)
    upper.legend(loc="lower right")
    lower.hist(predicted.probabilities.max(axis=1), bins=np.linspace(0, 1, 21), color=BLUE, edgecolor="white")
    lower.set(xlabel="confidence: probability of the predicted diagnosis", ylabel="images")
    return figure


def _subgroups(results: Mapping, split: str) -> Figure | None:
    """Return balanced accuracy by group, a row each; None if no group has a figure."""
    rows = [
        (field, group)
        for field, groups in (results["subgroups"] or {}).items()
        for group in groups
        if group["metrics"]["balanced_accuracy"]["value"] is not None
    ]
    if not rows:
        return None
    fields = list(dict.fromkeys(field for field, _ in rows))
    place = np.array([row + fields.index(field) for row, (field, _) in enumerate(rows)])  # a gap between fields
    values, bounds = (
        np.array([group["metrics"]["balanced_accuracy"][key] for _, group in rows]) for key in ("value", "interval")
    )
    figure = Figure(figsize=(7.2, 1.5 + 0.25 * (place[-1] + 1)))
    axes = figure.add_subplot()
    overall = results["metrics"]["balanced_accuracy"]["value"]
    axes.axvline(overall, color=GRAY, linestyle=":")
    axes.hlines(place, bounds[:, 0], bounds[:, 1], color=BLUE, linewidth=1.6)
    axes.plot(values, place, color=BLUE, marker="o", markersize=5, linestyle="none")
    names = [f"{group['group']} ({group['images']:,})" for _, group in rows]
    axes.set_yticks(place, names, parse_math=False)  # a $ in the name of a site is not math
    for field in fields:
        first = place[[of for of, _ in rows].index(field)]
        axes.text(-0.02, first - 0.85, FIELDS[field], transform=axes.get_yaxis_transform(), ha="right", weight="bold")
    axes.set(xlim=(0, 1), ylim=(place[-1] + 0.7, -1.4))
    axes.set_xlabel(f"balanced accuracy and 95 % interval\n(dotted: all images, {number(overall)})")
    axes.set_title(_title("By subgroup", split, results))
    axes.grid(axis="x", alpha=0.3)
    return figure
