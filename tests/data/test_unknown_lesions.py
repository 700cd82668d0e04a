"""Reports, cards and comparisons say what follows from images whose lesions are unknown."""

import json
import re
from pathlib import Path

import pytest

from ham_hf.evaluation.patients import Patients, write_patients
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.hub.verify.consistency import CANNOT_TELL, check_results
from ham_hf.reporting.compare import compare_runs, render_comparison
from ham_hf.reporting.model_card import claims
from ham_hf.reporting.report import build_report, read_run, write_report
from tests.helpers.fake_runs import make_other_run, make_run

# A number of lesions, or a statement about lesions that are not known
COUNTED = re.compile(r"\d (?:melanoma )?lesions?\b|draws over lesions|over the lesions|lesions drawn|in which lesions")


def forget_lesions(run: Path) -> Path:
    """Rewrite run.json as that of an evaluation on images whose lesions are unknown."""
    facts = json.loads((run / "run.json").read_text())
    facts["training"] = None
    for split, of in facts["data"]["splits"].items():
        of |= {"lesions": 0, "unknown_lesions": 0, "images": 0} if split != "test" else {"lesions": None}
    facts["data"]["splits"]["test"]["unknown_lesions"] = facts["data"]["splits"]["test"]["images"]
    facts["data"]["audit"]["lesions_in_two_splits"] = None
    (run / "run.json").write_text(json.dumps(facts))
    (run / "predictions_validation.csv").unlink()
    images = read_predictions(run / "predictions_test.csv").image_ids
    ages = [30 + 50 * (number % 7 == 0) for number in range(len(images))]
    unknown = ["unknown"] * len(images)
    write_patients(run / "patients_test.csv", images, Patients(ages, unknown, unknown, unknown))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = forget_lesions(make_run(tmp_path_factory.mktemp("unknown") / "run"))
    write_report(run)
    return run


def test_a_report_counts_no_lesions_and_says_what_that_does_to_the_intervals(run):
    results = json.loads((run / "report.json").read_text())["results"]["test"]
    assert results["lesions"] is None
    assert {group["lesions"] for groups in results["subgroups"].values() for group in groups} == {None}
    page = (run / "report.html").read_text()
    assert COUNTED.findall(page) == []
    assert "The lesions of 130 images are unknown" in page and "intervals are too narrow" in page
    assert "130 test images of an unknown number of lesions" in page
    assert '<th scope="row">lesions in two splits</th><td>unknown</td>' in page and "too few: 19 images" in page


def test_a_report_of_known_lesions_says_so(tmp_path):
    write_report(make_run(tmp_path / "run"))
    for name in ("README.md", "report.html"):
        page = (tmp_path / "run" / name).read_text()
        assert "draws over lesions" in page and "of 97 lesions" in page and "unknown number" not in page


def test_a_card_claims_no_number_of_lesions(run):
    assert all("lesions" not in claim.dataset_args for claim in claims(build_report(read_run(run))))


def test_a_comparison_counts_no_lesions(run, tmp_path):
    other = forget_lesions(make_other_run(tmp_path / "other", seed=1))
    comparison = compare_runs([run], [other], "test")
    text = render_comparison(comparison, [run], [other], "test")
    assert comparison["lesions"] is None and COUNTED.findall(text) == []
    assert "130 images of an unknown number of lesions" in text and "Intervals: bootstrap over images" in text
    assert "the intervals are too narrow" in text and "unlike the intervals" not in text


def test_an_older_report_that_counts_unknown_lesions_cannot_be_confirmed(run):
    report = json.loads((run / "report.json").read_text())
    measured = {"test": report["results"]["test"]}
    hashes = {"test": report["run"]["data"]["splits"]["test"]["sha256"]}
    assert check_results(report, measured, hashes, ["test"]) == []
    older = json.loads(json.dumps(report))
    older["results"]["test"]["lesions"] = 130
    [finding] = check_results(older, measured, hashes, ["test"])
    assert finding.verdict == CANNOT_TELL and "it counts 130 lesions" in finding.words
