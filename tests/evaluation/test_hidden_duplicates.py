"""Images whose lesion is in training under another lesion id, compared with the others of their diagnoses."""

import re

import numpy as np
import pytest

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.evaluation.contamination import take_split_options_of
from ham_hf.evaluation.hidden_duplicates import hidden_results
from ham_hf.evaluation.predictions import Predictions
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import change_facts, make_run, same_lesion
from tests.helpers.small_data import read_rows
from tests.helpers.tiny_runs import make_true_run


def test_expected_is_the_recall_of_the_other_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    predicted = np.array([0, 0, 1, 1, 1, 0, 1])
    predictions = Predictions(list("abcdefg"), list("abcdefg"), labels, np.eye(2)[predicted], ["nv", "other"])
    # a and b are right, and one of the three others of their class is not: c, d
    assert hidden_results(predictions, ["a", "b", "e"]) == {"images": 3, "correct": 3, "expected": pytest.approx(0.5)}
    assert hidden_results(predictions, ["e", "f", "g"])["expected"] is None  # there is no other image of their class


@pytest.mark.parametrize(
    ("split", "changes", "sentence"),
    [
        (
            "grouped",
            {},
            "3 pairs of these images show one lesion under two lesion ids (list mine.csv): they are in the",
        ),
        ("study", {}, "(list mine.csv): none of these lesions is in the training split and in another one."),
        ("study", {"dropped": True, "dropped_images": 41}, "(list mine.csv): 41 training images were dropped whose"),
        ("study", {"pairs": 0}, "The list of duplicates mine.csv has no pair of these images."),
    ],
)
def test_the_card_says_what_was_done_about_them(split, changes, sentence, tmp_path):
    run = make_run(tmp_path / "run", images=(60, 0))
    seed = 0 if split == "grouped" else None
    change_facts(run, data__split=split, data__split_seed=seed, data__same_lesion=same_lesion("mine.csv") | changes)
    write_report(run)
    assert sentence in (run / "README.md").read_text()


def test_report_and_card_state_it(tmp_path):
    run = make_run(tmp_path / "run", images=(60, 0))
    images = ("ISIC_validation00001", "ISIC_validation00002")
    change_facts(run, data__same_lesion=same_lesion("ham10000-1", images))
    results = write_report(run)["results"]["validation"]["hidden_duplicates"]
    assert results["images"] == 2 and results["correct"] in (0, 1, 2)
    sentence = f"Of the 2 validation images whose lesion is in training, {results['correct']}"
    for name in ("README.md", "report.html"):
        text = (run / name).read_text()
        assert (
            sentence in text and "2 validation and 0 test images show a lesion that is in the training split" in text
        )
    change_facts(run, training=None)  # a model from elsewhere was not trained on this training split
    assert "hidden_duplicates" not in write_report(run)["results"]["validation"]


@pytest.mark.parametrize(
    ("facts", "given", "expected"),
    [
        ({}, None, "none"),  # of a run before there were lists
        ({"same_lesion": same_lesion("ham10000-1")}, None, "ham10000-1"),
        ({"same_lesion": same_lesion("ham10000-1") | {"merged": False}}, None, None),
        ({"same_lesion": same_lesion("theirs.csv")}, "copy.csv", "copy.csv"),
        ({"same_lesion": same_lesion("theirs.csv")}, None, "add --same_lesion path/to/theirs.csv"),
        ({"audit": {"near_duplicates": {"grouped": True}}}, None, "--group_near_duplicates, which was removed"),
    ],
)
def test_the_list_that_made_a_split_makes_it_again(facts, given, expected):
    data = DataArguments(same_lesion=given)
    facts = {"audit": {"near_duplicates": {}}} | facts
    if expected and " " in expected:
        with pytest.raises(InputError, match=re.escape(expected)):
            take_split_options_of(facts, data, "it")
    else:
        take_split_options_of(facts, data, "it")
        assert data.same_lesion == expected


def test_verify_uses_the_list_of_the_run(synthetic_dir, tmp_path, capsys):
    rows = read_rows(next(synthetic_dir.glob("*.csv")))
    nevi = [row["image_id"] for row in rows if row["dx"] == "nv"]
    decisions = tmp_path / "decisions.csv"
    pairs = [f"{first},{second},same lesion" for first, second in zip(nevi[:30], nevi[-30:], strict=True)]
    decisions.write_text("\n".join(["image_a,image_b,decision", *pairs, ""]))
    run = make_true_run(tmp_path / "run", synthetic_dir, str(decisions))
    words = ["verify", str(run), "--data_dir", str(synthetic_dir)]
    capsys.readouterr()
    assert main(words) == 2
    assert "add --same_lesion path/to/decisions.csv" in capsys.readouterr().err
    assert main([*words, "--same_lesion", str(decisions)]) == 0
    assert main([*words, "--same_lesion", "none"]) != 0  # another split
