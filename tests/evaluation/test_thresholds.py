"""The melanoma threshold: fitted on validation, saved with the model, and evaluated on other images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ham_hf.cli.main import main as ham_hf
from ham_hf.evaluation.predictions import Predictions
from ham_hf.evaluation.thresholds import fit_threshold, threshold_results
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from ham_hf.train import main
from tests.helpers.fake_runs import change_json
from tests.helpers.tiny_checkpoints import make_run_folder

MEL, NV = LABELS.index("mel"), LABELS.index("nv")


def predictions(of_melanomas, of_others):
    """With these probabilities of melanoma, each image of a lesion of its own."""
    scores = np.array([*of_melanomas, *of_others])
    probabilities = np.zeros((len(scores), len(LABELS)))
    probabilities[:, MEL], probabilities[:, NV] = scores, 1 - scores
    labels = np.array([MEL] * len(of_melanomas) + [NV] * len(of_others))
    ids = [str(number) for number in range(len(scores))]
    return Predictions(ids, ids, labels, probabilities, LABELS)


@pytest.mark.parametrize(
    ("sensitivity", "threshold", "found", "spared"),
    [(0.5, 0.6, 0.5, 1.0), (0.6, 0.35, 0.75, 0.75), (1.0, 0.075, 1.0, 0.25)],
)
def test_the_threshold_is_the_highest_with_the_sensitivity(sensitivity, threshold, found, spared):
    of = predictions([0.9, 0.7, 0.4, 0.1], [0.5, 0.3, 0.2, 0.05])
    assert fit_threshold(of, sensitivity) == pytest.approx(threshold)
    results = threshold_results(of, threshold)
    assert threshold_results(of, threshold) == results  # the same draws every time
    assert (results["sensitivity"]["value"], results["specificity"]["value"]) == (found, spared)
    assert threshold_results(of, 0.7)["sensitivity"]["value"] == 0.5  # at least 0.7


def test_the_interval_is_about_as_wide_as_the_binomial_says():
    rng = np.random.default_rng(0)
    of = predictions(rng.beta(4, 2, 400), rng.beta(2, 4, 1600))
    entry = threshold_results(of, 0.5)["sensitivity"]
    low, high = entry["interval"]
    expected = 2 * 1.96 * (entry["value"] * (1 - entry["value"]) / 400) ** 0.5
    assert high - low == pytest.approx(expected, rel=0.15)


def test_fitting_requires_a_melanoma():
    with pytest.raises(InputError, match="no melanoma among the validation images"):
        fit_threshold(predictions([], [0.5, 0.3]), 0.9)


def test_sensitivity_without_melanoma_is_undefined():
    results = threshold_results(predictions([], [0.5, 0.3]), 0.4)
    assert results["sensitivity"] == {"value": None, "interval": None}
    assert results["specificity"]["value"] == 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory, synthetic_dir):
    folder = tmp_path_factory.mktemp("threshold")
    start = make_run_folder(folder / "start")
    flags = f"--model_name_or_path {start} --data_dir {synthetic_dir} --split grouped --image_size 32 --max_steps 2"
    main([*flags.split(), "--melanoma_sensitivity", "0.9", "--bf16", "false", "--output_dir", str(folder / "run")])
    return folder / "run"


def test_training_saves_and_reports_the_threshold_and_verify_checks_it(run, synthetic_dir, tmp_path):
    threshold = json.loads((run / "config.json").read_text())["melanoma_threshold"]
    results = json.loads((run / "report.json").read_text())["results"]
    assert results["validation"]["melanoma_threshold"]["threshold"] == threshold
    assert results["validation"]["melanoma_threshold"]["sensitivity"]["value"] >= 0.9
    assert "specificity" in results["test"]["melanoma_threshold"]
    assert "Melanoma is suspected if its probability is at least" in (run / "README.md").read_text()
    verify = ["verify", str(run), "--data_dir", str(synthetic_dir)]
    assert ham_hf(verify) == 0
    changed = shutil.copytree(run, tmp_path / "changed")
    change_json(changed / "config.json", melanoma_threshold=0.999)
    assert ham_hf(["verify", str(changed), *verify[2:]]) == 1  # another threshold finds something else
    for strange in (1.1, "high", True):
        change_json(changed / "config.json", melanoma_threshold=strange)
        with pytest.raises(InputError, match="config.json has melanoma_threshold .*: expected a probability"):
            load_classifier(str(changed))


def test_predict_shows_the_melanoma_threshold(run, tmp_path, capsys):
    Image.new("RGB", (60, 45), "brown").save(tmp_path / "photo.png")
    assert ham_hf(["predict", str(run), str(tmp_path / "photo.png")]) == 0
    assert "Suspect melanoma if its probability is at least" in capsys.readouterr().out
