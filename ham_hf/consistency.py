"""Does a card's page say what its report.json says, and report.json what was measured? For a card of ours.

The page is a rendering of report.json and can be rendered again; the results in report.json come of the model's
answers and can be computed again. The course of the training and the ablation are compared with report.json alone.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from ham_hf import __version__
from ham_hf.card import REPO_ID, read_files, render_page
from ham_hf.provenance import weights_sha256
from ham_hf.reading import read_json, read_text
from ham_hf.report import strict

# Between two computations on the same images: float noise may turn an answer or two, never a thousandth
TOLERANCE = 1e-3
HOLDS, FALSE, CANNOT_TELL = "holds", "FALSE", "cannot tell"
_SHOWN = 70  # characters of a line
_MOST_LINES = 5000  # of a page: comparing takes their number squared, in the worst case
# What a report.json of other values than ours makes of a rendering or a comparison
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


class Finding(NamedTuple):
    """What is wrong at a place, such as "README.md, line 57"; `verdict` is FALSE or CANNOT_TELL."""

    where: str
    verdict: str
    words: str


def read_report(folder: Path) -> dict | None:
    """What report.json beside a card holds; None where there is none, or none of ours.

    Raises:
        InputError: it was ours, and is no JSON any more.
    """
    path = folder / "report.json"
    if not path.is_file():
        return None
    report = read_json(path)
    ours = isinstance(report, dict) and {"schema", "run"} <= report.keys() and isinstance(report.get("results"), dict)
    return report if ours else None


# The page


def check_page(folder: Path, report: Mapping) -> list[Finding]:
    """Every line with a figure in which README.md differs from what report.json makes."""
    if not (folder / "README.md").is_file():
        return []
    text = read_text(folder / "README.md")
    page = _page(text)
    try:
        expected = render_page(report, re.findall(r"\]\(plots/([\w.-]+)\)", page), read_files(folder))
    except _MALFORMED as error:
        return [_unreadable(error)]
    repo_id = re.search(r'pipeline\("image-classification", model="([^"]+)"', page)
    expected = expected.replace(REPO_ID, repo_id[1] if repo_id else REPO_ID)
    if max(page.count("\n"), expected.count("\n")) > _MOST_LINES:
        return [Finding("README.md", CANNOT_TELL, f"a page of more than {_MOST_LINES:,} lines was not compared")]
    before = text[: len(text) - len(page)].count("\n")
    found = [(before + line, *pair) for line, *pair in _differing(page.split("\n"), expected.split("\n"))]
    figures = sum(map(_has_figure, expected.split("\n")))
    if len(found) > figures / 2:
        return [Finding("README.md", CANNOT_TELL, "another page than report.json makes: its text was not compared")]
    if found and report.get("ham_hf") != __version__:
        version = f"ham_hf {report['ham_hf']}" if "ham_hf" in report else "an earlier ham_hf"
        words = f"differs from what report.json makes, but that is of {version}, this is {__version__}"
        return [Finding(f"README.md, line {line}", CANNOT_TELL, words) for line, *_ in found]
    return [Finding(f"README.md, line {line}", FALSE, _words(ours, theirs)) for line, ours, theirs in found]


def _page(text: str) -> str:
    """A card without its front matter."""
    front = re.match(r"\s*---\n.*?\n---\n", text, flags=re.DOTALL)
    return text[front.end() :] if front else text


def _differing(page: Sequence[str], expected: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Lines with a figure: the number in `page`, the line, what is expected; "" for a line that one of them lacks."""
    plain = [[_plain(line) for line in lines] for lines in (page, expected)]
    for tag, start, end, first, last in difflib.SequenceMatcher(None, *plain, autojunk=False).get_opcodes():
        if tag != "equal":
            ours = [number for number in range(start, end) if _has_figure(page[number])]
            theirs = [line for line in expected[first:last] if _has_figure(line)]
            for number, line in zip_longest(ours, theirs):
                yield (start if number is None else number) + 1, "" if number is None else page[number], line or ""


def _plain(line: str) -> str:
    """What a line says: push_to_hub.py cuts paths, which may take the need for a quotation mark away."""
    return re.sub(r"[\\'\"]", "", line).strip()


def _has_figure(line: str) -> bool:
    return re.search(r"\d", line) is not None


def _words(line: str, expected: str) -> str:
    if not expected:
        return f"report.json makes no such line: {line.strip()[:_SHOWN]}"
    if not line:
        return f"a line of report.json is missing here: {expected.strip()[:_SHOWN]}"
    start = len(os.path.commonprefix([line, expected]))
    start = max(line.rfind(" ", 0, start), 0)
    label = line[: min(start, 30)].strip(" |")
    here, there = (text[start : start + _SHOWN].strip(" |") for text in (line, expected))
    return f"{label}: {here}, where report.json has {there}"


# The weights


def check_weights(folder: Path, report: Mapping) -> list[Finding]:
    """Whether the weights in `folder` are those whose figures report.json has; an older one does not say."""
    try:
        reported = report["run"]["model"].get("weights_sha256")
    except _MALFORMED as error:
        return [_unreadable(error)]
    there = weights_sha256(folder)
    if reported is None or reported == there:
        return []
    changed = sorted(name for name in there if not isinstance(reported, dict) or reported.get(name) != there[name])
    words = "its weights are not those that report.json has the figures of (another SHA-256)"
    return [Finding(name, FALSE, words) for name in changed or ["model.safetensors"]]


# The results


def check_results(
    report: Mapping, measured: Mapping[str, Mapping], hashes: Mapping[str, str], parts: Sequence[str]
) -> list[Finding]:
    """Every figure of the splits `parts` in which report.json differs from what was `measured`.

    Args:
        report: report.json's content.
        measured: by split, what `split_results` gives; a split without images is left out.
        hashes: by split, the SHA-256 of the images that were measured.
        parts: splits of report.json with results.
    """
    found = []
    try:
        for part in parts:
            where, theirs = f"report.json, {part}", dict(report["results"][part])
            if part not in measured or report["run"]["data"]["splits"][part]["sha256"] != hashes[part]:
                found.append(Finding(where, CANNOT_TELL, "it is about other images than these"))
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
            different = _different(theirs, ours, TOLERANCE * ours["images"])
            found += [
                Finding(where, FALSE, f"{name} is {figure}, measured {other}") for name, figure, other in different
            ]
    except _MALFORMED as error:
        found.append(_unreadable(error))
    return found


def _groups(subgroups: Mapping[str, Sequence[Mapping]] | None) -> list[tuple] | None:
    if subgroups is None:
        return None
    counts = ("group", "images", "lesions", "diagnoses")
    return [(field, *(group[key] for key in counts)) for field, groups in subgroups.items() for group in groups]


def _different(theirs: Any, ours: Any, answers: float, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, claimed, measured of what differs; in the confusion matrix `answers` may have moved."""
    match theirs, ours:
        case dict(), dict() if theirs.keys() == ours.keys():
            for key in ours:
                yield from _different(theirs[key], ours[key], answers, f"{name} {key}".strip())
        case list(), list() if len(theirs) == len(ours):
            for number, pair in enumerate(zip(theirs, ours, strict=True), 1):
                yield from _different(*pair, answers, f"{name} {number}")
        case int() | float(), int() | float():
            if not abs(theirs - ours) <= (answers if name.startswith("confusion_matrix") else TOLERANCE):
                yield name, theirs, ours
        case _ if theirs != ours:
            yield name, theirs, ours


def _unreadable(error: Exception) -> Finding:
    words = f"not as `ham-hf report` writes it ({type(error).__name__}: {error}), so nothing was compared with it"
    return Finding("report.json", CANNOT_TELL, words)
