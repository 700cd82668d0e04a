"""report.json as one page for a browser, `report.html`: it needs no network, and holds no photograph.

Every figure is report.json's, but for the surest mistakes and the bins of confidence, which are predictions_*.csv's.
The same run folder gives the same page, byte for byte.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup, escape

from ham_hf.config.metric_names import HEADLINE, METRIC_NAMES
from ham_hf.evaluation.metrics import calibration_bins
from ham_hf.evaluation.overlap import overlap_note, overlap_warning
from ham_hf.evaluation.predictions import Predictions
from ham_hf.evaluation.subgroups import FIELDS
from ham_hf.labels import MALIGNANT
from ham_hf.reporting import sections
from ham_hf.reporting.sections import Table, full_name, number
from ham_hf.system.terminal import printable

CASES = 3  # of each diagnosis
MISTAKES = 5  # kinds of them
INTERVAL = "95\N{NO-BREAK SPACE}% interval"
LEVELS = 5  # shades of the confusion matrix, beside that of no image

# What a figure says of 100, in plain words; {} is the figure and its interval
PLAIN = {
    "balanced_accuracy": "Of 100 images of a diagnosis about {} are answered with it; every diagnosis counts alike.",
    "accuracy": "Of 100 images as they come about {} are answered rightly.",
    "macro_auroc": "Of two images, one with a diagnosis and one without, the first has the higher probability of it "
    "about {} times in 100; every diagnosis counts alike.",
    "recall_mel": "Of 100 images of melanoma about {} are found: answered with melanoma. Always nv finds none.",
    "ece": "The probabilities of its answers are off by about {} in 100, on the mean. Lower is better.",
}


class Mistake(NamedTuple):
    """An image with a wrong answer; the probabilities are of that answer and of the true diagnosis."""

    truth: str
    image_id: str
    answer: str
    probability: float
    of_truth: float


def render_html(report: Mapping, pictures: Mapping[str, bytes], predictions: Mapping[str, Predictions | None]) -> str:
    """The whole page.

    Args:
        report: report.json's content.
        pictures: PNG files by their names in plots/; those of a kind that the page does not show are left out.
        predictions: of each split of the report.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = inline
    template, css, script = (
        resources.files("ham_hf.reporting").joinpath(f"templates/report.{kind}").read_text("utf-8")
        for kind in ("html.jinja", "css", "js")
    )
    run = report["run"]
    near = run["data"]["audit"]["near_duplicates"]
    # Test images had no say in the model: they come first
    evaluated = [split for split in ("test", "validation") if report["results"][split] is not None]
    failed = "validation" if "validation" in evaluated else "test"
    return environment.from_string(template).render(
        css=Markup(css),
        script=Markup(script),
        hashes={"style": _sha256(css), "script": _sha256(script)},
        title=sections.report_title(run),
        what=sections.what_it_does(run),
        origin=_origin(run),
        disclaimer=report["disclaimer"],
        synthetic=sections.SYNTHETIC if run["data"]["synthetic"] else "",
        seen=overlap_warning(run),
        purpose=sections.SYNTHETIC_PURPOSE if run["data"]["synthetic"] else sections.PURPOSE,
        limits=_limits(run),
        splits=[_split(report, split, predictions[split], pictures) for split in evaluated],
        absent=sections.absent_sentences(report),
        chosen=sections.chosen_section(run, evaluated),
        intervals_note=sections.intervals_note(run["data"]),
        metrics_note=sections.METRICS_NOTE,
        subgroups_note=sections.subgroups_note(run["data"]),
        dx_type_note=sections.DX_TYPE_NOTE,
        failed=failed,
        drawn="images" if sections.unknown_lesions(run["data"]) else "lesions",
        cases_rule=_cases_rule(failed, report["results"][failed]["lesions"] is not None),
        cases=_cases_table(surest_mistakes(predictions[failed])),
        explain=_explain_command(run, failed),
        ablation=_ablation(report),
        ablation_note=sections.ablation_note(run["data"]),
        model=sections.model_rows(run),
        curves=_curves(run["training"], pictures) if run["training"] is not None else [],
        collapse=report["collapse"],
        collapse_sentences=sections.collapse_sentences(report["collapse"]) if report["collapse"] else "",
        collapse_table=sections.collapse_table(report["collapse"]["evaluations"]) if report["collapse"] else None,
        source=run["data"]["source"],
        data=sections.data_table(run["data"]),
        split=f"{sections.split_sentences(run['data'])} {overlap_note(run)}".strip(),
        split_hashes=[[name, of["sha256"]] for name, of in run["data"]["splits"].items()],
        audit=sections.audit_rows(run["data"]["audit"]),
        near=sections.audit_sentences(near),
        pairs=sections.pairs_table(near),
        more_pairs=near["pairs_across_splits"] - len(near["pairs"]),
        command=sections.command_line(run),
        provenance=sections.provenance_rows(run),
        version=report["ham_hf"],
    )


def inline(text: str) -> Markup:
    """A line of `sections`: its **, * and ` as tags, what it escaped as it was, and nothing of it as HTML."""
    return Markup(_tags(str(escape(text))))


def _tags(escaped: str) -> str:
    names = {"**": "strong", "*": "em", "`": "code"}
    return re.sub(
        r"\\(.)|(\*\*|\*|`)((?:\\.|[^\\])+?)\2",
        lambda found: found[1] or f"<{names[found[2]]}>{_tags(found[3])}</{names[found[2]]}>",
        escaped,
    )


def surest_mistakes(predictions: Predictions) -> list[Mistake]:
    """Of each diagnosis the images, CASES at most, whose wrong answer has the highest probability; a lesion once."""
    labels, probabilities, names = predictions.labels, predictions.probabilities, predictions.names
    answers, sureness = probabilities.argmax(axis=1), probabilities.max(axis=1)
    mistakes = []
    for index in range(len(names)):
        wrong = np.flatnonzero((labels == index) & (answers != index))
        of_lesion: dict[str, int] = {}
        # Backwards, not negated: among equals the same one as `ham-hf explain`
        for row in wrong[np.argsort(sureness[wrong], kind="stable")][::-1].tolist():
            of_lesion.setdefault(predictions.lesion_ids[row], row)
        mistakes += [
            Mistake(
                names[index],
                predictions.image_ids[row],
                names[answers[row]],
                float(sureness[row]),
                float(probabilities[row, index]),
            )
            for row in list(of_lesion.values())[:CASES]
        ]
    return mistakes


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _origin(run: Mapping) -> str:
    if run["training"] is not None:
        return f"Fine-tuned with ham_hf from {sections.escape(run['model']['name'])}."
    if "members" in run["model"]:
        return f"The mean of {len(run['model']['members'])} models trained with ham_hf."
    return "Trained elsewhere, and judged here with ham_hf."


def _limits(run: Mapping) -> str:
    if run["data"]["synthetic"]:
        return ""
    if not sections.made_here(run):
        return "What it was trained on is for its own card to say: this report is about the images named here alone."
    return sections.LIMITS


def _split(report: Mapping, split: str, predictions: Predictions, pictures: Mapping[str, bytes]) -> dict:
    """What the page says of a split, for the template."""
    results, labels = report["results"][split], report["run"]["model"]["labels"]
    shown = {
        kind: _picture(pictures[f"{kind}_{split}.png"], alt(results, labels))
        for kind, alt in ALTS.items()
        if f"{kind}_{split}.png" in pictures
    }
    return {
        "name": split,
        "images": results["images"],
        "of_lesions": sections.of_lesions(results["lesions"]),
        "tiles": [_tile(results, name) for name in PLAIN if name in results["metrics"]],
        "headlines": sections.headlines_table(report, [split]),
        "melanoma": sections.melanoma_sentence({split: results}),
        "matrix": _matrix(results, labels),
        "diagnoses": sections.diagnoses_table(results, labels),
        "subgroups": _subgroups(results),
        "confidence": _confidence(results, predictions),
        "bins": _bins_table(predictions),
        "missed": _missed(results, labels),
        "mistakes": _commonest_mistakes(results, labels),
        "pictures": shown,
    }


# How good


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
    """ "58 (95 % interval 49 to 67)"."""
    text = f"{100 * value:.0f}"
    return text if interval is None else f"{text} ({INTERVAL} {100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def _bar(value: float, interval: Sequence[float], always: float | None) -> dict[str, str | None]:
    """Places on a line from 0 to 100."""
    return {
        "value": f"{100 * value:.1f}",
        "low": f"{100 * interval[0]:.1f}",
        "width": f"{100 * (interval[1] - interval[0]):.1f}",
        "always": None if always is None else f"{100 * always:.1f}",
    }


# Which diagnoses


def _matrix(results: Mapping, labels: Sequence[str]) -> list[dict]:
    """A row for each true diagnosis, a cell for each answer."""
    rows = []
    for label, counts in zip(labels, results["confusion_matrix"], strict=True):
        images = sum(counts)
        cells = [
            {
                "count": count,
                "share": _share(count, images) if count else "",
                "level": 1 + min(int(LEVELS * count / images), LEVELS - 1) if count else 0,
                "right": answer == label,
            }
            for answer, count in zip(labels, counts, strict=True)
        ]
        rows.append({"label": label, "name": full_name(label), "images": images, "cells": cells})
    return rows


def _share(count: int, images: int) -> str:
    return "<1 %" if count / images < 0.005 else f"{100 * count / images:.0f} %"


# On whom


def _subgroups(results: Mapping) -> list[dict] | None:
    if results["subgroups"] is None:
        return None
    return [
        {"field": field, "words": FIELDS[field], "table": sections.subgroups_table(field, groups)}
        for field, groups in results["subgroups"].items()
    ]


# How sure


def _confidence(results: Mapping, predictions: Predictions) -> str:
    return (
        f"On the mean it gives its answer a probability of {number(float(predictions.probabilities.max(1).mean()))}, "
        f"and is right in {number(results['metrics']['accuracy']['value'])} of the images. A model whose "
        "probabilities can be taken at their word is right in 90 of 100 images to which it answers with a probability "
        f"of .90; the {HEADLINE['ece']} says how far it is from that."
    )


def _bins_table(predictions: Predictions) -> Table:
    bins = zip(*calibration_bins(predictions.probabilities, predictions.labels), strict=True)
    rows = [[number(confidence), number(accuracy), f"{images:,}"] for confidence, accuracy, images in bins]
    return ["probability of its answer, mean of the bin", "right", "images"], rows


# Where it fails


def _missed(results: Mapping, labels: Sequence[str]) -> str:
    """What a clinician fears most; "" where the labels do not say what is malignant."""
    if not set(MALIGNANT) <= set(labels):
        return ""
    malignant = [label in MALIGNANT for label in labels]
    rows = [counts for counts, of_it in zip(results["confusion_matrix"], malignant, strict=True) if of_it]
    missed = sum(count for counts in rows for count, of_it in zip(counts, malignant, strict=True) if not of_it)
    return (
        f"Of {sum(map(sum, rows)):,} images of a malignant diagnosis ({', '.join(MALIGNANT)}), {missed:,} were "
        "answered with a benign one."
    )


def _commonest_mistakes(results: Mapping, labels: Sequence[str]) -> list[str]:
    """Pairs of true diagnosis and wrong answer, those with the most images first."""
    pairs = [
        (count, sum(counts), truth, answer)
        for truth, counts in zip(labels, results["confusion_matrix"], strict=True)
        for answer, count in zip(labels, counts, strict=True)
        if count and answer != truth
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [
        f"{full_name(truth)} answered with {full_name(answer)}: {count:,} of {images:,} images"
        for count, images, truth, answer in pairs[:MISTAKES]
    ]


def _cases_rule(split: str, lesions_known: bool) -> str:
    return (
        f"Of each diagnosis up to {CASES} {split} images, chosen by a rule and not by eye: those with a wrong answer, "
        f"the highest probability of that answer first{', a lesion once' if lesions_known else ''}."
    )


def _cases_table(mistakes: Sequence[Mistake]) -> Table:
    rows = [
        [
            full_name(case.truth),
            sections.escape(case.image_id),
            full_name(case.answer),
            number(case.probability),
            number(case.of_truth),
        ]
        for case in mistakes
    ]
    header = ["true diagnosis", "image", "answer", "probability of the answer", "probability of the true diagnosis"]
    return header, rows


def _explain_command(run: Mapping, split: str) -> str:
    """What draws such cases; "" for a model that `ham-hf explain` does not take, or of which it is not known how."""
    if sections.reads_patient(run) or not sections.made_here(run):
        return ""
    data = run["data"]
    words = ["ham-hf", "explain", "RUN", "--data_dir", sections.where_the_data_are(data), "--part", split]
    match data["split"]:
        case "study":
            pass
        case "grouped":
            words += ["--split", "grouped", "--split_seed", str(data["split_seed"])]
            if data["audit"]["near_duplicates"]["grouped"]:
                words.append("--group_near_duplicates")
        case csv:
            words += ["--split", f"path/to/{csv}"]
    if any(of["absent_images"] for of in data["splits"].values()):
        words.append("--allow_missing_images")
    return printable(shlex.join([*words, "--output_dir", "cases"]))


def _ablation(report: Mapping) -> Table | None:
    if report["ablation"] is None:
        return None
    return sections.ablation_table(report["ablation"], report["results"]["validation"]["metrics"])


# Pictures


def _picture(png: bytes, alt: str) -> dict:
    """`src` is the file itself; its size stands in its header, bytes 16 to 24."""
    return {
        "src": "data:image/png;base64," + base64.b64encode(png).decode(),
        "width": int.from_bytes(png[16:20], "big"),
        "height": int.from_bytes(png[20:24], "big"),
        "alt": alt,
    }


def _curves(training: Mapping, pictures: Mapping[str, bytes]) -> list[dict]:
    best = training["best_step"]
    chosen = "" if best is None else f", with a dotted line at step {best:,}, the chosen checkpoint"
    alts = {
        "loss.png": f"Curves of the training and the validation loss by optimiser step{chosen}.",
        "learning_rate.png": "Curve of the learning rate by optimiser step.",
    }
    titles = {"loss.png": "Loss", "learning_rate.png": "Learning rate"}
    return [_picture(pictures[name], alt) | {"title": titles[name]} for name, alt in alts.items() if name in pictures]


def _alt_precision_recall(results: Mapping, labels: Sequence[str]) -> str:
    bars = "Bars of precision and recall with their 95 % intervals, a pair for each diagnosis."
    return bars + _range("Recall", {label: results["metrics"][f"recall_{label}"]["value"] for label in labels})


def _alt_roc(results: Mapping, labels: Sequence[str]) -> str:
    curves = "ROC curves, sensitivity by 1 - specificity, each diagnosis against the rest."
    values = {label: results["metrics"][f"auroc_{label}"]["value"] for label in labels}
    return curves + _range("The area under them", values)


def _alt_reliability(results: Mapping, labels: Sequence[str]) -> str:
    return (
        "Curve of accuracy by confidence, beside the diagonal of a perfectly calibrated model; the calibration error "
        f"is {number(results['metrics']['ece']['value'])}. Below it a histogram of the images by confidence."
    )


def _alt_subgroups(results: Mapping, labels: Sequence[str]) -> str:
    values = {
        f"{FIELDS[field]} {group['group']}": group["metrics"]["balanced_accuracy"]["value"]
        for field, groups in results["subgroups"].items()
        for group in groups
    }
    return (
        "Balanced accuracy of each group as a dot, its 95 % interval as a line, beside a dotted line at that of all "
        f"images, {number(results['metrics']['balanced_accuracy']['value'])}." + _range("It", values)
    )


def _range(what: str, values: Mapping[str, float | None]) -> str:
    """ " Recall goes from .412 (df) to .930 (vasc)."; nothing where nothing is defined."""
    ranked = sorted((value, name) for name, value in values.items() if value is not None)
    ends = [f"{number(value)} ({name})" for value, name in (*ranked[:1], *ranked[-1:])]
    return f" {what} goes from {' to '.join(ends)}." if ends else ""


ALTS = {
    "precision_recall": _alt_precision_recall,
    "roc": _alt_roc,
    "subgroups": _alt_subgroups,
    "reliability": _alt_reliability,
}
