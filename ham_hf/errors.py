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


def cannot_write(folder: Path, error: OSError, remedy: str) -> InputError:
    """Of the machine where the disk is full; else of what was asked, such as a folder that is another user's."""
    kind = MachineError if error.errno in FULL_DISK else InputError
    return kind(f"{folder} cannot be written ({error.strerror}): {remedy}")
