"""The exceptions for what a user can mend; the commands print them without a traceback."""


class InputError(ValueError):
    """What was given, what was expected, and what to do, in one message."""

    exit_code = 2


class MachineError(InputError):
    """Nothing is wrong with what was asked: a disk is full, another process is at work. The same command goes on."""

    exit_code = 3
