"""Collect and print the results of `ham-hf verify`."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ham_hf.hub.published_files import CHECKSUMS, EVAL_RESULTS, PATIENT_DATA, RECORD
from ham_hf.hub.verify.claim_check import Verdict, is_number, share_of
from ham_hf.hub.verify.claims import CARD
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, HOLDS, Finding
from ham_hf.reporting.formats import number
from ham_hf.system.terminal import printable

_LISTED = 20  # findings
_FILES = 8  # names of files
_WIDEST, _LONGEST = 40, 400  # characters of what a card says, and of a reason
_MODEL_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "*.py")
_WEIGHTS = ("model.safetensors",)
_SHARDS = ("model-*-of-*.safetensors", "model.safetensors.index.json")
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
_OUR_FILES: tuple[str, ...] = ("report.html", "report.json", "report.md", "run.json", CHECKSUMS, RECORD, EVAL_RESULTS)
_OUR_FILES += ("predictions_validation.csv", "predictions_test.csv", *PATIENT_DATA)
# Named in words
_UNREADABLE = {
    "plots/*.png": "the pictures in plots",
    "arguments.json": "most of arguments.json",
    "recipe.yaml": "recipe.yaml",
}


class Verification(NamedTuple):
    """A verdict for each claim, other findings, and what was not checked, in words."""

    verdicts: list[Verdict]
    findings: list[Finding]
    unchecked: list[str]


def exit_code(verification: Verification) -> int:
    """Return 0 if all holds, 1 if something is false, 2 if nothing is but something cannot be told."""
    items: list[Verdict | Finding] = [*verification.verdicts, *verification.findings]
    found = {item.verdict for item in items}
    return 1 if FALSE in found else 2 if CANNOT_TELL in found else 0


def render(verification: Verification) -> str:
    """Return a line for each claim (split, metric, claimed, measured, difference, interval, verdict), then a line for
    each finding, the counts, and what was not checked."""
    rows: list[tuple[str, ...]] = [
        ("split", "metric", "claimed", "measured", "difference", "95 % interval", "verdict")
    ]
    rows += [_row(verdict) for verdict in verification.verdicts]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    cells = [[*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]] for row in rows]
    words = {HOLDS: "hold", FALSE: "false", CANNOT_TELL: "cannot be told"}
    found = [item.verdict for item in verification.verdicts]
    counts = ", ".join(f"{found.count(verdict)} {word}" for verdict, word in words.items())
    # What is false comes first: a card with many lines changed must not push it off the list
    ranked = sorted(verification.findings, key=lambda finding: finding.verdict != FALSE)
    findings = [printable(f"{where}: {verdict}: {said}")[:_LONGEST] for where, verdict, said in ranked]
    rest = [f"… and {len(findings) - _LISTED} more", ""] if len(findings) > _LISTED else [""] if findings else []
    summary = f"{len(found)} claims: {counts}." + (f" Not among them, above: {len(findings)}." if findings else "")
    unchecked = printable(f"Not checked: {'; '.join(verification.unchecked)}.")
    return "\n".join([*map("  ".join, cells), "", *findings[:_LISTED], *rest, summary, unchecked])


def _row(of: Verdict) -> tuple[str, ...]:
    claimed, measured, interval = of.claim.value, of.measured, of.interval
    place = "" if of.claim.where == CARD else f" ({of.claim.where})"
    return (
        _cell(of.claim.split),
        _cell(of.claim.metric.get("type")),
        f"{claimed:.4f}" if is_number(claimed) else _cell(claimed),
        "–" if measured is None else f"{measured:.4f}",
        "–" if measured is None else f"{measured - share_of(of.claim)[0]:+.4f}",
        "–" if interval is None else f"[{number(interval[0])}, {number(interval[1])}]",
        of.verdict + (f": {printable(of.reason)[:_LONGEST]}" if of.reason else "") + printable(place),
    )


def _cell(value: Any) -> str:
    """Return text from a card that is safe to print on one line of a terminal."""
    text = printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def unchecked(files: Sequence[str], report: Mapping | None, *, record: bool, reads_patient: bool) -> list[str]:
    """Return in words what no check looks at.

    Args:
        files: the names of all files beside the card.
        report: report.json's content, if it is one of ours and whole.
        record: whether the model has a record of its training images.
        reads_patient: whether it reads the patient's data, and so has a tokenizer.
    """
    known = (CARD, *_MODEL_FILES, *(_WEIGHTS if _WEIGHTS[0] in files else _SHARDS))
    known += _TEXT_FILES if reads_patient else ()
    if report is None:
        words = [f"the text of {CARD} and its front matter beside the results in model-index"]
        if not record:
            words.append("whether the model was trained on images that it was evaluated on")
    else:
        known = (*known, *_OUR_FILES, *_UNREADABLE, "ablation/*.csv")
        words = ["the base model and what it has seen", "whether the training used other images than it recorded"]
        words += ["what report.json says of the training", "hardware, versions, bfloat16 and the command line"]
        words.append("the names of repositories, files, folders and members in README.md and report.json")
        words += [said for pattern, said in _UNREADABLE.items() if any(_matches(name, (pattern,)) for name in files)]
        if report["run"]["data"].get("local_features"):
            words.append("the pairs of images found by local features, unless this machine has searched for them")
        if report["ablation"] is not None or any(_matches(name, ("ablation/*.csv",)) for name in files):
            words.append("the ablation")
    words.append("what the configuration files say that changes no prediction")
    others = sorted({_top(name) for name in files if not _matches(name, known) and name != ".gitattributes"})
    if others:
        more = f" and {len(others) - _FILES} more" if len(others) > _FILES else ""
        words.append(f"the files {', '.join(others[:_FILES])}{more}")
    return words


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)


def _top(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first + slash
