"""A card's claims as `.eval_results/*.yaml`, the files that the Hub reads for its leaderboards.

They complement `model-index`: a claim here has only a dataset, a task and a value. What else `ham-hf verify` needs is
in the notes of our claims.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from ham_hf.reporting.model_card import claims
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import parse_yaml, read_text

FOLDER = ".eval_results"
_PARTS = ("validation", "test")
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
# The notes of our claims, by name
_NOTES = {
    "split": r".+",
    "split seed": r"\d{1,10}",
    "list of duplicates": r".+",
    "SHA-256 of the images": r"[0-9a-f]{64}",
    "95 % interval": rf"{_NUMBER} to {_NUMBER}",
}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]{5,15} ?(Z|[+-][0-9:]{4,5})?)?")
_EXPECTED = (
    "expected a list of results, each with a dataset (id, task_id) and a value, as "
    "https://huggingface.co/docs/hub/eval-results says"
)


def render_eval_results(report: Mapping) -> str:
    """Return the claims of report.json's content as YAML."""
    entries = [
        EvalResultEntry(
            dataset_id=claim.dataset_type,
            task_id=f"{claim.dataset_split}_{claim.metric_type}",
            value=claim.metric_value,
            notes=_notes(claim),
        )
        for claim in claims(report)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000)


def _notes(claim: EvalResult) -> str:
    assert claim.dataset_args is not None  # `claims` gives all of them
    notes = {
        "split": claim.dataset_config,
        "split seed": claim.dataset_args.get("split_seed"),
        "list of duplicates": claim.dataset_args.get("same_lesion"),
        "SHA-256 of the images": claim.dataset_revision,
        "95 % interval": claim.metric_args and " to ".join(map(repr, claim.metric_args["interval"])),
    }
    return "; ".join(f"{name}: {value}" for name, value in notes.items() if value is not None)


def read_eval_results(folder: Path) -> Iterator[tuple[str, dict]]:
    """Yield the file and the content of each claim in `folder`/.eval_results, also if another tool wrote it.

    The content is in the terms of a `model-index`: task, dataset, metric, and others for what has no place there; or
    `problem`, which says why an entry or a file cannot be read. The id of a task names the split and the metric:
    test_accuracy, "accuracy/test"; without one of our splits the split is None.
    """
    for path in sorted((folder / FOLDER).glob("*.yaml")):
        where = f"{FOLDER}/{path.name}"
        try:
            entries = parse_yaml(read_text(path), path)
        except InputError as error:
            yield where, {"problem": str(error)}
            continue
        if not isinstance(entries, list) or not entries:
            yield where, {"problem": f"{path.name} cannot be read (no list of results): {_EXPECTED}"}
            continue
        for number, entry in enumerate(entries):
            problem = _problem(entry)
            if problem:
                yield where, {"problem": f"entry {number + 1} cannot be read ({problem}): {_EXPECTED}"}
            else:
                yield where, _claim(entry)


def _problem(entry: Any) -> str | None:
    """Return how an entry differs from what the Hub documents; None if it does not."""
    if not isinstance(entry, dict):
        return "no keys and values"
    dataset = entry.get("dataset")
    if not isinstance(dataset, dict):
        return "no dataset"
    missing = [key for key in ("id", "task_id") if dataset.get(key) is None]
    return f"no {missing[0]}" if missing else None if entry.get("value") is not None else "no value"


def _claim(entry: Mapping) -> dict:
    dataset = entry["dataset"]
    words = re.findall(r"[^\s_/.:|-]+", str(dataset["task_id"]).lower())
    parts = [word for word in words if word in _PARTS]
    notes, rest = _read_notes(entry.get("notes"))
    seed, interval = notes.get("split seed"), notes.get("95 % interval")
    args: dict[str, Any] = {"split_seed": int(seed)} if seed else {}
    if "list of duplicates" in notes:
        args["same_lesion"] = notes["list of duplicates"]
    others = {key: value for key, value in entry.items() if key not in ("dataset", "value", "notes", "date")}
    others |= {f"dataset.{key}": value for key, value in dataset.items() if key not in ("id", "task_id", "revision")}
    if rest:
        others["notes"] = rest
    if "revision" in dataset and "SHA-256 of the images" in notes:
        others["dataset.revision"] = dataset["revision"]
    if "date" in entry and not _DATE.fullmatch(str(entry["date"])):
        others["date"] = entry["date"]
    return {
        "task": {"type": "image-classification"},
        "dataset": {
            "type": str(dataset["id"]),
            "config": notes.get("split"),
            "split": parts[0] if len(parts) == 1 else None,
            "revision": notes.get("SHA-256 of the images", dataset.get("revision")),
            "args": args,
        },
        "metric": {
            "type": "_".join(word for word in words if word not in _PARTS),
            "value": entry["value"],
            "args": {"interval": list(map(float, interval.split(" to ")))} if interval else {},
        },
        "others": others,
    }


def _read_notes(notes: Any) -> tuple[dict[str, str], str]:
    """Return our notes by name, and the rest of the text."""
    found, rest = {}, []
    for note in filter(None, str(notes or "").split("; ")):
        name, _, value = note.partition(": ")
        if name in found or name not in _NOTES or not re.fullmatch(_NOTES[name], value):
            rest.append(note)
        else:
            found[name] = value
    return found, "; ".join(rest)
