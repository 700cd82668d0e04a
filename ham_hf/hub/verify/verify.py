"""Verify the claims of a model card, by computing them again from the weights and the data.

ham-hf verify you/your-model --data_dir path/to/HAM10000
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from datasets import DatasetDict
from huggingface_hub import HfApi, snapshot_download

from ham_hf import __version__
from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.data.image_io import upright_rgb
from ham_hf.data.lesions import is_ham10000
from ham_hf.data.split_names import NO_LIST, SHIPPED_LISTS
from ham_hf.data.splits import EVALUATION_SPLITS
from ham_hf.evaluation.contamination import are_strangers, doubts_about, take_split_options_of
from ham_hf.evaluation.hidden_duplicates import hidden_images
from ham_hf.evaluation.metrics import prediction_spread
from ham_hf.evaluation.model_facts import model_facts
from ham_hf.evaluation.patients import Patients
from ham_hf.evaluation.predict_splits import predict_rows
from ham_hf.evaluation.predictions import Predictions
from ham_hf.hub.published_files import (
    CHECKSUMS,
    EVAL_RESULTS,
    FORMERLY_PUBLISHED,
    PATIENT_DATA,
    PUBLISHED,
    READ_BY_USERS,
    files_in,
)
from ham_hf.hub.verify.claim_check import Evidence, Verdict, check_claim
from ham_hf.hub.verify.claims import CARD, Claim, check_any, claims_of_card, read_card, read_claims
from ham_hf.hub.verify.consistency import (
    CANNOT_TELL,
    FALSE,
    HOLDS,
    TOLERANCE,
    Finding,
    check_results,
    check_weights,
    read_report,
)
from ham_hf.hub.verify.facts_check import check_report_facts
from ham_hf.hub.verify.files_check import check_checksums, check_predictions
from ham_hf.hub.verify.page_check import check_pages, published_as
from ham_hf.hub.verify.pipeline_check import TOLERANCE as SAME_ANSWER
from ham_hf.hub.verify.pipeline_check import check_code, check_pipeline
from ham_hf.hub.verify.record_check import check_record
from ham_hf.hub.verify.result import Verification, exit_code, render, unchecked
from ham_hf.hub.verify.signs import signs_of_ours
from ham_hf.inference.batches import image_reader
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.load import find_classifier, load_classifier
from ham_hf.labels import classes_of
from ham_hf.models import safe_loading
from ham_hf.reporting.eval_results import FOLDER
from ham_hf.reporting.formats import number
from ham_hf.reporting.model_card import FILES
from ham_hf.reporting.report import split_results
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file

if TYPE_CHECKING:
    pass

__all__ = ["Verification", "exit_code", "render", "verify_card", "write_corrected"]


def verify_card(
    name: str,
    data: DataArguments,
    *,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    part: str | None = None,
) -> Verification:
    """Compute every claim of the card of `name` again, and whatever else the files of ours beside it say.

    Args:
        name: a run folder or a Hub id, with a README.md of ours or of anybody's.
        data: which images; an empty `split` is replaced by the card's, or else by "all" or the study's, as in
            `load_unseen`; `classes` by those of the model.
        revision: commit, branch or tag on the Hub.
        label_map: see `load_classifier`.
        part: "validation" or "test", what all claims are about, for cards that do not say it in these words.

    Raises:
        InputError: the card makes no claim, or the model or the data cannot be used.
    """
    location, commit = find_classifier(name, revision)
    folder = card_folder(location, commit)
    claims = read_claims(folder)
    report, findings = read_report(folder)
    if report is None:
        check_any(claims, folder)
        findings += _damage(folder, claims, findings)
    if not data.split and report is None and not any(claim.sha256 for claim in claims):
        data.split = "all" if are_strangers(data, name, revision) else ""
    if not data.split:
        data.split, data.split_seed = _split_of(claims, report)
        _take_duplicates_of(claims, report, data)
    classifier = load_classifier(location, commit, label_map, altered=True)
    labels = safe_loading.read_config(name, location, revision=commit).id2label  # of our own classes too, known by now
    data.classes = classes_of(classifier.labels)
    splits, facts, checks = load_checked(data)
    reported = {
        split: report["run"]["data"]["splits"][split]["sha256"]
        for split in EVALUATION_SPLITS
        if report is not None and report["results"][split]
    }
    wanted = {part or claim.split for claim in claims} | reported.keys()
    predicted = {
        split: predict_rows(classifier, splits[split], split)
        for split in EVALUATION_SPLITS
        if split in wanted and len(splits[split])
    }
    results: dict[str, Any] = {  # none is None: each has predictions
        split: split_results(
            *rows,
            classifier.threshold,
            unknown_lesions=facts["splits"][split]["unknown_lesions"],
            hidden=_hidden_images(report, facts, split),
        )
        for split, rows in predicted.items()
    }
    image_ids = [image_id for predictions, _ in predicted.values() for image_id in predictions.image_ids]
    evidence = Evidence(results, facts, data.classes, all(map(is_ham10000, image_ids)), reported)
    doubts: dict[Any, str] = doubts_about(name, revision, splits, facts, checks)
    if report is not None and not (folder / "run.json").is_file():
        doubts = _doubts_without_run(report, evidence)
    verdicts = [_doubted(check_claim(claim, part, evidence), doubts.get(part or claim.split)) for claim in claims]
    if report is not None:
        about_model = (model_facts(classifier), classifier.model.config.to_dict())
        findings += check_pages(folder, report, None if Path(location).is_dir() else location)
        findings += _check_ours(folder, report, about_model, predicted, evidence)
        findings += check_record(folder, report, splits["train"], evidence.hashes["train"], checks)
    findings += _check_files(folder, report)
    findings += _check_as_a_user(folder, classifier, labels, splits, list(results), ours=report is not None)
    files = files_in(folder) if Path(location).is_dir() else HfApi().list_repo_files(location, revision=commit)
    record, reads_patient = (folder / "run.json").is_file(), classifier.reads_patients
    return Verification(verdicts, findings, unchecked(files, report, record=record, reads_patient=reads_patient))


def _check_ours(
    folder: Path,
    report: Mapping,
    about_model: tuple[Mapping, Mapping],
    predicted: Mapping[str, tuple[Predictions, Patients]],
    evidence: Evidence,
) -> list[Finding]:
    """Find contradictions of report.json and the predictions beside it to the model and the images.

    `about_model` is what `model_facts` says, and the model's config.
    """
    spread = None
    if "validation" in predicted and evidence.reported.get("validation") == evidence.hashes["validation"]:
        spread = prediction_spread(predicted["validation"][0].probabilities)
    return [
        *check_weights(folder, report),
        *check_predictions(folder, predicted, evidence.hashes, report),
        *check_report_facts(folder, report, *about_model, evidence.data, spread),
        *check_results(report, evidence.results, evidence.hashes, list(evidence.reported)),
    ]


def card_folder(location: str, commit: str | None) -> Path:
    """Return where a model's files are: the folder itself, or a copy of what the Hub has of the files read here."""
    if Path(location).is_dir():
        return Path(location)
    patterns = [*PUBLISHED, *FORMERLY_PUBLISHED, *PATIENT_DATA, *FILES, EVAL_RESULTS, CHECKSUMS, *READ_BY_USERS]
    patterns = [pattern for pattern in patterns if not pattern.endswith(".safetensors")]  # those come with the model
    return Path(snapshot_download(location, revision=commit, allow_patterns=patterns))


def _damage(folder: Path, claims: Sequence[Claim], findings: Sequence[Finding]) -> list[Finding]:
    """Report a card of ours whose report.json is missing or damaged, so that its text cannot be checked."""
    signs = signs_of_ours(folder, claims)
    if not signs or findings:  # these say what is wrong with report.json
        return []
    there = "is not as `ham-hf report` writes it" if (folder / "report.json").is_file() else "is missing"
    words = f"{there}, and this is a card of ham_hf ({', '.join(signs[:3])}), so its text was not checked"
    return [Finding("report.json", CANNOT_TELL, words)]


def _split_of(claims: Sequence[Claim], report: Mapping | None) -> tuple[str, int]:
    """Return the split and seed of the claims' data; the study's split if the card does not say it as ours do."""
    if report is not None:
        names = [(report["run"]["data"]["split"], report["run"]["data"]["split_seed"] or 0)]
    else:
        args = [(claim.config, claim.dataset_args.get("split_seed") or 0) for claim in claims if claim.sha256]
        valid = [(name, seed) for name, seed in args if isinstance(seed, int) and not isinstance(seed, bool)]
        names = [pair for pair, _ in Counter(valid).most_common(1)] or [("study", 0)]
    [(name, seed)] = names
    if name not in ("study", "grouped"):
        raise InputError(f"the card's claims are about the split of a CSV, {name}: add --split path/to/{name}")
    if not 0 <= seed < 2**32:
        raise InputError(f"the card's split_seed is {str(seed)[:40]}: add --split and --split_seed")
    return name, seed


def _take_duplicates_of(claims: Sequence[Claim], report: Mapping | None, data: DataArguments) -> None:
    """Set the list of duplicates to the one that made the split; cards of ours name it if it decides the split."""
    if report is not None:
        take_split_options_of(report["run"]["data"], data, "the card")
    elif data.same_lesion is None and data.split == "grouped":
        named = {claim.dataset_args.get("same_lesion") for claim in claims if claim.sha256}
        data.same_lesion = next((name for name in SHIPPED_LISTS if name in named), NO_LIST)


def _hidden_images(report: Mapping | None, facts: Mapping, split: str) -> list[str]:
    """Return the images that report.json must treat apart as hidden duplicates; older reports had no such results."""
    if report is None or "same_lesion" not in report["run"]["data"]:
        return []
    return hidden_images({**report["run"], "data": facts}, split)


def _doubts_without_run(report: Mapping, evidence: Evidence) -> dict[str, str]:
    """Like `doubts_about`, without run.json: report.json has the hash of the training images as well."""
    if report["run"]["data"]["splits"]["train"]["sha256"] == evidence.hashes["train"]:
        return {}
    reason = "the training images differ from those of this split: some evaluated images may be among them"
    return dict.fromkeys(EVALUATION_SPLITS, reason)


def _doubted(verdict: Verdict, doubt: str | None) -> Verdict:
    """Return "cannot tell" for a claim that holds, if the model may have been trained on images evaluated here."""
    if verdict.verdict != HOLDS or doubt is None:
        return verdict
    return verdict._replace(verdict=CANNOT_TELL, reason=doubt)


def _check_files(folder: Path, report: Mapping | None) -> list[Finding]:
    """Compare the published files with their checksums, if these exist."""
    if (folder / CHECKSUMS).is_file():
        return check_checksums(folder)
    if report is not None and report.get("ham_hf") == __version__ and published_as(folder) is not None:
        return [Finding(CHECKSUMS, CANNOT_TELL, "is missing, and `ham-hf push` publishes it with every model")]
    return []


def _check_as_a_user(
    folder: Path,
    classifier: Classifier,
    labels: Mapping[int, str],
    splits: DatasetDict,
    measured: Sequence[str],
    *,
    ours: bool,
) -> list[Finding]:
    """Check that a `pipeline` gives the same predictions; the last check, because it changes the model."""
    images = [upright_rgb(image_reader(splits[split])(0)) for split in measured]
    try:
        check_code(folder)
    except InputError as error:
        return [Finding("pipeline", CANNOT_TELL, f"{error}, so what users get was not checked")]
    try:
        tolerance = SAME_ANSWER if ours else TOLERANCE
        check_pipeline(folder, classifier, labels, images, tolerance=tolerance, own_process=False)
    except InputError as error:
        return [Finding("pipeline", FALSE if ours else CANNOT_TELL, f"users get something else: {error}")]
    return []


def write_corrected(name: str, revision: str | None, verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the card with what was measured in place of what was claimed, where that is false; its text stays.

    Raises:
        InputError: no claim is in the card's own `model-index`, or `path` cannot be written.
    """
    location, commit = find_classifier(name, revision)
    verdicts = [verdict for verdict in verdicts if verdict.claim.where == CARD]
    if not verdicts:
        raise InputError(f"--write {path}: the claims are only in {FOLDER}; the card itself has none to correct")
    card = read_card(card_folder(location, commit) / CARD)
    for claim, verdict in zip(claims_of_card(card.values), verdicts, strict=True):
        if verdict.verdict == FALSE and verdict.measured is not None:
            metric: Any = claim.metric  # a dict of `card.values`
            _correct(metric, verdict)
    front = yaml.safe_dump(card.values, sort_keys=False, allow_unicode=True)
    try:
        replace_file(path, f"---\n{front}---\n{card.page}")
    except OSError as error:
        raise InputError(f"--write {path} cannot be written: {error}; choose a file in an existing folder") from error


def _correct(metric: dict, verdict: Verdict) -> None:
    metric["value"] = verdict.measured
    if verdict.interval is not None:
        metric["args"] = {"interval": list(verdict.interval)}
        words = re.sub(r" \(95 % interval .*\)$", "", str(metric.get("name") or metric["type"]))
        low, high = map(number, verdict.interval)
        metric["name"] = f"{words} (95 % interval {low} to {high})"
