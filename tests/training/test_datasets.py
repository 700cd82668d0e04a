"""Training is the same with images from files, from a cache, or with the features of a frozen backbone."""

import json
from pathlib import Path

import pytest

from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training import datasets
from tests.helpers.fake_teachers import make_teachers
from tests.helpers.tiny_runs import flags_of

pytestmark = pytest.mark.usefixtures("without_report")


def run(checkpoint: Path, data: Path, output: Path, **changes) -> tuple[list[dict], str]:
    """The log of losses, and the predictions of the saved model."""
    values = {
        "model_name_or_path": checkpoint,
        "data_dir": data,
        "split": "grouped",
        "image_size": 32,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 16,
        "logging_steps": 1,
        "bf16": False,
        "disable_tqdm": True,
        "output_dir": output,
    } | changes
    main(flags_of(values))
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    losses = [{key: entry[key] for key in ("loss", "eval_loss") if key in entry} for entry in history]
    return losses, (output / "predictions_validation.csv").read_text()


@pytest.mark.parametrize("augment", [True, False])
def test_a_cache_of_pixels_changes_no_prediction(augment, tiny, synthetic_dir, tmp_path):
    settings = {"augment": augment, "num_train_epochs": 1, "max_train_samples": 32}
    decoded = run(tiny, synthetic_dir, tmp_path / "decoded", **settings)
    cached = run(tiny, synthetic_dir, tmp_path / "cached", **settings, pixel_cache=True)
    assert cached == decoded


@pytest.mark.parametrize(
    ("name", "pixel_cache"), [("timm/resnet18.tv_in1k", True), ("google/vit-base-patch16-224", False)]
)
def test_a_frozen_backbone_that_runs_once_trains_the_same_classifier(
    name, pixel_cache, tiny_checkpoint, synthetic_dir, tmp_path, monkeypatch, caplog
):
    settings = {"freeze": "backbone", "augment": False, "pixel_cache": pixel_cache}
    with caplog.at_level("INFO", "ham_hf.train"):
        losses, predictions = run(tiny_checkpoint(name), synthetic_dir, tmp_path / "once", **settings)
    assert "computing its features once" in caplog.text
    monkeypatch.setattr(datasets, "_trains_on_features", lambda *_: False)
    live_losses, live_predictions = run(tiny_checkpoint(name), synthetic_dir, tmp_path / "live", **settings)
    assert len(losses) == len(live_losses) > 4
    for once, live in zip(losses, live_losses, strict=True):
        assert once == pytest.approx(live, abs=1e-5)
    for once, live in zip(predictions.splitlines()[1:], live_predictions.splitlines()[1:], strict=True):
        assert once.split(",")[:3] == live.split(",")[:3]
        assert list(map(float, once.split(",")[3:])) == pytest.approx(list(map(float, live.split(",")[3:])), abs=1e-5)


def test_cached_features_are_taught_the_same_soft_labels(tiny, synthetic_dir, tmp_path, monkeypatch, caplog):
    soft = make_teachers(tmp_path / "cv", synthetic_dir)
    settings = {"freeze": "backbone", "augment": False, "soft_labels": soft}
    with caplog.at_level("INFO", "ham_hf.train"):
        losses, _ = run(tiny, synthetic_dir, tmp_path / "once", **settings)
    assert "computing its features once" in caplog.text
    monkeypatch.setattr(datasets, "_trains_on_features", lambda *_: False)
    live_losses, _ = run(tiny, synthetic_dir, tmp_path / "live", **settings)
    hard_losses, _ = run(tiny, synthetic_dir, tmp_path / "hard", freeze="backbone", augment=False)
    assert len(losses) == len(live_losses) > 4
    for once, live in zip(losses, live_losses, strict=True):
        assert once == pytest.approx(live, abs=1e-5)
    differences = [
        abs(of["loss"] - hard["loss"]) for of, hard in zip(losses, hard_losses, strict=True) if "loss" in of
    ]
    assert max(differences) > 0.01


def test_a_frozen_backbone_before_random_crops_runs_every_time(tiny, synthetic_dir, tmp_path, caplog):
    with caplog.at_level("INFO", "ham_hf.train"):
        run(tiny, synthetic_dir, tmp_path, freeze="backbone", max_steps=1)
    assert "computing its features once" not in caplog.text


def test_settings_of_augmentation_are_refused_without_it(tiny, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match="color_jitter has no effect with augment: false"):
        run(tiny, synthetic_dir, tmp_path, augment=False, color_jitter=0.2)
