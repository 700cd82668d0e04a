"""A process that does not outlive the one that started it. No import here takes long."""

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TERMINATED = 128 + signal.SIGTERM  # the exit code that a shell gives to a process ended by SIGTERM


def run_child(module: str, words: Sequence[str]) -> int:
    """Run `python -m module words` in a child process that ends with this one, and return its exit code.

    When this process is asked to end, by SIGTERM or Ctrl-C, the child is ended and waited for first.
    """
    with (
        _sigterm_raised(),
        subprocess.Popen([sys.executable, "-m", __name__, module, *words], stdin=subprocess.PIPE) as child,
    ):
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that a training is ended before this process."""

    def end(*_) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with_parent() -> None:
    """End this process as soon as its standard input is closed, as it is when the parent ends or is killed."""

    def watch() -> None:
        os.read(0, 1)  # waits; the parent writes nothing
        os._exit(TERMINATED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
