"""Temperature and prior: found again where they are known, and folded into whatever ends in a linear layer."""

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn
from transformers import pipeline

from ham_hf.evaluation.calibration import (
    calibrate,
    calibration_of,
    fit_strength,
    fit_temperature,
    fold,
    last_linear,
)
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.inference.batches import PATIENT
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import all_view_logits, probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.tta import set_test_time_augmentation
from ham_hf.labels import LABELS
from ham_hf.models.build import build_model
from ham_hf.reporting import tables
from ham_hf.system.errors import InputError
from ham_hf.train import main
from tests.helpers.fake_runs import change_json
from tests.helpers.small_data import load, make_rows, noise, write_folder
from tests.helpers.tiny_checkpoints import make_run_folder

RNG = np.random.default_rng(0)


def drawn(logits):
    """A label for each row, with the probabilities that its logits say."""
    return np.array([RNG.choice(logits.shape[1], p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature):
    logits = 2 * RNG.normal(size=(20_000, 7))
    assert fit_temperature(temperature * logits[:, None], drawn(logits)) == pytest.approx(temperature, rel=0.05)


def test_with_several_views_their_mean_probability_is_calibrated():
    logits = RNG.normal(size=(5000, 1, 7)) + RNG.normal(size=(5000, 4, 7))
    labels = drawn(2 * logits.mean(1))
    temperature = fit_temperature(3 * logits, labels)

    def log_loss(at):
        return compute_scores(softmax(3 * logits / at, axis=2).mean(1), labels)["log_loss"]

    assert log_loss(temperature) < min(log_loss(0.9 * temperature), log_loss(1.1 * temperature))


def test_the_strength_maximizes_the_metric_and_is_0_without_a_gain():
    log_prior = np.log([0.6, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02])
    fair = RNG.normal(size=(3000, 7))
    labels = RNG.integers(0, 7, 3000)
    fair[np.arange(3000), labels] += 2
    assert fit_strength((fair + 0.5 * log_prior)[:, None], labels, log_prior, "balanced_accuracy", LABELS) > 0.2
    certain = 100 * np.eye(7)[labels][:, None]
    assert fit_strength(certain, labels, log_prior, "balanced_accuracy", LABELS) == 0


@pytest.mark.parametrize(
    "name",
    [
        "google/vit-base-patch16-224",
        "microsoft/resnet-50",
        "timm/resnet18.tv_in1k",
        "microsoft/beit-base-patch16-224-pt22k",
    ],
)
def test_folding_changes_the_logits_as_it_says(name, tiny_checkpoint):
    model = build_model(str(tiny_checkpoint(name)), labels=LABELS).eval()
    pixels, shift = torch.rand(2, 3, 32, 32), np.arange(7.0)
    with torch.no_grad():
        before = model(pixels).logits
        fold(model, 2.5, shift)
        after = model(pixels).logits
    torch.testing.assert_close(after, (before - torch.arange(7.0)) / 2.5, rtol=0, atol=1e-5)


def test_a_model_that_does_not_end_in_a_linear_layer_is_refused(tiny_checkpoint):
    model = build_model(str(tiny_checkpoint("google/vit-base-patch16-224")), labels=LABELS)
    model.classifier = nn.Sequential(model.classifier, nn.ReLU())
    with pytest.raises(
        InputError, match="one linear layer with a bias.*but ViTForImageClassification ends in Linear, ReLU"
    ):
        last_linear(model)


@pytest.mark.parametrize("prior", [None, [0.3, 0.1, 0.2, 0.0, 0.2, 0.15, 0.05]])
def test_what_is_fitted_is_in_the_model(prior, patient_model, tmp_path):
    folder = write_folder(tmp_path / "data", make_rows(21, 1))
    split = load(folder, split="all")[0]["test"]
    classifier = Classifier(*patient_model("mlp"))
    torch.nn.init.normal_(last_linear(classifier.model).weight)

    def logits():
        patients = zip(*(split[column][:] for column in PATIENT), strict=True)
        return all_view_logits(classifier, split["image"][:], patients)

    before = logits()
    log_prior = np.zeros(7) if prior is None else np.log(np.maximum(prior, 1e-6))
    labels = (before.mean(axis=1) - 0.4 * log_prior).argmax(axis=1)
    labels[:5] = LABELS.index("nv")  # some are wrong, or the best temperature would be the lowest
    fitted = calibrate(classifier, split.remove_columns("label").add_column("label", labels), prior, "accuracy")
    expected = 0.0 if prior is None else fit_strength(before, labels, log_prior, "accuracy", LABELS)
    assert fitted.prior_strength == expected and (expected > 0) == (prior is not None)
    assert fitted.temperature == fit_temperature(before - expected * log_prior, labels)
    np.testing.assert_allclose(logits(), (before - expected * log_prior) / fitted.temperature, atol=1e-4)
    assert fitted.images == 21 and calibration_of(classifier.model) == fitted._asdict()


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, synthetic_dir):
    """The same run twice, plain and calibrated with views."""
    folder = tmp_path_factory.mktemp("calibrated")
    checkpoint = make_run_folder(folder / "pretrained", "timm/resnet18.tv_in1k")
    flags = (
        f"--data_dir {synthetic_dir} --split grouped --model_name_or_path {checkpoint} --image_size 32 --bf16 false"
    )
    flags += " --num_train_epochs 1 --test_time_augmentation flips --learning_rate 1e-3"
    for kind in ("none", "temperature_and_prior"):
        main([*flags.split(), "--calibration", kind, "--output_dir", str(folder / kind)])
    return folder


def test_training_fits_calibration_on_validation_and_saves_it(calibrated):
    run = calibrated / "temperature_and_prior"
    facts = json.loads((run / "run.json").read_text())["model"]["calibration"]
    config = json.loads((run / "config.json").read_text())
    assert config["calibration"] == facts
    assert facts["images"] == len((run / "predictions_validation.csv").read_text().splitlines()) - 1
    scores = [
        compute_scores(of.probabilities, of.labels)
        for kind in ("none", "temperature_and_prior")
        for of in [read_predictions(calibrated / kind / "predictions_validation.csv", LABELS)]
    ]
    assert scores[1]["balanced_accuracy"] >= scores[0]["balanced_accuracy"]
    assert json.loads((calibrated / "none" / "run.json").read_text())["model"]["calibration"] is None


def test_the_plain_pipeline_is_calibrated_too(calibrated):
    run = str(calibrated / "temperature_and_prior")
    calibrated_one = load_classifier(run)
    set_test_time_augmentation(calibrated_one.model, "none")
    photo = noise()
    theirs = {a["label"]: a["score"] for a in pipeline("image-classification", run, top_k=7)(photo)}
    ours = probabilities(calibrated_one, [photo])[0]
    assert [theirs[label] for label in LABELS] == pytest.approx(ours.tolist(), abs=1e-5)
    plain = load_classifier(str(calibrated / "none"))
    set_test_time_augmentation(plain.model, "none")
    assert abs(probabilities(plain, [photo])[0] - ours).max() > 1e-3


def test_fine_tuning_a_calibrated_model_drops_its_calibration(calibrated, synthetic_dir, tmp_path):
    flags = f"--data_dir {synthetic_dir} --split grouped --image_size 32 --bf16 false --max_steps 1"
    start = calibrated / "temperature_and_prior"
    main([*flags.split(), "--model_name_or_path", str(start), "--output_dir", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "config.json").read_text()).get("calibration") is None
    assert "| calibration |" not in (tmp_path / "run" / "README.md").read_text()
    assert "| calibration |" in (start / "README.md").read_text()


@pytest.mark.parametrize(
    "strange", ["yes", {"temperature": 2}, {"temperature": "2", "prior_strength": 0, "images": 1}]
)
def test_a_foreign_config_entry_named_calibration_is_ignored(strange, tmp_path):
    folder = make_run_folder(tmp_path / "run")
    change_json(folder / "config.json", calibration=strange)
    assert calibration_of(load_classifier(str(folder)).model) is None


def test_the_card_says_that_the_calibration_error_is_optimistic(calibrated):
    report = json.loads((calibrated / "temperature_and_prior" / "report.json").read_text())
    [section] = [fact for name, fact in tables.model(report["run"]) if name == "calibration"]
    temperature = report["run"]["model"]["calibration"]["temperature"]
    assert f"{temperature:.3f}".lstrip("0") in section and "optimistic" in section
    assert section in (calibrated / "temperature_and_prior" / "README.md").read_text()
