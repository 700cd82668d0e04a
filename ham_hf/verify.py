"""Are a model card's claims true? They are read from the card, and computed again from the weights and the data.

ham-hf verify you/your-model --data_dir path/to/HAM10000
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult, ModelCardData, metadata_save, snapshot_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ham_hf.arguments import DataArguments
from ham_hf.card import FILES
from ham_hf.classifier import find_classifier, labels_of, load_classifier
from ham_hf.consistency import (
    CANNOT_TELL,
    FALSE,
    HOLDS,
    TOLERANCE,
    Finding,
    check_page,
    check_results,
    check_weights,
    read_report,
)
from ham_hf.contamination import are_strangers, doubts_about
from ham_hf.data import load_checked
from ham_hf.data.splits import SPLITS as PARTS
from ham_hf.errors import InputError
from ham_hf.eval_results import FOLDER, read_eval_results
from ham_hf.evaluate import measure
from ham_hf.files import replace_file
from ham_hf.labels import LABELS
from ham_hf.markdown import number
from ham_hf.reading import parse_yaml, read_text
from ham_hf.report import SPLITS
from ham_hf.terminal import printable

_LISTED = 20  # findings
_WIDEST, _LONGEST = 40, 400  # characters of what a card says, and of a reason
_ALIASES = {"f1_macro": "macro_f1", "roc_auc_macro": "macro_auroc"}


class Verdict(NamedTuple):
    """What became of a claim in the file `where`; `measured` and `interval` are None where nothing was computed."""

    where: str
    claim: EvalResult
    measured: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str


class Verification(NamedTuple):
    """A verdict for each claim, and whatever else of a card of ours is not as it was measured."""

    verdicts: list[Verdict]
    findings: list[Finding]


def verify_card(
    name: str,
    data: DataArguments,
    *,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    part: str | None = None,
) -> Verification:
    """Compute every claim of the card of `name` again, and whatever else report.json says of the same images.

    Args:
        name: a run folder or a Hub id, with a README.md of ours or of anybody's.
        data: which images; an empty `split` is replaced by the card's, and for a card that names none by "all" or the
            study's, as `load_unseen` does; `classes` by what the model tells apart.
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.
        part: "validation" or "test", what all claims are about, for cards that do not say it in these words.

    Raises:
        InputError: the card makes no claim, or the model or the data cannot be used.
    """
    location, commit = find_classifier(name, revision)
    folder = card_folder(location, commit)
    found, report = read_claims(folder), read_report(folder)
    claims = [claim for of_file in found.values() for claim in of_file]
    if not data.split and not any(map(_sha256, claims)) and are_strangers(data, name, revision):
        data.split = "all"
    if not data.split:
        data.split, data.split_seed = _split_of(claims)
    model, processor = load_classifier(location, commit, label_map, altered=True)
    data.classes = "diagnoses" if labels_of(model) == LABELS else "nevus_or_other"
    splits, facts, checks = load_checked(data)
    reported = [name_of_part for name_of_part in SPLITS if report is not None and report["results"].get(name_of_part)]
    wanted = {part or claim.dataset_split for claim in claims} | set(reported)
    measured = {
        name_of_part: measure(
            model,
            processor,
            splits[name_of_part],
            name_of_part,
            facts["splits"][name_of_part]["unknown_lesions"],
        )
        for name_of_part in SPLITS
        if name_of_part in wanted and len(splits[name_of_part])
    }
    hashes = {name_of_part: facts["splits"][name_of_part]["sha256"] for name_of_part in PARTS}
    verdicts = [
        _judge(where, claim, part or claim.dataset_split, measured, hashes)
        for where, of_file in found.items()
        for claim in of_file
    ]
    doubts = doubts_about(name, revision, splits, facts, checks)
    verdicts = [_doubted(verdict, doubts.get(part or verdict.claim.dataset_split)) for verdict in verdicts]
    findings = []
    if report is not None:
        findings += check_page(folder, report)
        findings += check_weights(_weights_folder(location, commit), report)
        findings += check_results(report, measured, hashes, reported)
    return Verification(verdicts, findings)


def card_folder(location: str, commit: str | None) -> Path:
    """Where a model's card and its other small files are: the folder itself, or a copy of what the Hub has."""
    if Path(location).is_dir():
        return Path(location)
    patterns = ["README.md", "run.json", "report.json", *FILES, f"{FOLDER}/*.yaml"]
    return Path(snapshot_download(location, revision=commit, allow_patterns=patterns))


def _weights_folder(location: str, commit: str | None) -> Path:
    """Where the weights are that were loaded from there: the folder itself, or the Hub's cache."""
    if Path(location).is_dir():
        return Path(location)
    return Path(snapshot_download(location, revision=commit, allow_patterns="*.safetensors"))


def read_claims(folder: Path) -> dict[str, list[EvalResult]]:
    """By file, the claims in `model-index` of README.md, then those in .eval_results/*.yaml.

    Raises:
        InputError: a file of them is not readable, or there is no claim.
    """
    path, found = folder / "README.md", {}
    if path.is_file():
        _, data = _read_card(path)
        found["README.md"] = list(map(_plain, data.eval_results or []))
    found |= {where: list(map(_plain, claims)) for where, claims in read_eval_results(folder).items()}
    if not found:
        raise InputError(f"{folder} has no README.md: there is no card, so no claim to check")
    if not any(found.values()):
        raise InputError(
            f"{path} makes no claim: its front matter has no model-index. `ham-hf evaluate` judges a model without one"
        )
    return found


def _read_card(path: Path) -> tuple[str, ModelCardData]:
    """A card's text, and its front matter.

    Not with ModelCard, which would follow aliases of aliases and read a megabyte in a minute.
    """
    text = read_text(path)
    front = REGEX_YAML_BLOCK.search(text)
    values = parse_yaml(front[2], f"the front matter of {path}") if front else None
    try:
        data = ModelCardData(**(values or {}), ignore_metadata_errors=False)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: its front matter cannot be read ({reason}): expected a model-index") from error
    return text, data


def _plain(claim: EvalResult) -> EvalResult:
    """A claim whose split, data and arguments are of the kinds that ours are, whatever YAML made of them."""
    for name in ("dataset_config", "dataset_split", "dataset_revision"):
        value = getattr(claim, name)
        setattr(claim, name, None if value is None else str(value))
    for name in ("dataset_args", "metric_args"):
        value = getattr(claim, name)
        setattr(claim, name, value if isinstance(value, dict) else None)
    return claim


def _split_of(claims: Sequence[EvalResult]) -> tuple[str, int]:
    """How the data of the claims are split; the study's split for a card that does not say it as ours do."""
    names = {claim.dataset_config for claim in claims if _sha256(claim)}
    if len(names) > 1:
        raise InputError(f"the card's claims are about several splits ({', '.join(map(str, names))}): add --split")
    [name] = names or {"study"}
    if name not in ("study", "grouped"):
        raise InputError(f"the card's claims are about the split of a CSV, {name}: add --split path/to/{name}")
    seeds = [(claim.dataset_args or {}).get("split_seed") for claim in claims]
    seed = next((seed for seed in seeds if seed is not None), 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"the card's split_seed is {str(seed)[:_WIDEST]!r}: add --split and --split_seed")
    return name, seed


def exit_code(verification: Verification) -> int:
    """0 where all holds, 1 where something is false, 2 where nothing is but something could not be told."""
    found = {item.verdict for items in verification for item in items}
    return 1 if FALSE in found else 2 if CANNOT_TELL in found else 0


def render(verification: Verification) -> str:
    """A line a claim: split, metric, claimed, measured, difference, interval, verdict; then a line a finding."""
    rows = [("split", "metric", "claimed", "measured", "difference", "95 % interval", "verdict")]
    for where, claim, measured, interval, verdict, reason in verification.verdicts:
        claimed = claim.metric_value
        known = measured is not None and _is_number(claimed)
        place = "" if where == "README.md" else f" ({where})"
        rows.append(
            (
                _cell(claim.dataset_split),
                _cell(claim.metric_type),
                f"{claimed:.4f}" if _is_number(claimed) else _cell(claimed),
                "–" if measured is None else f"{measured:.4f}",
                f"{measured - _share(claim)[0]:+.4f}" if known else "–",
                "–" if interval is None else f"[{number(interval[0])}, {number(interval[1])}]",
                verdict + (f": {printable(reason)[:_LONGEST]}" if reason else "") + printable(place),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    cells = [[*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]] for row in rows]
    words = {HOLDS: "hold", FALSE: "false", CANNOT_TELL: "cannot be told"}
    found = [item.verdict for item in verification.verdicts]
    counts = ", ".join(f"{found.count(verdict)} {word}" for verdict, word in words.items())
    findings = [printable(f"{where}: {verdict}: {said}")[:_LONGEST] for where, verdict, said in verification.findings]
    rest = [f"… and {len(findings) - _LISTED} more", ""] if len(findings) > _LISTED else [""] if findings else []
    summary = f"{len(found)} claims: {counts}." + (f" Not among them, above: {len(findings)}." if findings else "")
    return "\n".join([*map("  ".join, cells), "", *findings[:_LISTED], *rest, summary])


def _cell(value: Any) -> str:
    """What a card says, fit for a line on a terminal."""
    text = printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def write_corrected(name: str, revision: str | None, verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the card with what was measured in place of what was claimed, where that is false; its text stays.

    Raises:
        InputError: no claim is in the card's own `model-index`, or `path` cannot be written.
    """
    location, commit = find_classifier(name, revision)
    verdicts = [verdict for verdict in verdicts if verdict.where == "README.md"]
    if not verdicts:
        raise InputError(
            f"--write {path}: the claims are in {FOLDER} alone, and the card's text makes none to correct"
        )
    text, data = _read_card(card_folder(location, commit) / "README.md")
    for result, verdict in zip(data.eval_results, verdicts, strict=True):
        if verdict.verdict == FALSE and verdict.measured is not None:
            result.metric_value = verdict.measured
            if verdict.interval is not None:
                result.metric_args = {"interval": list(verdict.interval)}
                words = re.sub(r" \(95 % interval .*\)$", "", str(result.metric_name or result.metric_type))
                low, high = map(number, verdict.interval)
                result.metric_name = f"{words} (95 % interval {low} to {high})"
    try:
        with tempfile.TemporaryDirectory() as temporary:  # what writes the front matter would follow a link
            card = Path(temporary) / "README.md"
            card.write_text(text, encoding="utf-8")
            metadata_save(card, data.to_dict())
            replace_file(path, card.read_bytes())
    except OSError as error:
        raise InputError(
            f"--write {path} cannot be written: {error}; name a file in a folder that is there"
        ) from error


def _judge(
    where: str, claim: EvalResult, part: str | None, measured: Mapping[str, Mapping], hashes: Mapping[str, str]
) -> Verdict:
    def cannot_tell(reason: str) -> Verdict:
        return Verdict(where, claim, None, None, CANNOT_TELL, reason)

    if part not in SPLITS:
        return cannot_tell(f"it is about the split {part!r}; --part validation or --part test says which one that is")
    if part not in measured:
        return cannot_tell(f"no image of the {part} split is here")
    metric = _metric(claim)
    if metric not in measured[part]["metrics"]:
        return cannot_tell("unknown metric" + (", say of which average" if metric in ("f1", "roc_auc") else ""))
    if not _is_number(claim.metric_value):
        return cannot_tell(f"{repr(claim.metric_value)[:_WIDEST]} is no number")
    value, interval = measured[part]["metrics"][metric].values()
    claimed, rounding = _share(claim)
    sha256 = _sha256(claim)
    if sha256 is None:
        inside = interval is not None and interval[0] - rounding <= claimed <= interval[1] + rounding
        words = "within the interval" if inside else "outside the interval"
        return Verdict(where, claim, value, interval, HOLDS if inside else FALSE, f"{words}; the card names no data")
    if sha256 != hashes[part]:
        others = [name for name, other in hashes.items() if other == sha256]
        if others:
            return Verdict(where, claim, value, interval, FALSE, f"its data are the {others[0]} images, not {part}'s")
        reason = f"made on other {part} images (SHA-256 {sha256[:12]}…)"
        return Verdict(where, claim, value, interval, CANNOT_TELL, reason)
    if not abs(claimed - value) <= TOLERANCE + rounding:  # false for NaN as well
        return Verdict(where, claim, value, interval, FALSE, "same images, another figure")
    given = (claim.metric_args or {}).get("interval")
    if given and not _is_close(given, interval):
        return Verdict(where, claim, value, interval, FALSE, f"the interval claimed is {given}")
    return Verdict(where, claim, value, interval, HOLDS, "")


def _doubted(verdict: Verdict, doubt: str | None) -> Verdict:
    """A claim that holds proves little where the model was trained on images that it is evaluated on."""
    if verdict.verdict != HOLDS or doubt is None:
        return verdict
    return verdict._replace(verdict=CANNOT_TELL, reason=doubt)


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


def _is_close(given: Any, interval: Sequence[float] | None) -> bool:
    if interval is None or not isinstance(given, list) or len(given) != 2 or not all(map(_is_number, given)):
        return False
    return np.allclose(given, interval, rtol=0, atol=TOLERANCE)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
