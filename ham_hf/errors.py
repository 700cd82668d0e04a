"""The one exception for mistakes a user can mend; the commands print it without a traceback and exit with 2."""


class InputError(ValueError):
    """What was given, what was expected, and what to do, in one message."""
