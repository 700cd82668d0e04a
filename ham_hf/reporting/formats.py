"""Numbers, names and Markdown tables as they appear in reports, cards and terminals."""

import math
import re
from collections.abc import Mapping, Sequence

from ham_hf.config.metric_names import HEADLINE
from ham_hf.labels import FULL_NAMES
from ham_hf.system.terminal import printable

SYNTHETIC = "Made from synthetic images: these numbers say nothing about skin."
SYNTHETIC_WARNING = f"> **⚠ {SYNTHETIC.upper()}**\n>\n> The images are drawn by a program; only the pipeline is real."

Table = tuple[list[str], list[list[str]]]  # header and rows, every cell a piece of Markdown


def number(value: float | None, interval: Sequence[float] | None = None, digits: int = 3) -> str:
    """Return ".741", or ".741 [.703, .779]"; a dash if the value is undefined."""
    if value is None or math.isnan(value):
        return "–"
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")
    return text if interval is None else f"{text} [{number(interval[0])}, {number(interval[1])}]"


def difference(value: float | None, interval: Sequence[float] | None) -> str:
    """Return "+.012 [-.004, +.028]"; a dash if the value is undefined."""
    if value is None or math.isnan(value):
        return "–"
    signed = [re.sub(r"^([+-])0\.", r"\1.", f"{part:+.3f}") for part in (value, *(interval or ()))]
    return signed[0] if interval is None else f"{signed[0]} [{signed[1]}, {signed[2]}]"


def percent(share: float) -> str:
    """Return "99.5 %"."""
    return f"{100 * share:.1f} %"


def count(value: int | None) -> str:
    """Return "1,992", or "unknown" for None."""
    return "unknown" if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """Return "1 h 2 min 3 s"."""
    hours, minutes = divmod(round(seconds) // 60, 60)
    return (f"{hours} h " if hours else "") + f"{minutes} min {round(seconds) % 60} s"


def of_lesions(lesions: int | None) -> str:
    """Return "of 20 lesions", or that their number is unknown."""
    return "of an unknown number of lesions" if lesions is None else f"of {lesions:,} lesions"


def images_of_lesions(results: Mapping) -> str:
    """Return "33 images of 20 lesions"."""
    return f"{results['images']:,} images {of_lesions(results['lesions'])}"


def headline_line(results: Mapping) -> str:
    """Return "balanced accuracy .741 [.703, .779] · accuracy … · always nv .672" from the results of a split."""
    metrics, constant = results["metrics"], results["always_nv"]
    parts = [
        f"{HEADLINE[name]} {number(metrics[name]['value'], metrics[name]['interval'])}"
        for name in ("balanced_accuracy", "accuracy")
    ]
    return " · ".join(parts + ([f"always nv {number(constant['accuracy'])}"] if constant is not None else []))


def escape(value: object) -> str:
    """Return a name given by a user so that Markdown shows it unchanged in a table, in a heading and on a terminal."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~$&!])", r"\\\1", printable(" ".join(str(value).split())))


def full_name(label: str) -> str:
    """Return "Melanoma (mel)"."""
    return f"{FULL_NAMES[label]} ({label})" if label in FULL_NAMES else escape(label)


def fence_around(text: str) -> str:
    """Return the line that begins and ends a block of code, longer than any such line in `text`."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    numeric = len(header) > 2 or header[1] == "found"
    alignment = ["---"] + ["---:" if numeric else "---"] * (len(header) - 1)
    return [f"| {' | '.join(cells)} |" for cells in [header, alignment, *rows]]
