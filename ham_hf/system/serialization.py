"""JSON and YAML that anybody may have written: bounded, no code in it is run, and what is wrong is an InputError."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ham_hf.system.errors import InputError

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]  # the same interface

# Of one file, or of a card's front matter. PyYAML's own scanner takes a minute for what libyaml reads in a second
MOST_YAML = 1_000_000  # characters
MOST_NODES = 200_000  # keys, values and lists, those that an alias repeats counted again
MOST_DEPTH = 50
MOST_DIGITS = 100  # characters of a number: PyYAML multiplies 1:10:10:… out, in minutes for a megabyte
_NUMBER = re.compile(r"[-+]?[.0-9][-+.:_0-9a-fA-FoxX]*")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)|[-+]?[0-9]*\.[0-9]*(e[-+]?[0-9]+)?|[-+]?\.inf|\.nan", flags=re.IGNORECASE)


class _Loader(SafeLoader):
    """The safe loader, except that a key that is given twice is an error.

    PyYAML is of YAML 1.1, in which 052 is 42 and 1_0 is 10. The Hub and other programs show 52, or the text: such a
    number stays the text that it is.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key in seen:
                raise ValueError(f"{key[:80]!r} occurs twice: remove one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        return super().construct_yaml_int(node) if _DECIMAL.fullmatch(node.value) else node.value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        return super().construct_yaml_float(node) if _DECIMAL.fullmatch(node.value) else node.value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file; raise InputError if it is not one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: it cannot be read, is no JSON, nests too deeply, or has half a character in a string.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # "\ud800" is JSON, and in no file that could be written
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from error
    return value


def parse_yaml(text: str, where: str | Path) -> Any:
    """Return a YAML document as plain values; `where` is for messages.

    Raises:
        InputError: it is too long, no YAML, asks for more than plain values, or grows when its aliases are followed.
    """
    if len(text) > MOST_YAML:
        raise InputError(f"{where} has {len(text):,} characters of YAML: expected {MOST_YAML:,} at most")
    try:
        _check_growth(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date such as 2001-99-99
        raise InputError(f"{where} is not readable YAML: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:  # of PyYAML's constructors, for values such as !!bool x
        raise InputError(f"{where} is not readable YAML: {type(error).__name__} {error}, of a tag") from error


def scan_yaml(text: str) -> Iterator[yaml.Token]:
    """Yield the tokens of a YAML document that `parse_yaml` reads."""
    return yaml.scan(text, Loader=SafeLoader)


def _check_growth(text: str) -> None:
    """Raise ValueError if aliases of aliases would make a small file an enormous value ("a billion laughs")."""
    sizes: dict[str | None, int] = {}  # of what has an anchor
    around: list[list] = [[None, 0]]  # anchor and size so far of each collection that is open
    for event in yaml.parse(text, Loader=SafeLoader):
        match event:
            case yaml.AliasEvent(anchor=anchor):
                if any(anchor == open_anchor for open_anchor, _ in around):
                    raise ValueError(f"*{anchor} is inside what it stands for: write it out")
                around[-1][1] += sizes.get(anchor, 1)
            case yaml.ScalarEvent(anchor=anchor, value=value, tag=tag, implicit=(plain, _)):
                if len(value) > MOST_DIGITS and (plain or tag) and _NUMBER.fullmatch(value):
                    raise ValueError(f"a number has {len(value):,} characters: expected {MOST_DIGITS} at most")
                sizes[anchor] = 1
                around[-1][1] += 1
            case yaml.CollectionStartEvent(anchor=anchor):
                around.append([anchor, 1])
            case yaml.CollectionEndEvent():
                anchor, size = around.pop()
                sizes[anchor] = size
                around[-1][1] += size
        if len(around) > MOST_DEPTH or around[-1][1] > MOST_NODES:
            raise ValueError(
                f"its values are nested more than {MOST_DEPTH} levels deep, or are more than {MOST_NODES:,} once its "
                "aliases are expanded: write them out"
            )
