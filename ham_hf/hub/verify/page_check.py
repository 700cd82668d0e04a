"""Compare README.md with its front matter and report.html with what report.json makes.

Both are renderings of report.json and the files beside it, so that the expected text is known to the byte; every line
that differs is reported. Added lines without a figure are neither true nor false. Of a page that another version of
ham_hf wrote, only the figures are compared.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from ham_hf import __version__
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.hub.published_files import EVAL_RESULTS
from ham_hf.hub.upload import check_repo_id
from ham_hf.hub.verify.claims import CARD, Card, read_card
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, MALFORMED, Finding, unreadable
from ham_hf.reporting.eval_results import FOLDER, render_eval_results
from ham_hf.reporting.html import render_html
from ham_hf.reporting.model_card import REPO_ID, card_data, read_files, render_page
from ham_hf.reporting.plots import SPLIT_PICTURES
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_text, scan_yaml

_SHOWN = 70  # characters of a line
_MOST_LINES = 5000  # of a page: comparing takes their number squared, in the worst case
_NUMBER_WORDS = (
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million percent "
    "percentage half quarter third"
)
_IN_WORDS = re.compile(rf"\b({'|'.join(_NUMBER_WORDS.split())})\b|%", flags=re.IGNORECASE)


def check_pages(folder: Path, report: Mapping, repo_id: str | None = None) -> list[Finding]:
    """Return where README.md, report.md, report.html and .eval_results differ from what report.json makes.

    Args:
        folder: with the pages and all that they are made of.
        report: report.json's content.
        repo_id: where on the Hub the folder is from, which the card's commands have to name; None for any.
    """
    found = []
    if (folder / CARD).is_file():
        found += check_front_matter(folder, report) + check_page(folder, report, repo_id)
    if (folder / "report.md").is_file():  # written by version 0.1.0, with the sections of the card
        found += _check_rendering(folder / "report.md", report, lambda: _page(folder, report))
    if (folder / "report.html").is_file():
        found += _check_rendering(folder / "report.html", report, lambda: _html(folder, report))
    if (folder / EVAL_RESULTS).is_file():
        expected = _check_rendering(folder / EVAL_RESULTS, report, lambda: render_eval_results(report))
        found += [finding._replace(where=f"{FOLDER}/{finding.where}") for finding in expected]
    return found


# The front matter


def check_front_matter(folder: Path, report: Mapping) -> list[Finding]:
    """Return every key in which a front matter differs from what report.json makes, and every comment in it."""
    card = read_card(folder / CARD)
    try:
        data = card_data(report)
        expected, text = data.to_dict(), data.to_yaml(line_break="\n")
    except MALFORMED as error:
        return [unreadable(error)]
    found = []
    for place, ours, theirs in _differing_values(card.values, expected):
        where = f"{CARD}, front matter, {place}"
        if ours is ...:
            found.append(_finding(report, where, FALSE, f"is missing, report.json has {_short(theirs)}"))
        elif theirs is ...:
            found.append(Finding(where, CANNOT_TELL, f"report.json makes no such entry: {_short(ours)}"))
        else:
            found.append(_finding(report, where, FALSE, f"{_short(ours)}, where report.json has {_short(theirs)}"))
    found += _names_within(card)
    if not found:
        lines = set(text.split("\n"))
        for number, line in enumerate(card.front.split("\n"), card.line - card.front.count("\n")):
            if "#" in line and line not in lines:
                found.append(Finding(f"{CARD}, line {number}", CANNOT_TELL, f"a comment: {line.strip()[:_SHOWN]}"))
    return found


def _names_within(card: Card) -> list[Finding]:
    """Anchors, aliases, tags and the like: words in the front matter that are part of no value."""
    kinds = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken, yaml.DocumentEndToken)
    first = card.line - card.front.count("\n")
    lines = card.front.split("\n")
    return [
        Finding(f"{CARD}, line {first + at}", CANNOT_TELL, f"ham_hf writes no such YAML: {lines[at].strip()[:_SHOWN]}")
        for at in sorted({token.start_mark.line for token in scan_yaml(card.front) if isinstance(token, kinds)})
    ]


def _differing_values(ours: Any, theirs: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield place, value here and value expected of what differs; Ellipsis for what one of them lacks."""
    match ours, theirs:
        case dict(), dict():
            for key in [*theirs, *(key for key in ours if key not in theirs)]:
                yield from _differing_values(ours.get(key, ...), theirs.get(key, ...), f"{place}.{key}".strip("."))
        case list(), list():
            for number, pair in enumerate(zip_longest(ours, theirs, fillvalue=...)):
                yield from _differing_values(*pair, f"{place}[{number}]")
        case _ if ours != theirs or isinstance(ours, bool) != isinstance(theirs, bool):
            yield place, ours, theirs


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


# The page


def check_page(folder: Path, report: Mapping, repo_id: str | None = None) -> list[Finding]:
    """Return every line in which the page of README.md differs from what report.json makes."""
    card = read_card(folder / CARD)
    try:
        expected = _page(folder, report)
    except MALFORMED as error:
        return [unreadable(error)]
    named = _repo_id_of(card.page)
    found = []
    if named != REPO_ID and repo_id not in (None, named):
        found.append(Finding(CARD, CANNOT_TELL, f"its commands are for {named}, but this is {repo_id}"))
    expected = "\n" + expected.replace(REPO_ID, named)
    found += _differences(CARD, card.page, expected, card.line, report)
    return found


def _page(folder: Path, report: Mapping) -> str:
    return render_page(report, _pictures(folder), read_files(folder))


def _repo_id_of(page: str) -> str:
    """Return the repository in the page's commands, if its name is valid; otherwise the placeholder."""
    found = re.search(r'^classify = pipeline\("image-classification", model="([^"\n]+)"', page, flags=re.MULTILINE)
    try:
        check_repo_id(found[1] if found else REPO_ID)
    except InputError:
        return REPO_ID
    return found[1] if found and found[1].isascii() else REPO_ID


def published_as(folder: Path) -> str | None:
    """Return the repository that a card's commands name; None for a card that was not published, or no card."""
    named = _repo_id_of(read_card(folder / CARD).page) if (folder / CARD).is_file() else REPO_ID
    return None if named == REPO_ID else named


def _pictures(folder: Path) -> list[str]:
    """Return the pictures in `folder` that a report shows, by the names that ham-hf gives them."""
    splits = [f"{name}_{split}.png" for split in ("validation", "test") for name in SPLIT_PICTURES]
    return [name for name in ("loss.png", "learning_rate.png", *splits) if (folder / "plots" / name).is_file()]


def _html(folder: Path, report: Mapping) -> str:
    pictures = {name: (folder / "plots" / name).read_bytes() for name in _pictures(folder)}
    labels = report["run"]["model"]["labels"]
    predictions = {
        split: read_predictions(folder / f"predictions_{split}.csv", labels) if results is not None else None
        for split, results in report["results"].items()
    }
    return render_html(report, pictures, predictions)


def _check_rendering(path: Path, report: Mapping, render: Callable[[], str]) -> list[Finding]:
    try:
        expected = render()
    except InputError as error:
        return [Finding(path.name, CANNOT_TELL, f"it was not compared: {error}")]
    except MALFORMED as error:
        return [unreadable(error)]
    return _differences(path.name, read_text(path), expected, 0, report)


def _differences(name: str, text: str, expected: str, before: int, report: Mapping) -> list[Finding]:
    """Return where `text`, which begins after line `before` of the file `name`, differs from `expected`."""
    page, lines = text.rstrip("\n").split("\n"), expected.rstrip("\n").split("\n")
    if max(len(page), len(lines)) > _MOST_LINES:
        return [Finding(name, CANNOT_TELL, f"a page of more than {_MOST_LINES:,} lines was not compared")]
    if report.get("ham_hf") != __version__ or name == "report.md":
        return _differing_figures(name, page, lines, before, report)
    differing = list(_differing(page, lines))
    missing = sum(line is not None for *_, line in differing)
    if missing > len(lines) / 2:
        return [_another_page(name)]
    found = []
    for number, ours, theirs in differing:
        added = theirs is None and not _has_figure(ours or "")
        words, where = _words(ours, theirs), f"{name}, line {before + number}"
        found.append(Finding(where, CANNOT_TELL, words) if added else _finding(report, where, FALSE, words))
    return found


def _differing_figures(
    name: str, page: Sequence[str], expected: Sequence[str], before: int, report: Mapping
) -> list[Finding]:
    """Return where the figures of a page by another version differ, whose sentences may well be others.

    A row of a table must have the same figures as a row of the expected page; every other line, figures that occur in
    the expected page. Neither proves anything false.
    """
    if list(map(_plain, page)) == list(map(_plain, expected)):
        return []
    known_version = "ham_hf" in report and name != "report.md"
    version = f"ham_hf {report['ham_hf']}" if known_version else "an earlier ham_hf"
    found = [
        Finding(
            name,
            CANNOT_TELL,
            f"was written by {version}, and this is {__version__}: its figures were compared, its sentences were not",
        )
    ]
    rows = {_figures(line) for line in expected if _is_row(line)}
    known = {figure for line in expected for figure in _figures(line)}
    for number, line in enumerate(page, start=before + 1):
        figures = _figures(line)
        if figures not in rows if _is_row(line) else not known.issuperset(figures):
            found.append(Finding(f"{name}, line {number}", CANNOT_TELL, _words(line, None)))
    here = {_figures(line) for line in page if _is_row(line)}
    missing = [line for line in expected if _is_row(line) and _figures(line) not in here and name != "report.md"]
    if len(missing) > len(rows) / 2:
        return [_another_page(name)]
    return found + [Finding(name, CANNOT_TELL, _words(None, line)) for line in missing]


def _another_page(name: str) -> Finding:
    return Finding(name, CANNOT_TELL, "is not the page that report.json makes: its text was not compared")


def _is_row(line: str) -> bool:
    return line.startswith(("| ", "<tr>"))


def _figures(line: str) -> tuple[str, ...]:
    """Return the figures of a line, without those in embedded pictures and in the hashes of a security policy."""
    return tuple(re.findall(r"\.?\d(?:[\d.,]*\d)?", re.sub(r"data:image/[^\"]*|sha256-[^']*", "", line)))


def _finding(report: Mapping, where: str, verdict: str, words: str) -> Finding:
    """Return a difference from what report.json makes, which proves nothing if another version made it."""
    if report.get("ham_hf") == __version__:
        return Finding(where, verdict, words)
    version = f"ham_hf {report['ham_hf']}" if "ham_hf" in report else "an earlier ham_hf"
    beginning = f"differs from what report.json makes, but that is of {version}, this is {__version__}"
    return Finding(where, CANNOT_TELL, f"{beginning}: {words}")


def _differing(page: Sequence[str], expected: Sequence[str]) -> Iterator[tuple[int, str | None, str | None]]:
    """Yield the line number in `page`, the line, and the expected one; None for a line that one of them lacks."""
    plain = [[_plain(line) for line in lines] for lines in (page, expected)]
    for tag, start, end, first, last in difflib.SequenceMatcher(
        None, plain[0], plain[1], autojunk=False
    ).get_opcodes():
        if tag != "equal":
            for number, line in zip_longest(range(start, end), expected[first:last]):
                yield (start if number is None else number) + 1, None if number is None else page[number], line


def _plain(line: str) -> str:
    """Return a line to compare: `ham-hf push` shortens paths, which may then need no quotation marks."""
    return re.sub(r"['\"]|&#3[49];", "", line) if "ham-hf " in line else line


def _has_figure(line: str) -> bool:
    return any(character.isnumeric() for character in line) or _IN_WORDS.search(line) is not None


def _words(line: str | None, expected: str | None) -> str:
    if expected is None:
        return f"report.json makes no such line: {(line or '').strip()[:_SHOWN] or 'an empty line'}"
    if line is None:
        return f"a line of report.json is missing here: {expected.strip()[:_SHOWN] or 'an empty line'}"
    start = len(os.path.commonprefix([line, expected]))
    start = max(line.rfind(" ", 0, start), 0)
    label = line[: min(start, 30)].strip(" |")
    here, there = (text[start : start + _SHOWN].strip(" |") for text in (line, expected))
    return f"{label}: {here}, where report.json has {there}"
