"""Remove the paths of this machine and Hub tokens from files before they are published."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from markupsafe import escape

from ham_hf.system.errors import InputError
from ham_hf.system.serialization import parse_yaml

# Files that may contain paths of this machine or tokens; the paths are found in the second list
TEXTS = ("README.md", "report.html", "report.json", "run.json", "arguments.json", "recipe.yaml", "config.json")
WITH_PATHS = ("run.json", "arguments.json", "recipe.yaml")
TOKEN = r"\bhf_[A-Za-z0-9]{20,}"
BEFORE_A_PATH = r"(?<![\w./~+-])"  # no character of base64: the pictures in report.html contain slashes too


def redact(folder: Path) -> list[str]:
    """Replace paths of this machine and Hub tokens in the text files of `folder`.

    Returns:
        A line for each replacement, with the files it was made in.

    Raises:
        InputError: one of the files that `ham-hf train` wrote is not readable.
    """
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in TEXTS if (folder / name).is_file()}
    replacements = [(TOKEN, "<HUB_TOKEN>", "a Hub token → <HUB_TOKEN>")]
    for path in sorted(_local_paths(texts), key=len, reverse=True):
        name = re.split(r"[/\\]", path)[-1]
        # As it is, as JSON writes it beyond ASCII, as a command line with an apostrophe, and all of these in HTML
        spellings = {path, json.dumps(path)[1:-1], path.replace("'", "'\"'\"'")}
        for spelling in spellings | {str(escape(spelling)) for spelling in spellings}:
            match = re.fullmatch(r"(.*[/\\])(.+)", spelling)
            assert match is not None, spelling  # an absolute path has a separator
            start, end = map(_loose, match.groups())
            replacements.append((rf"{BEFORE_A_PATH}{start}({end})(?![\w-]|\.\w)", r"\1", f"{path} → {name}"))
    if len(Path.home().parts) > 1:
        replacements.append((rf"{BEFORE_A_PATH}{_loose(str(Path.home()))}(?=\\?[/\\])", "~", f"{Path.home()} → ~"))
    notes: dict[str, list[str]] = {}
    for name, text in texts.items():
        for pattern, replacement, note in replacements:
            text, count = re.subn(pattern, replacement, text)
            if count:
                notes.setdefault(note, []).append(name)
        if text != texts[name]:
            (folder / name).write_text(text, encoding="utf-8")
    return [f"replaced in the published copies: {note} ({', '.join(names)})" for note, names in notes.items()]


def _local_paths(texts: Mapping[str, str]) -> set[str]:
    """Return the absolute paths among the values of the files of a run, also as --option=/path."""
    found = set()
    for name in WITH_PATHS:
        if name not in texts:
            continue
        try:
            values = parse_yaml(texts[name], name) if name.endswith(".yaml") else json.loads(texts[name])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name} is not readable: {error}; restore the file that `ham-hf train` wrote") from error
        for value in _strings(values):
            path = re.sub(r"^--\w+=", "", value).rstrip("/\\")
            if path.startswith(("/", "~/")) or PureWindowsPath(path).is_absolute():
                found.add(path)
    return found


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)


def _loose(text: str) -> str:
    r"""Return a pattern for `text` as JSON and Markdown write it: with or without a \ before each character."""
    return "".join(rf"\\?{re.escape(character)}" for character in text)
