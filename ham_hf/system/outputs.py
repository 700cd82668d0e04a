"""Where the output of a command goes: a new file, or for tables also standard output, a device or a pipe."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ham_hf.system.errors import InputError
from ham_hf.system.files import descriptor_of, replacing, special_kind

STANDARD_OUTPUT = Path("-")
_WRITTEN_TO = ("a device", "a pipe")


def check_output(flag: str, path: Path, suffix: str = "") -> None:
    """Raise InputError if no file that ends in `suffix` can be written at `path`, before the work is done."""
    expected = f"expected the name of a file{f' that ends in {suffix}' if suffix else ''}"
    if what := special_kind(path):
        raise InputError(f"{flag} {path} is {what}: {expected}")
    if suffix and path.suffix != suffix:
        raise InputError(f"{flag} {path}: {expected}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{flag} {path}: {path.parent} does not exist or is not writable")


def check_table(flag: str, path: Path) -> None:
    """Raise InputError if `writing_table` could not write at `path`, before the work is done."""
    if _is_special(path):
        descriptor = _descriptor(path)
        try:
            if descriptor is not None:
                os.write(descriptor, b"")
        except OSError as error:
            raise InputError(
                f"{flag} {path}: nothing can be written to it ({error.strerror}): redirect it, or name a file"
            ) from error
    else:
        check_output(flag, path)


def is_standard_output(path: Path) -> bool:
    """Return whether a table at `path` goes to standard output, where nothing else may then be."""
    return _descriptor(path) == 1


@contextmanager
def writing_table(path: Path) -> Iterator[TextIO]:
    """Open a table for writing: `-`, /dev/stdout, /dev/fd/N, a device or a pipe gets each row at once.

    Anything else is a file, which appears whole at the end or not at all. Names of files in the table are bytes, and
    need not be UTF-8.

    Raises:
        InputError: a folder, a socket or a disk is at `path`.
    """
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    if _is_special(path):
        descriptor = _descriptor(path)
        with open(path if descriptor is None else os.dup(descriptor), "w", **text) as file:
            yield file
    else:
        with replacing(path) as unfinished, unfinished.open("w", **text) as file:
            yield file


def _is_special(path: Path) -> bool:
    return _descriptor(path) is not None or special_kind(path) in _WRITTEN_TO


def _descriptor(path: Path) -> int | None:
    return 1 if path == STANDARD_OUTPUT else descriptor_of(path)
