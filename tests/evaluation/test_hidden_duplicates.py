"""Images whose lesion is in training under another lesion id, compared with the others of their diagnoses."""

import numpy as np
import pytest

from ham_hf.evaluation.hidden_duplicates import hidden_results
from ham_hf.evaluation.predictions import Predictions
from ham_hf.reporting.report import write_report
from tests.helpers.fake_runs import change_facts, make_run, same_lesion


def test_expected_is_the_recall_of_the_other_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    predicted = np.array([0, 0, 1, 1, 1, 0, 1])
    predictions = Predictions(list("abcdefg"), list("abcdefg"), labels, np.eye(2)[predicted], ["nv", "other"])
    # a and b are right, and one of the three others of their class is not: c, d
    assert hidden_results(predictions, ["a", "b", "e"]) == {"images": 3, "correct": 3, "expected": pytest.approx(0.5)}
    assert hidden_results(predictions, ["e", "f", "g"])["expected"] is None  # there is no other image of their class


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
