"""Are a model card's claims true? They are read from the card, and computed again from the weights and the data.

ham-hf verify you/your-model --data_dir path/to/HAM10000
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, metadata_save, snapshot_download

from ham_hf.data import load_ham10000
from ham_hf.data.splits import SPLITS as PARTS
from ham_hf.errors import InputError
from ham_hf.intervals import bootstrap_intervals
from ham_hf.labels import LABELS
from ham_hf.markdown import number
from ham_hf.predict import find_classifier, labels_of, load_classifier, probabilities
from ham_hf.prepare import image_reader
from ham_hf.recipe import DataArguments
from ham_hf.report import SPLITS
from ham_hf.scoring import compute_scores
from ham_hf.transforms import PATIENT

# Between two computations on the same images: float noise may turn an answer or two, never a thousandth
TOLERANCE = 1e-3
HOLDS, FALSE, CANNOT_TELL = "holds", "FALSE", "cannot tell"
_ALIASES = {"f1_macro": "macro_f1", "roc_auc_macro": "macro_auroc"}


class Verdict(NamedTuple):
    """What became of a claim: `measured` and its `interval` are None where nothing could be computed."""

    claim: EvalResult
    measured: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str


def verify_card(
    name: str,
    data: DataArguments,
    *,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    part: str | None = None,
) -> list[Verdict]:
    """Compute every claim of the card of `name` again.

    Args:
        name: a run folder or a Hub id, with a README.md of ours or of anybody's.
        data: which images; an empty `split` is replaced by the card's, `classes` by what the model tells apart.
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.
        part: "validation" or "test", what all claims are about, for cards that do not say it in these words.

    Raises:
        InputError: the card makes no claim, or the model or the data cannot be used.
    """
    location, commit = find_classifier(name, revision)
    folder = card_folder(location, commit)
    found = read_claims(folder)
    if not data.split:
        data.split, data.split_seed = _split_of(found)
    model, processor = load_classifier(location, commit, label_map)
    labels = labels_of(model)
    data.classes = "diagnoses" if labels == LABELS else "nevus_or_other"
    splits, facts = load_ham10000(data)
    measured = {}
    for name_of_part in {part} if part else {claim.dataset_split for claim in found} & set(SPLITS):
        rows = splits[name_of_part]
        if len(rows):
            answers = probabilities(
                model,
                processor,
                range(len(rows)),
                zip(*(rows[column][:] for column in PATIENT), strict=True),
                read=image_reader(rows),
                total=len(rows),
                description=name_of_part,
            )
            measured[name_of_part] = _measure(answers, np.array(rows["label"][:]), rows["lesion_id"][:], labels)
    hashes = {name_of_part: facts["splits"][name_of_part]["sha256"] for name_of_part in PARTS}
    verdicts = [_judge(claim, part or claim.dataset_split, measured, hashes) for claim in found]
    return verdicts if _trained_on(folder) in (None, hashes["train"]) else list(map(_doubted, verdicts))


def card_folder(location: str, commit: str | None) -> Path:
    """Where a model's card and its other small files are: the folder itself, or a copy of what the Hub has."""
    if Path(location).is_dir():
        return Path(location)
    patterns = ["README.md", "run.json", ".eval_results/*.yaml"]
    return Path(snapshot_download(location, revision=commit, allow_patterns=patterns))


def read_claims(folder: Path) -> list[EvalResult]:
    """The claims in `model-index` of README.md.

    Raises:
        InputError: there is no card, its front matter is no YAML, or it makes no claim.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise InputError(f"{folder} has no README.md: there is no card, so no claim to check")
    try:
        claims = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=False).data.eval_results
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: its front matter cannot be read ({error}): expected a model-index") from error
    if not claims:
        raise InputError(
            f"{path} makes no claim: its front matter has no model-index. `ham-hf evaluate` judges a model without one"
        )
    return claims


def _split_of(claims: Sequence[EvalResult]) -> tuple[str, int]:
    """How the data of the claims are split; the study's split for a card that does not say it as ours do."""
    names = {claim.dataset_config for claim in claims if _sha256(claim)}
    if len(names) > 1:
        raise InputError(f"the card's claims are about several splits ({', '.join(map(str, names))}): add --split")
    [name] = names or {"study"}
    if name not in ("study", "grouped"):
        raise InputError(f"the card's claims are about the split of a CSV, {name}: add --split path/to/{name}")
    seeds = [(claim.dataset_args or {}).get("split_seed") for claim in claims]
    return name, next((seed for seed in seeds if seed is not None), 0)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 where all claims hold, 1 where one is false, 2 where none is but something could not be told."""
    found = {verdict.verdict for verdict in verdicts}
    return 1 if FALSE in found else 2 if CANNOT_TELL in found else 0


def render(verdicts: Sequence[Verdict]) -> str:
    """A line a claim: split, metric, claimed, measured, difference, interval, verdict."""
    rows = [("split", "metric", "claimed", "measured", "difference", "95 % interval", "verdict")]
    for claim, measured, interval, verdict, reason in verdicts:
        claimed = claim.metric_value
        known = measured is not None and _is_number(claimed)
        rows.append(
            (
                str(claim.dataset_split),
                str(claim.metric_type),
                f"{claimed:.4f}" if _is_number(claimed) else str(claimed),
                "–" if measured is None else f"{measured:.4f}",
                f"{measured - _share(claim)[0]:+.4f}" if known else "–",
                "–" if interval is None else f"[{number(interval[0])}, {number(interval[1])}]",
                verdict + (f": {reason}" if reason else ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    cells = [[*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]] for row in rows]
    words = {HOLDS: "hold", FALSE: "false", CANNOT_TELL: "cannot be told"}
    counts = [f"{sum(v.verdict == verdict for v in verdicts)} {word}" for verdict, word in words.items()]
    return "\n".join([*map("  ".join, cells), "", f"{len(verdicts)} claims: {', '.join(counts)}."])


def write_corrected(name: str, revision: str | None, verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the card with what was measured in place of what was claimed, where that is false; its text stays."""
    location, commit = find_classifier(name, revision)
    text = (card_folder(location, commit) / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    for result, verdict in zip(card.data.eval_results, verdicts, strict=True):
        if verdict.verdict == FALSE and verdict.measured is not None:
            result.metric_value = verdict.measured
            if verdict.interval is not None:
                result.metric_args = {"interval": list(verdict.interval)}
                words = re.sub(r" \(95 % interval .*\)$", "", result.metric_name or result.metric_type)
                low, high = map(number, verdict.interval)
                result.metric_name = f"{words} (95 % interval {low} to {high})"
    try:
        path.write_text(text, encoding="utf-8")
        metadata_save(path, card.data.to_dict())
    except OSError as error:
        raise InputError(
            f"--write {path} cannot be written: {error}; name a file in a folder that is there"
        ) from error


class _Measured(NamedTuple):
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def _measure(answers: np.ndarray, labels: np.ndarray, lesion_ids: Sequence[str], names: Sequence[str]) -> _Measured:
    return _Measured(compute_scores(answers, labels, names), bootstrap_intervals(answers, labels, lesion_ids, names))


def _judge(
    claim: EvalResult, part: str | None, measured: Mapping[str, _Measured], hashes: Mapping[str, str]
) -> Verdict:
    def cannot_tell(reason: str) -> Verdict:
        return Verdict(claim, None, None, CANNOT_TELL, reason)

    if part not in SPLITS:
        return cannot_tell(f"it is about the split {part!r}; --part validation or --part test says which one that is")
    if part not in measured:
        return cannot_tell(f"no image of the {part} split is here")
    metric = _metric(claim)
    if metric not in measured[part].scores or metric == "confusion_matrix":
        return cannot_tell("unknown metric" + (", say of which average" if metric in ("f1", "roc_auc") else ""))
    if not _is_number(claim.metric_value):
        return cannot_tell(f"{claim.metric_value!r} is no number")
    value, interval = measured[part].scores[metric], measured[part].intervals.get(metric)
    claimed, rounding = _share(claim)
    sha256 = _sha256(claim)
    if sha256 is None:
        inside = interval is not None and interval[0] - rounding <= claimed <= interval[1] + rounding
        words = "within the interval" if inside else "outside the interval"
        return Verdict(claim, value, interval, HOLDS if inside else FALSE, f"{words}; the card names no data")
    if sha256 != hashes[part]:
        others = [name for name, other in hashes.items() if other == sha256]
        if others:
            return Verdict(claim, value, interval, FALSE, f"its data are the {others[0]} images, not {part}'s")
        return Verdict(claim, value, interval, CANNOT_TELL, f"made on other {part} images (SHA-256 {sha256[:12]}…)")
    if not abs(claimed - value) <= TOLERANCE + rounding:  # false for NaN as well
        return Verdict(claim, value, interval, FALSE, "same images, another figure")
    given = (claim.metric_args or {}).get("interval")
    if given and not np.allclose(given, interval, rtol=0, atol=TOLERANCE):
        return Verdict(claim, value, interval, FALSE, f"the interval claimed is {given}")
    return Verdict(claim, value, interval, HOLDS, "")


def _trained_on(folder: Path) -> str | None:
    """The SHA-256 of the training images, by the run's own record; None for a model that brings none."""
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["data"]["splits"]["train"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not as `ham-hf train` writes it ({type(error).__name__}: {error})") from error


def _doubted(verdict: Verdict) -> Verdict:
    """A claim that holds proves little where the training images were not those of the split."""
    if verdict.verdict != HOLDS:
        return verdict
    reason = "the training images were others than this split's: some of those judged may be among them"
    return verdict._replace(verdict=CANNOT_TELL, reason=reason)


def _metric(claim: EvalResult) -> str:
    name = re.sub(r"\W+", "_", str(claim.metric_type).strip().lower())
    average = (claim.metric_args or {}).get("average")
    return _ALIASES.get(f"{name}_{average}" if average else name, name if not average else f"{average}_{name}")


def _share(claim: EvalResult) -> tuple[float, float]:
    """The value claimed, from 0 to 1 where it was in percent, and half of its last digit."""
    text = repr(claim.metric_value)
    digits = len(text.partition(".")[2]) if "e" not in text else 17
    value, rounding = float(claim.metric_value), 0.5 * 10.0**-digits
    is_percent = value > 1 and _metric(claim) not in ("log_loss", "brier") and "support" not in _metric(claim)
    return (value / 100, rounding / 100) if is_percent else (value, rounding)


def _sha256(claim: EvalResult) -> str | None:
    revision = str(claim.dataset_revision or "")
    return revision if re.fullmatch(r"[0-9a-f]{64}", revision) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
