"""`--label_map`: what a model's own labels mean, the same option in every command that loads a model."""

import argparse
import json

from ham_hf.system.errors import InputError

HELP = (
    'what the model\'s own labels mean, such as \'{"SCC": "akiec", "other": null}\'; null drops one. The seven codes '
    "and their full names need no entry"
)


def add_label_map(parser: argparse.ArgumentParser) -> None:
    """Add the option; the parsed arguments have `label_map`, a dictionary."""
    parser.add_argument("--label_map", metavar="JSON", type=parse_label_map, default={}, help=HELP)


def parse_label_map(text: str) -> dict[str, str | None]:
    """Return label → code, or None for a label to drop.

    Raises:
        InputError: the text is not such a JSON object.
    """
    try:
        label_map = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--label_map is {text!r}: expected a JSON object ({error})") from None
    if not isinstance(label_map, dict) or not all(isinstance(code, str | None) for code in label_map.values()):
        raise InputError(f"--label_map is {text!r}: expected a JSON object, label → code or null")
    return label_map
