"""Run a command: its errors as one sentence and an exit code, --debug for the traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from ham_hf.system.errors import InputError, as_input_error
from ham_hf.system.terminal import keep_stderr_readable, printable_lines

# TrainingArguments has a --debug of its own, with one of these as its value
TRAINER_DEBUG_OPTIONS = ("underflow_overflow", "tpu_metrics_debug")


def run_command(command: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Call `command(argv)` and return an exit code: the command's own, an InputError's, 130 after Ctrl-C.

    A mistake of the user is reported as one message on stderr, by the main process only; `--debug` among the arguments
    shows the traceback too. Any other exception is a bug and passes through.
    """
    _open_closed_streams()
    keep_stderr_readable()
    argv, debug = _without_debug(sys.argv[1:] if argv is None else argv)
    try:
        code = command(argv) or 0
        sys.stdout.flush()  # here, where a reader that has gone is no traceback
        return code
    except InputError as error:
        if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
            _say((traceback.format_exc() if debug else "") + f"error: {printable_lines(str(error))}")
        return error.exit_code
    except BrokenPipeError:  # `ham-hf recipes | head`
        _drop_output(sys.stdout)
        return 141  # what a shell has for SIGPIPE
    except KeyboardInterrupt:
        _say("interrupted: run the same command with --resume to continue a run from its last checkpoint")
        return 130
    except Exception as error:
        said = as_input_error(error)
        if said is None:
            raise
        if isinstance(error, OSError) and error.filename is None:  # perhaps of stdout, whose rest would fail again
            _drop_unwritable_output()
        _say((traceback.format_exc() if debug else "") + f"error: {said}")
        return said.exit_code


def _open_closed_streams() -> None:
    """Give a process that was started with stdin, stdout or stderr closed (`>&-`) the null device in their place.

    The next file that is opened would otherwise be what C libraries and child processes write their output into.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)


def _drop_output(stream: TextIO) -> None:
    """Discard what Python flushes at exit, because the reader or the space for it is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _drop_unwritable_output() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output(sys.stdout)


def _say(message: str) -> None:
    """Print to stderr, and keep the exit code that it explains if stderr cannot be written."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        _drop_output(sys.stderr)


def _without_debug(argv: list[str]) -> tuple[list[str], bool]:
    kept = [
        word
        for i, word in enumerate(argv)
        if word != "--debug" or (i + 1 < len(argv) and argv[i + 1] in TRAINER_DEBUG_OPTIONS)
    ]
    return kept, len(kept) < len(argv)
