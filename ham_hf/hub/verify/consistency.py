"""Does report.json, beside one of our cards, have the results that were measured, and of these weights?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from ham_hf import __version__
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.inference.run_record import check_facts
from ham_hf.labels import DISCLAIMER
from ham_hf.reporting.report import SCHEMA, strict
from ham_hf.system.environment import weights_sha256
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json, read_text

# Between two computations on the same images: float noise may turn an answer or two, never a thousandth
TOLERANCE = 1e-3
HOLDS, FALSE, CANNOT_TELL = "holds", "FALSE", "cannot tell"
# What rendering or comparing a report.json with values of the wrong kind raises
MALFORMED: tuple[type[Exception], ...]
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
MALFORMED += (jinja2.TemplateError,)
KEYS = ("schema", "ham_hf", "run", "results", "ablation", "collapse", "disclaimer")  # of report.json


class Finding(NamedTuple):
    """A problem at a place such as "README.md, line 57"; `verdict` is FALSE or CANNOT_TELL."""

    where: str
    verdict: str
    words: str


# Reading it


def read_report(folder: Path) -> tuple[dict | None, list[Finding]]:
    """Return report.json beside a card if it is one of ours, and what is wrong with one that was.

    A report.json with nothing of ours in it is left alone.
    """
    path = folder / "report.json"
    if not path.is_file():
        return None, []
    try:
        report = read_json(path)
    except InputError as error:
        return None, [Finding("report.json", CANNOT_TELL, str(error))]
    if not isinstance(report, dict) or not _is_ours(report):
        return None, []
    try:
        json.loads(read_text(path), object_pairs_hook=_without_repeats)
        check_facts(report["run"], path)
        if report["schema"] != SCHEMA or report["results"].keys() != set(EVALUATION_SPLITS):
            raise ValueError("expected the schema 1 and the splits validation and test")
    except MALFORMED as error:
        return None, [unreadable(error)]
    return report, []


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> None:
    """Raise ValueError for a key that a mapping has twice: a program reads the last, a person the first."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"{key!r} is there twice")
        seen.add(key)


def _is_ours(report: Mapping) -> bool:
    """Return whether any part of a report.json is as ham-hf writes it, however little is left."""
    run, results = report.get("run"), report.get("results")
    return (
        len(set(KEYS) & report.keys()) >= 2
        or "ham_hf" in report
        or report.get("disclaimer") == DISCLAIMER
        or (isinstance(run, dict) and "argv" in run)
        or (isinstance(results, dict) and bool(set(EVALUATION_SPLITS) & results.keys()))
    )


def unreadable(error: Exception) -> Finding:
    words = f"not as `ham-hf report` writes it ({type(error).__name__}: {error}), so nothing was compared with it"
    return Finding("report.json", CANNOT_TELL, words)


# The weights


def check_weights(folder: Path, report: Mapping) -> list[Finding]:
    """Return which weights in `folder` are not those whose figures report.json has; an older one does not say."""
    reported = report["run"]["model"].get("weights_sha256")
    there = weights_sha256(folder)
    if reported is None and report.get("ham_hf") == __version__ and report["run"]["training"] is not None:
        return [Finding("report.json", CANNOT_TELL, "has no weights_sha256, which `ham-hf train` always writes")]
    if reported is None or reported == there:
        return []
    changed = sorted(name for name in there if reported.get(name) != there[name])
    words = "its weights are not those that report.json has the figures of (another SHA-256)"
    return [Finding(name, FALSE, words) for name in changed or ["model.safetensors"]]


# The results


def check_results(
    report: Mapping, measured: Mapping[str, Mapping], hashes: Mapping[str, str], parts: Sequence[str]
) -> list[Finding]:
    """Return every figure of the splits `parts` in which report.json differs from what was `measured`.

    Args:
        report: report.json's content.
        measured: by split, the result of `split_results`; splits without images are skipped.
        hashes: by split, the SHA-256 of the images that were measured.
        parts: splits of report.json with results.
    """
    found = []
    try:
        for part in parts:
            where, theirs = f"report.json, {part}", dict(report["results"][part])
            if part not in measured or report["run"]["data"]["splits"][part]["sha256"] != hashes[part]:
                found.append(Finding(where, CANNOT_TELL, "is about other images"))
                continue
            ours = dict(strict(measured[part]))
            if ours["lesions"] is None and theirs["lesions"] is not None:
                words = f"it counts {theirs['lesions']} lesions, but the lesions of some of these images are unknown"
                found.append(Finding(where, CANNOT_TELL, words))
                theirs["lesions"] = None
            if _groups(theirs["subgroups"]) != _groups(ours["subgroups"]):
                if theirs["subgroups"] is not None:
                    words = "its subgroups are not those of the patients in this copy of the data"
                    found.append(Finding(where, CANNOT_TELL, words))
                theirs["subgroups"] = ours["subgroups"]
            found += [
                Finding(where, FALSE, f"{name} is {figure}, measured {other}")
                for name, figure, other in different(theirs, ours, TOLERANCE * ours["images"])
            ]
    except MALFORMED as error:
        found.append(unreadable(error))
    return found


def _groups(subgroups: Mapping[str, Sequence[Mapping]] | None) -> list[tuple] | None:
    if subgroups is None:
        return None
    counts = ("group", "images", "lesions", "diagnoses")
    return [(field, *(group[key] for key in counts)) for field, groups in subgroups.items() for group in groups]


def different(theirs: Any, ours: Any, answers: float, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, claimed, measured of what differs; in the confusion matrix `answers` may have moved."""
    match theirs, ours:
        case dict(), dict() if theirs.keys() == ours.keys():
            for key in ours:
                yield from different(theirs[key], ours[key], answers, f"{name} {key}".strip())
        case list(), list() if len(theirs) == len(ours):
            for number, pair in enumerate(zip(theirs, ours, strict=True), 1):
                yield from different(*pair, answers, f"{name} {number}")
        case (bool(), _) | (_, bool()):
            if theirs is not ours:
                yield name, theirs, ours
        case int() | float(), int() | float():
            if not abs(theirs - ours) <= (answers if name.startswith("confusion_matrix") else TOLERANCE):
                yield name, theirs, ours
        case _ if theirs != ours:
            yield name, theirs, ours
