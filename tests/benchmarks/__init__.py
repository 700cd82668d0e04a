"""Measure the speed of ham_hf and of alternatives on this machine; not part of the tests.

python -m tests.benchmarks.NAME        (in an otherwise quiet machine: the load average is printed with the figures)

A benchmark is a module with a `main` that calls `header` once, then `compare` once a question:

    header("torch", "transformers")
    compare("decode 500 images", ours=lambda: decode(files), peers={"Pillow": lambda: decode_with_pillow(files)})

A side is a function without arguments, all of whose call is timed; what it needs is made before. A side that times
itself (to leave out its own preparation, or to give the seconds of a whole epoch from a part of it) returns its
seconds; any other returns None. All sides of a question must do the same work.
"""

import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

Side = Callable[[], float | None]


class Ratio(NamedTuple):
    """How many times as long as ours a peer took: median, minimum and maximum of the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def header(*packages: str) -> None:
    """Print the machine, its load, and the versions of Python and of `packages`."""
    installed = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    print(f"{cpu()}, {cores()} cores for this process, load average {load()}")
    print(f"Python {platform.python_version()}" + (f", {installed}" if installed else ""))


def compare(
    question: str, ours: Side, peers: Mapping[str, Side], rounds: int = 5, warm_up: bool = True
) -> dict[str, Ratio]:
    """Time ours and each peer in turn, `rounds` times, and print and return each peer's ratio to ours.

    A ratio is of two times of the same round, so that a slow minute of the machine slows both; every other round runs
    backwards. `warm_up` runs every side once before, uncounted.
    """
    sides = {"ours": ours, **peers}
    if len(sides) < 1 + len(peers):
        raise ValueError("a peer is called 'ours': give it another name")
    if warm_up:
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            seconds[name].append(timed(sides[name]))
    print(f"\n{question} ({rounds} rounds, load average {load()})")
    print(f"  ours: {median(seconds['ours']):.4g} s")
    ratios = {}
    for name in peers:
        rounds_of = sorted(theirs / own for theirs, own in zip(seconds[name], seconds["ours"], strict=True))
        ratios[name] = Ratio(median(rounds_of), rounds_of[0], rounds_of[-1])
        print(f"  {name}: {median(seconds[name]):.4g} s, {ratios[name]} times ours")
    sys.stdout.flush()
    return ratios


def in_its_process(make: Callable[..., Side], *args) -> Side:
    """Run the side that `make(*args)` returns in its own process, so that its setup helps no other side.

    `make` and `args` are pickled; what it prepares is made once, and is not timed.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, make, args), daemon=True)
    process.start()
    ours.recv()  # ready

    def side() -> float:
        ours.send(None)
        return ours.recv()

    return side


def _serve(calls: Connection, make: Callable[..., Side], args: tuple) -> None:
    side = make(*args)
    calls.send(None)
    with suppress(EOFError):  # the parent has exited
        while True:
            calls.recv()
            calls.send(timed(side))


def timed(side: Side) -> float:
    """Return the seconds of one call of `side`, or the seconds that it returns."""
    started = time.perf_counter()
    own = side()
    return time.perf_counter() - started if own is None else own


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
