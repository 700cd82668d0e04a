"""Read the claims of a model card from its front matter (`model-index`) and `.eval_results/*.yaml`.

Everything that an entry says is kept, since all of it is part of the claim. An entry that is not as the Hub documents
it becomes a claim with a `problem`, and the others are read all the same.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ham_hf.reporting.eval_results import FOLDER, read_eval_results
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import parse_yaml, read_text

CARD = "README.md"


class Claim(NamedTuple):
    """A claimed figure and its context; `task`, `dataset` and `metric` are named as on the Hub.

    `others` holds whatever else the entry says, such as its source. `problem` says why the claim cannot be evaluated.
    """

    where: str
    task: Mapping = {}
    dataset: Mapping = {}
    metric: Mapping = {}
    others: Mapping = {}
    problem: str | None = None

    @property
    def split(self) -> str | None:
        return _text(self.dataset.get("split"))

    @property
    def config(self) -> str | None:
        return _text(self.dataset.get("config"))

    @property
    def revision(self) -> str | None:
        return _text(self.dataset.get("revision"))

    @property
    def sha256(self) -> str | None:
        """Return the hash of the claim's images, as ham_hf writes it; None for any other revision."""
        return self.revision if re.fullmatch(r"[0-9a-f]{64}", self.revision or "") else None

    @property
    def dataset_args(self) -> Mapping:
        return _mapping(self.dataset.get("args"))

    @property
    def metric_args(self) -> Mapping:
        return _mapping(self.metric.get("args"))

    @property
    def value(self) -> Any:
        return self.metric.get("value")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _mapping(value: Any) -> Mapping:
    """Return the arguments of a dataset or metric; the stock Trainer writes "default" if there are none."""
    if isinstance(value, dict):
        return value
    return {} if value in (None, "default") else {"args": value}


class Card(NamedTuple):
    """README.md in its parts: `front` is the text of the front matter, `values` what it says, `line` where `page`
    begins."""

    front: str
    values: dict
    page: str
    line: int


def read_card(path: Path) -> Card:
    """Return the parts of a model card.

    Not with ModelCard, which would follow aliases of aliases and read a megabyte in a minute.

    Raises:
        InputError: it is not UTF-8, or its front matter is not a YAML mapping.
    """
    text = read_text(path)
    found = re.match(r"\s*---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|$)", text, flags=re.DOTALL)
    if found is None:
        return Card("", {}, text, 0)
    front = found[1] or ""
    values = parse_yaml(front, f"the front matter of {path}")
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: its front matter cannot be read: expected keys and values, such as model-index")
    return Card(front, values or {}, text[found.end() :], found[0].count("\n"))


def read_claims(folder: Path) -> list[Claim]:
    """Return the claims in `model-index` of README.md, then those in .eval_results/*.yaml.

    Raises:
        InputError: the front matter cannot be read.
    """
    path = folder / CARD
    claims = list(claims_of_card(read_card(path).values)) if path.is_file() else []
    return claims + [Claim(where, **entry) for where, entry in read_eval_results(folder)]


def claims_of_card(values: Mapping) -> Iterator[Claim]:
    """Yield the claims of a front matter; `metric` of each is the mapping in `values` itself, so it can be edited."""
    for at, model in _items(values, "model-index", "model-index"):
        if isinstance(model, str):
            yield Claim(CARD, problem=model)
            continue
        for place, result in _items(model, "results", f"{at}.results"):
            if isinstance(result, str):
                yield Claim(CARD, problem=result)
            else:
                yield from _of_result(result, place)


def _of_result(result: Mapping, place: str) -> Iterator[Claim]:
    parts: dict[str, Any] = {}
    for name in ("task", "dataset"):
        parts[name] = result.get(name)
        if not isinstance(parts[name], dict) or not parts[name]:
            yield Claim(CARD, problem=f"{place} has no {name}")
            return
    others = {key: value for key, value in result.items() if key not in ("task", "dataset", "metrics")}
    metrics = list(_items(result, "metrics", f"{place}.metrics"))
    if not metrics:
        yield Claim(CARD, **parts, problem=f"{place} has no metrics")
    for at, metric in metrics:
        if isinstance(metric, str):
            yield Claim(CARD, **parts, problem=metric)
            continue
        missing = [key for key in ("type", "value") if metric.get(key) is None]
        problem = f"{at} has no {missing[0]}" if missing else None
        yield Claim(CARD, **parts, metric=metric, others=others, problem=problem)


def _items(values: Mapping, key: str, place: str) -> Iterator[tuple[str, Mapping | str]]:
    """Yield the place and the mapping of each item of a list; in place of one that is no mapping, what is wrong."""
    found = values.get(key)
    if found is None:
        return
    if not isinstance(found, list):
        yield place, f"{place} is {str(found)[:40]!r}: expected a list"
        return
    for number, item in enumerate(found):
        at = f"{place}[{number}]"
        yield at, item if isinstance(item, dict) else f"{at} is {str(item)[:40]!r}: expected keys and values"


def check_any(claims: list[Claim], folder: Path) -> None:
    """Raise InputError where a folder has no card, or its card makes no claim."""
    if claims:
        return
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} has no README.md, so there are no claims to check")
    raise InputError(
        f"{folder / CARD} makes no claims: its front matter has no model-index with results, and there is no "
        f"{FOLDER}/*.yaml. to score a model without claims, use `ham-hf evaluate`"
    )
