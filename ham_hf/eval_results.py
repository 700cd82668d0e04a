"""A card's claims as `.eval_results/*.yaml`, the files that the Hub reads for its leaderboards.

Beside `model-index`, which stays the place for all that a claim is about: these files hold a dataset, a task and a
value. What else `ham-hf verify` needs of a claim of ours stands in its notes.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from ham_hf.card import claims
from ham_hf.errors import InputError
from ham_hf.reading import parse_yaml, read_text

FOLDER = ".eval_results"
_PARTS = ("validation", "test")


def render_eval_results(report: Mapping) -> str:
    """The claims of report.json's content as YAML."""
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
    notes = {
        "split": claim.dataset_config,
        "split seed": claim.dataset_args.get("split_seed"),
        "SHA-256 of the images": claim.dataset_revision,
        "95 % interval": claim.metric_args and " to ".join(map(repr, claim.metric_args["interval"])),
    }
    return "; ".join(f"{name}: {value}" for name, value in notes.items() if value is not None)


def read_eval_results(folder: Path) -> dict[str, list[EvalResult]]:
    """The claims in each file of `folder`/.eval_results, of ours or of anybody's, in the terms of a `model-index`.

    A task's id names the split and the metric: test_accuracy, "accuracy/test"; without a split it is None.

    Raises:
        InputError: a file is not as the Hub documents it.
    """
    found = {}
    for path in sorted((folder / FOLDER).glob("*.yaml")):
        entries = parse_yaml(read_text(path), path)
        try:
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise ValueError("no list of results")
            found[f"{FOLDER}/{path.name}"] = list(map(_claim, parse_eval_result_entries(entries)))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            words = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise InputError(
                f"{path} cannot be read ({words}): expected a list of results, each with a dataset (id, task_id) and "
                "a value, as https://huggingface.co/docs/hub/eval-results says"
            ) from error
    return found


def _claim(entry: EvalResultEntry) -> EvalResult:
    words = re.findall(r"[a-z0-9]+", str(entry.task_id).lower())
    notes = dict(note.split(": ", 1) for note in str(entry.notes or "").split("; ") if ": " in note)
    seed, interval = notes.get("split seed", ""), notes.get("95 % interval", "").split(" to ")
    return EvalResult(
        task_type="image-classification",
        dataset_type=str(entry.dataset_id),
        dataset_name=str(entry.dataset_id),
        dataset_config=notes.get("split"),
        dataset_split=next((word for word in words if word in _PARTS), None),
        dataset_revision=notes.get("SHA-256 of the images", entry.dataset_revision),
        dataset_args={"split_seed": int(seed)} if seed.isdecimal() else None,
        metric_type="_".join(word for word in words if word not in _PARTS),
        metric_value=entry.value,
        metric_args={"interval": list(map(float, interval))} if len(interval) == 2 else None,
    )
