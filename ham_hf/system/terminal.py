"""Text of others, fit for a terminal: it would obey the control characters in a file's name, a label or a card."""

import logging
import re


def printable(text: str) -> str:
    r"""`text` in one line, whatever cannot be seen spelt out: \x1b for an escape, \n for a new line, \udcff for a byte
    of a file's name that is no UTF-8."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_lines(text: str) -> str:
    """The same, but lines and tabs stay."""
    return "".join(piece if piece in "\n\t" else printable(piece) for piece in re.split(r"([\n\t])", text))


def show_log() -> None:
    """Show what ham_hf logs, one line each on stderr, and only the warnings of other packages."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ham_hf").setLevel(logging.INFO)
