"""The verdict about a claim: its figure, and every word that it says about its data, metric, size and interval."""

import copy
import math

import pytest

from ham_hf.hub.verify.claim_check import Evidence, check_claim
from ham_hf.hub.verify.claims import CARD, Claim, claims_of_card
from ham_hf.hub.verify.consistency import CANNOT_TELL, FALSE, HOLDS
from ham_hf.reporting.eval_results import FOLDER, read_eval_results

SHA256 = {"train": "0" * 64, "validation": "1" * 64, "test": "2" * 64}
INTERVAL = (0.8123, 0.8912)
METRICS = {
    "accuracy": {"value": 0.8549, "interval": INTERVAL},
    "macro_auroc": {"value": 0.9634, "interval": (0.951, 0.977)},
    "ece": {"value": 0.0281, "interval": (0.02, 0.04)},
    "log_loss": {"value": 1.4551, "interval": (1.2, 1.7)},
    "macro_f1": {"value": 0.7, "interval": (0.65, 0.75)},
    "recall_df": {"value": math.nan, "interval": None},
}
DATA = {
    "splits": {name: {"sha256": sha256} for name, sha256 in SHA256.items()},
    "split": "study",
    "split_seed": None,
    "same_lesion": {"list": "ham10000-2"},
    "synthetic": False,
    "kind": "folder",
    "source": "HAM10000",
}
RESULTS = {part: {"images": 2001, "lesions": 1494, "metrics": METRICS} for part in ("validation", "test")}
EVIDENCE = Evidence(RESULTS, DATA, "diagnoses", True, {})
OURS = {
    "task": {"type": "image-classification", "name": "Image Classification"},
    "dataset": {
        "type": "ham10000",
        "name": "HAM10000",
        "config": "study",
        "split": "test",
        "revision": SHA256["test"],
        "args": {"classes": "diagnoses", "images": 2001, "lesions": 1494},
    },
    "metric": {
        "type": "accuracy",
        "value": 0.8549,
        "name": "accuracy (95 % interval .812 to .891)",
        "args": {"interval": list(INTERVAL)},
    },
}
THEIRS = {
    "task": {"type": "image-classification", "name": "Image Classification"},
    "dataset": {"type": "imagefolder", "name": "imagefolder", "config": "default", "split": "test", "args": "default"},
    "metric": {"type": "accuracy", "name": "Accuracy", "value": 0.86},
}

ENTRY = {"task": THEIRS["task"], "dataset": THEIRS["dataset"]}


def verdict(entry: dict, part: str | None = None, evidence: Evidence = EVIDENCE, **changes) -> tuple[str, str]:
    """Verdict and reason for a claim with other values, named with __ between the keys; None takes one away."""
    entry = copy.deepcopy(entry)
    for name, value in changes.items():
        *path, last = name.split("__")
        place = entry
        for key in path:
            place = place.setdefault(key, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    found = check_claim(Claim(CARD, **entry), part, evidence)
    return found.verdict, found.reason


def test_claims_as_they_should_be_hold():
    assert verdict(OURS) == (HOLDS, "")
    assert verdict(THEIRS) == (HOLDS, "within the interval; the card names no data")
    assert verdict(THEIRS, dataset__type="marmal88/ham10000", dataset__name="HAM 10000")[0] == HOLDS
    assert verdict(THEIRS, dataset__split="train", part="test")[0] == HOLDS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.8549, HOLDS),
        (0.8558, HOLDS),
        (0.8561, FALSE),
        (0.85, FALSE),
        (0.86, FALSE),
        (0.9, FALSE),
        (1, FALSE),
        (1.0, FALSE),
        (0, FALSE),
        (0.1, FALSE),
        (1e0, FALSE),
        (-0.8549, FALSE),
        (85.5, HOLDS),
        (85.4, HOLDS),
        (85, HOLDS),
        (86, FALSE),
        (86.0, FALSE),
        (90, FALSE),
        (100, FALSE),
        (8.549, FALSE),
        (8549, FALSE),
        (math.nan, CANNOT_TELL),
        (math.inf, CANNOT_TELL),
        (True, CANNOT_TELL),
        ("0.8549", CANNOT_TELL),
        ("85 %", CANNOT_TELL),
        ([0.8549], CANNOT_TELL),
    ],
)
def test_on_the_same_images_a_figure_agrees_to_a_thousandth_or_to_the_digits_of_a_percentage(value, expected):
    assert verdict(OURS, metric__value=value)[0] == expected


@pytest.mark.parametrize("value", [1, 0, 0.9, 0.1, 0.8, 1.0, 100, 80])
def test_few_digits_do_not_bring_a_figure_into_the_interval(value):
    assert verdict(THEIRS, metric__value=value) == (FALSE, "outside the interval; the card names no data")


def test_a_metric_beyond_one_is_no_percentage_and_an_undefined_one_holds_nothing():
    plain = {"metric__name": None, "metric__args": None}
    assert verdict(OURS, **plain, metric__type="log_loss", metric__value=1.4551)[0] == HOLDS
    assert verdict(OURS, **plain, metric__type="log_loss", metric__value=1.5)[0] == FALSE
    assert verdict(OURS, **plain, metric__type="recall_df", metric__value=0.5)[0] == FALSE
    theirs = verdict(THEIRS, metric__name=None, metric__type="recall_df", metric__value=0.5)
    assert theirs[0] == CANNOT_TELL and "no interval here" in theirs[1]


@pytest.mark.parametrize(
    ("change", "expected", "said"),
    [
        ({"metric__name": "accuracy (95 % interval .950 to .990)"}, FALSE, "the interval claimed is [0.95, 0.99]"),
        ({"metric__name": "accuracy, external test set of 10,000 patients"}, CANNOT_TELL, "says more than accuracy"),
        ({"metric__name": "balanced accuracy"}, CANNOT_TELL, "says more than accuracy"),
        ({"metric__name": "accuracy of ninety-seven"}, CANNOT_TELL, "says more than accuracy"),
        ({"metric__name": "accuracy (95 % interval .812 to .891), certified"}, CANNOT_TELL, "says more"),
        ({"metric__args__interval": [0.95, 0.99]}, FALSE, "the interval claimed is [0.95, 0.99]"),
        ({"metric__args__interval": 0.99}, FALSE, "the interval claimed is 0.99"),
        ({"metric__args__interval": "0.95 to 0.99"}, FALSE, "the interval claimed is"),
        ({"metric__args__confidence_interval": [0.95, 0.99]}, CANNOT_TELL, "what it says of its metric"),
        ({"metric__args__ci95": [0.95, 0.99]}, CANNOT_TELL, "'ci95'"),
        ({"metric__args": "0.95 to 0.99"}, CANNOT_TELL, "what it says of its metric"),
        ({"metric__config": "0.99 on 10,000 patients"}, CANNOT_TELL, "'config' cannot be checked"),
        ({"metric__verified": True}, CANNOT_TELL, "only the Hub can check"),
        ({"metric__verifyToken": "eyJ"}, CANNOT_TELL, "'verifyToken' cannot be checked"),
        ({"dataset__name": "ISIC 2019, external"}, FALSE, "another dataset than these images: 'ISIC 2019, external'"),
        ({"dataset__type": "clinic/photos"}, FALSE, "another dataset than these images"),
        ({"dataset__name": "HAM10000 and 28,000 others"}, FALSE, "another dataset than these images"),
        ({"dataset__config": "grouped"}, FALSE, "its split is called 'grouped'"),
        ({"dataset__config": "external hospital"}, CANNOT_TELL, "its split is called 'external hospital'"),
        ({"dataset__revision": "a" * 64}, CANNOT_TELL, "made on other test images"),
        ({"dataset__revision": SHA256["train"]}, FALSE, "its data are the train images, not test's"),
        ({"dataset__revision": "2" * 63}, CANNOT_TELL, "which no image can be compared with"),
        ({"dataset__revision": f"{'2' * 64} "}, CANNOT_TELL, "which no image can be compared with"),
        ({"dataset__args__images": 28000}, FALSE, "images: 28000 is claimed, 2001 is what these images have"),
        ({"dataset__args__lesions": 28000}, FALSE, "lesions: 28000 is claimed"),
        ({"dataset__args__images": "many"}, FALSE, "images: 'many' is claimed"),
        ({"dataset__args__classes": "nevus_or_other"}, FALSE, "classes"),
        ({"dataset__args__split_seed": 5}, FALSE, "split_seed: 5 is claimed"),
        ({"dataset__args__same_lesion": "none"}, FALSE, "same_lesion: 'none' is claimed, ham10000-2 is"),
        ({"dataset__args__patients": 10000}, CANNOT_TELL, "what it says of its data"),
        ({"dataset__interval": [0.95, 0.99]}, CANNOT_TELL, "its dataset's 'interval' cannot be checked"),
        ({"task__type": "image-segmentation"}, CANNOT_TELL, "another task than image classification"),
        ({"task__name": "Melanoma detection in 10,000 patients"}, CANNOT_TELL, "another task"),
        (
            {"others__source": {"name": "The Lancet", "url": "https://x"}},
            CANNOT_TELL,
            "its 'source' cannot be checked",
        ),
    ],
)
def test_whatever_else_a_claim_says_is_part_of_it(change, expected, said):
    found = verdict(OURS, **change)
    assert found[0] == expected and said in found[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset__name": "ISIC 2019"}, "another dataset than these images: 'ISIC 2019'"),
        ({"dataset__type": "dermnet", "dataset__name": "dermnet"}, "another dataset than these images"),
        ({"dataset__name": "skin lesions of 10,000 patients"}, "another dataset than these images"),
        ({"dataset__config": "ISIC_2020"}, "its split is called 'ISIC_2020'"),
        ({"dataset__args": {"images": 28000}}, "images: 28000 is claimed"),
        ({"dataset__revision": "main"}, "which no image can be compared with"),
        ({"task__type": "object-detection"}, "another task than image classification"),
        ({"metric__args": {"interval": [0.85, 0.87]}}, "its interval [0.85, 0.87] cannot be compared"),
        ({"metric__name": "Accuracy of 300 dermatologists"}, "says more than accuracy"),
        ({"dataset__split": "external test"}, "it is about the split 'external test'"),
    ],
)
def test_a_claim_of_others_that_says_more_can_neither_hold_nor_be_false(change, said):
    for value in (0.86, 0.99):
        found = verdict(THEIRS, metric__value=value, **change)
        assert found[0] == CANNOT_TELL and said in found[1]


def test_a_split_named_with_part_says_no_more_than_which_it_is():
    found = verdict(THEIRS, part="test", dataset__split="external test of 10,000 patients")
    assert found[0] == CANNOT_TELL and "its split is called" in found[1]


def test_a_name_of_ham10000_is_no_name_of_other_images():
    clinic = EVIDENCE._replace(ham10000=False)
    found = verdict(THEIRS, evidence=clinic, dataset__name="HAM10000")
    assert found[0] == CANNOT_TELL and "another dataset than these images: 'HAM10000'" in found[1]
    synthetic = EVIDENCE._replace(ham10000=False, data=DATA | {"synthetic": True})
    assert verdict(THEIRS, evidence=synthetic, dataset__name="HAM10000")[0] == CANNOT_TELL
    assert verdict(OURS, evidence=synthetic)[0] == FALSE
    assert verdict(OURS, evidence=synthetic, dataset__type="synthetic", dataset__name="Synthetic lesions")[0] == HOLDS
    hub = EVIDENCE._replace(ham10000=False, data=DATA | {"kind": "hub", "source": "clinic/photos"})
    assert verdict(THEIRS, evidence=hub, dataset__name=None, dataset__type="clinic/photos")[0] == HOLDS


def test_without_its_revision_a_claim_of_ours_is_compared_with_the_images_of_report_json():
    reported = EVIDENCE._replace(reported=SHA256)
    inside = {"dataset__revision": None, "metric__value": 0.88}
    assert verdict(OURS, **inside)[0] == CANNOT_TELL  # it has an interval, which cannot be compared
    assert verdict(OURS, evidence=reported, **inside) == (FALSE, "same images, another figure")
    assert verdict(OURS, evidence=reported, dataset__revision=None) == (HOLDS, "")


# Entries that are not as the Hub documents them


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ([{"name": "x", "results": []}], None),
        ([], None),
        (None, None),
        ("0.97", "model-index is '0.97': expected a list"),
        ([{"name": "x", "results": "0.97"}], "model-index[0].results is '0.97': expected a list"),
        (["accuracy 0.97"], "model-index[0] is 'accuracy 0.97': expected keys and values"),
        ([{"results": ["x"]}], "model-index[0].results[0] is 'x'"),
        ([{"results": [{"task": {"type": "x"}, "metrics": [{"type": "accuracy", "value": 1}]}]}], "has no dataset"),
        ([{"results": [{"dataset": {"type": "x"}, "metrics": []}]}], "has no task"),
        ([{"results": [{**ENTRY, "metrics": []}]}], "has no metrics"),
        ([{"results": [{**ENTRY, "metrics": [{"type": "accuracy"}]}]}], "has no value"),
        ([{"results": [{**ENTRY, "metrics": [{"value": 0.9}]}]}], "has no type"),
        ([{"results": [{**ENTRY, "metrics": [0.9]}]}], "metrics[0] is '0.9'"),
    ],
)
def test_an_entry_that_is_malformed_is_told_and_the_others_are_judged(index, said):
    good = {"results": [{**ENTRY, "metrics": [THEIRS["metric"]]}]}
    values = {"model-index": index}
    found = [check_claim(claim, None, EVIDENCE) for claim in claims_of_card(values)]
    assert [verdict.verdict for verdict in found] == ([] if said is None else [CANNOT_TELL])
    assert said is None or said in found[0].reason
    if isinstance(index, list):
        found = [check_claim(claim, None, EVIDENCE) for claim in claims_of_card({"model-index": [*index, good]})]
        assert found[-1].verdict == HOLDS


def test_entries_of_eval_results_are_read_one_by_one(tmp_path):
    (tmp_path / FOLDER).mkdir()
    entries = """
- dataset: {id: ada/ham10000, task_id: test_accuracy}
  value: 0.86
- dataset: {id: ada/ham10000}
  value: 0.86
- dataset: {id: ada/ham10000, task_id: test_accuracy}
- 0.97
- dataset: {id: ada/ham10000, task_id: test_accuracy}
  value: 0.86
  notes: "of 10,000 patients"
- dataset: {id: ada/ham10000, task_id: test_accuracy}
  value: 0.86
  date: 2025-01-15
  source: {name: The Lancet}
"""
    (tmp_path / FOLDER / "a.yaml").write_text(entries)
    (tmp_path / FOLDER / "b.yaml").write_text("- {")
    claims = [Claim(where, **entry) for where, entry in read_eval_results(tmp_path)]
    found = [check_claim(claim, None, EVIDENCE) for claim in claims]
    assert [item.verdict for item in found] == [HOLDS] + 6 * [CANNOT_TELL]
    reasons = [item.reason for item in found[1:]]
    words = ("(no task_id)", "(no value)", "(no keys and values)", "its 'notes' cannot be checked", "its 'source'")
    for reason, said in zip(reasons, (*words, "b.yaml is not readable YAML"), strict=True):
        assert said in reason


@pytest.mark.parametrize(
    ("changes", "part", "said"),
    [
        ({"metric": {"type": "loss", "args": {"average": "log"}, "value": 1.4}}, None, "unknown metric"),
        ({"metric__name": "Accuracy 💯"}, None, "which says more than accuracy"),
        ({"task__name": "Image Classification 💯"}, None, "another task than image classification"),
        ({"dataset__name": "HAM10000 💯"}, None, "another dataset"),
        ({"dataset__name": "28,000 patients of nine hospitals / HAM10000"}, None, "another dataset"),
        ({"dataset__split": "validation"}, "test", "it is about the split 'validation', and --part says test"),
    ],
)
def test_words_around_a_name_that_is_known_are_part_of_the_claim(changes, part, said):
    found, reason = verdict(THEIRS, part, **changes)
    assert found == CANNOT_TELL and said in reason


@pytest.mark.parametrize(
    ("type_", "average", "value", "expected"),
    [
        ("f1", "macro", 0.7, (HOLDS, "within the interval; the card names no data")),
        ("Macro F1", None, 0.7, (HOLDS, "within the interval; the card names no data")),
        ("roc_auc", "macro", 0.9634, (HOLDS, "within the interval; the card names no data")),
        ("roc-auc", "macro", 0.94, (FALSE, "outside the interval; the card names no data")),
        ("f1", None, 0.7, (CANNOT_TELL, "unknown metric, say of which average")),
        ("roc_auc", None, 0.96, (CANNOT_TELL, "unknown metric, say of which average")),
        ("f1", "micro", 0.7, (CANNOT_TELL, "unknown metric")),
        ("jaccard", None, 0.7, (CANNOT_TELL, "unknown metric")),
    ],
)
def test_a_metric_is_known_by_its_name_and_average(type_, average, value, expected):
    args = {"metric__args": {"average": average}} if average else {}
    assert verdict(THEIRS, metric__type=type_, metric__name=None, metric__value=value, **args) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1e-05, FALSE),  # as many digits as a float has, and not the five of its exponent's spelling
        (0.89, HOLDS),
        (0.9, FALSE),  # .85 to .95 by its digits, but no more than .005 beyond the interval
        (0.8963, FALSE),
        (1.5, FALSE),
        (89.0, HOLDS),
        (89.6, FALSE),
    ],
)
def test_without_data_a_figure_is_compared_with_the_interval(value, expected):
    assert verdict(THEIRS, metric__value=value)[0] == expected


def test_a_claim_about_other_images_keeps_what_was_measured_here():
    for revision, expected, reason in (
        (SHA256["validation"], FALSE, "its data are the validation images, not test's"),
        ("f" * 64, CANNOT_TELL, "made on other test images (SHA-256 ffffffffffff…)"),
    ):
        entry = copy.deepcopy(OURS)
        entry["dataset"]["revision"] = revision
        found = check_claim(Claim(CARD, **entry), None, EVIDENCE)
        assert (found.verdict, found.reason) == (expected, reason)
        assert (found.claim.value, found.measured, found.interval) == (0.8549, 0.8549, INTERVAL)


@pytest.mark.parametrize(("config", "expected"), [("all", FALSE), ("grouped", FALSE), ("my_split.csv", CANNOT_TELL)])
def test_another_split_of_the_same_images_is_false_where_ours_has_its_name(config, expected):
    assert verdict(OURS, dataset__config=config)[0] == expected


def test_what_a_claim_says_is_cut_where_it_is_long():
    assert verdict(THEIRS, metric__note="x" * 500)[1].endswith("x…")
