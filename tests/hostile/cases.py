"""Shared by the tests of hostile input: how many cases, how a file is broken, and how each case may end.

HAM_HF_FUZZ=20 pytest tests/hostile runs twenty times as many cases, others every time; the default is always the same.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ham_hf.system.errors import InputError

FACTOR = float(os.environ.get("HAM_HF_FUZZ", "1"))
SECONDS = 60  # for one case, on a machine that has much else to do
declared: list[int] = []  # the cases of each test, without FACTOR
tally: Counter = Counter()  # (kind, "read" or "refused") → cases


def cases(number: int) -> Callable:
    """For a test: run it on so many generated cases, times FACTOR."""
    declared.append(number)
    return settings(
        max_examples=max(1, round(number * FACTOR)),
        deadline=None,  # see SECONDS
        derandomize=FACTOR == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def ends_well(kind: str, call: Callable[[], Any]) -> Any:
    """Return what `call` returns, None for an InputError; any other exception fails, and so does taking long."""
    try:
        with within(SECONDS):
            result = call()
    except InputError as error:
        assert str(error).strip(), "an error without words"
        tally[kind, "refused"] += 1
        return None
    tally[kind, "read"] += 1
    return result


def or_refused(call: Callable[[], Any]) -> Any:
    """The same for what is no case of its own."""
    try:
        with within(SECONDS):
            return call()
    except InputError:
        return None


@contextmanager
def within(seconds: float):
    def too_long(*_):
        raise AssertionError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def blank_pictures(report: dict, *_) -> dict[str, bytes]:
    """In place of `ham_hf.reporting.plots.draw_plots`, whose pictures take most of a report's time."""
    names = ["loss.png", "learning_rate.png"] if report["run"]["training"] is not None else []
    for split in [split for split, results in report["results"].items() if results is not None]:
        names += [f"{kind}_{split}.png" for kind in ("precision_recall", "confusion_matrix", "roc", "reliability")]
    return {name: b"\x89PNG" + bytes(40) for name in names}


@st.composite
def broken(draw, original: bytes, head: int = 1 << 30) -> bytes:
    """`original` cut off, with bits or bytes changed, put in or taken out; mostly within the first `head` bytes."""
    data = bytearray(original)
    # Anywhere, where integers alone would mostly be small
    place = st.integers(0, 2**16).map(lambda number: number * 40_503 % min(head, len(original)))
    match draw(st.sampled_from(["cut", "bit", "bytes", "insert", "delete", "repeat", "zeros"])):
        case "cut":
            del data[draw(place) :]
        case "bit":
            data[draw(place)] ^= 1 << draw(st.integers(0, 7))
        case "bytes":
            for _ in range(draw(st.integers(1, 20))):
                data[draw(place)] = draw(st.sampled_from([0, 0xFF, 0x7F, 0x80, 0x20, 0x0A, 1]) | st.integers(0, 255))
        case "insert":
            at = draw(place)
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        case "delete":
            at = draw(place)
            del data[at : at + draw(st.integers(1, 60))]
        case "repeat":
            at, length = draw(place), draw(st.integers(1, 400))
            data[at:at] = data[at : at + length] * draw(st.integers(1, 4))
        case "zeros":
            at = draw(place)
            data[at : at + draw(st.integers(1, 300))] = bytes(20)
    return bytes(data)


ESCAPES = "\x1b[2J\x1b]0;owned\x07"
# Values that a file may have in place of the right one
JUNK = (
    *(None, True, False, -1, 0, 1, 3, 2**31, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x"),
    *("nv", "../../etc/passwd", "<script>alert(1)</script>", "a|b`c*d_e\n# f", ESCAPES, "\x00", "\ud800", "é" * 50),
    *("9" * 400, [], {}, [None], [[[[]]]], {"a": {"b": []}}, ["nv", "nv"], {"0": "nv"}, [1e400, -3]),
)


@st.composite
def changed(draw, original: Any, junk: tuple = JUNK) -> Any:
    """A JSON value with one to three of its parts replaced, removed, renamed or put elsewhere."""
    value = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        paths = list(_paths(value))
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        part = value
        for key in way:
            part = part[key]
        other = json.loads(json.dumps(draw(st.sampled_from(junk))))
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "nest", "move"])):
            case "remove":
                del part[last]
            case "rename" if isinstance(part, dict):
                part[draw(st.sampled_from(["x", "0", ESCAPES, "__class__", ""]))] = part.pop(last)
            case "nest":
                part[last] = [part[last]] if draw(st.booleans()) else {"x": part[last]}
            case "move":
                *elsewhere, key = draw(st.sampled_from(paths))
                from_there = value
                for step in [*elsewhere, key]:
                    from_there = from_there[step]
                part[last] = json.loads(json.dumps(from_there))
            case _:
                part[last] = other
    return value


def _paths(value: Any, way: tuple = ()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield (*way, key)
        yield from _paths(item, (*way, key))
