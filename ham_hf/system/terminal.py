"""Print text of unknown origin safely, and keep the output of other libraries readable.

A terminal would obey the control characters in a file name, a label or a model card.
"""

import logging
import os
import re
import sys


def printable(text: str) -> str:
    r"""Return `text` in one line, with characters that cannot be seen written as \x1b (escape), \n (new line) and so
    on.

    A byte of a file name that is not UTF-8 becomes \udcff.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_lines(text: str) -> str:
    """Return `text` as `printable` does, but keep lines and tabs."""
    return "".join(piece if piece in "\n\t" else printable(piece) for piece in re.split(r"([\n\t])", text))


def show_log() -> None:
    """Show what ham_hf logs, one line each on stderr, and only the warnings of other packages."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ham_hf").setLevel(logging.INFO)


def keep_stderr_readable() -> None:
    """Silence what libraries print for no reason, and progress bars if stderr is not a terminal.

    Call it before the libraries are imported.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a notice about its cache folder
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
