"""The exceptions for what a user can mend; the commands print them without a traceback."""

import errno
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class InputError(ValueError):
    """What was given, what was expected, and what to do, in one message."""

    exit_code = 2


class MachineError(InputError):
    """Nothing is wrong with what was asked: a disk is full, another process is at work. The same command goes on."""

    exit_code = 3


class TrainingError(InputError):
    """The settings of a training do not work: its loss diverged, or they do not fit the model, the data or each other.

    Running the same command again would fail again, which is not so for a missing file or a lost network.
    """

    exit_code = 4


def error_kind(error: OSError) -> type[InputError]:
    """Return MachineError where the disk is full, else InputError."""
    return MachineError if error.errno in FULL_DISK else InputError


def cannot_write(folder: Path, error: OSError, remedy: str) -> InputError:
    """Of the machine where the disk is full; else of what was asked, such as a folder that is another user's."""
    return error_kind(error)(f"{folder} cannot be written ({error.strerror}): {remedy}")
