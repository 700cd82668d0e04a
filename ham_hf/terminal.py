"""Text of others, fit for a terminal: it would obey the control characters in a file's name, a label or a card."""


def printable(text: str) -> str:
    r"""`text` in one line, whatever cannot be seen spelt out: \x1b for an escape, \n for a new line, \udcff for a byte
    of a file's name that is no UTF-8."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_lines(text: str) -> str:
    """The same, but lines stay lines."""
    return "\n".join(map(printable, text.split("\n")))
