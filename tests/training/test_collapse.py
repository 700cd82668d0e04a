"""A model that predicts the same class for every image is detected: metrics, warning, stop, report."""

import json
import logging
import math

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState

from ham_hf.config.recipe import RunArguments
from ham_hf.evaluation.metrics import collapsed_steps, prediction_spread
from ham_hf.evaluation.predictions import read_predictions, write_predictions
from ham_hf.reporting.report import write_report
from ham_hf.train import main
from ham_hf.training.callbacks import CollapseGuard
from tests.helpers.fake_runs import make_run
from tests.helpers.tiny_runs import tiny_flags


def history(*shares, start=1):
    """An evaluation every 10 steps, with a training loss between them."""
    entries = []
    for number, share in enumerate(shares, start=start):
        entries.append({"loss": 1.0, "step": 10 * number - 5, "epoch": number - 0.5})
        entries.append(
            {
                "eval_loss": 1.0,
                "eval_top_class_share": share,
                "eval_predicted_class_entropy": 0.01,
                "step": 10 * number,
                "epoch": float(number),
            }
        )
    return entries


def test_the_spread_of_predictions_by_hand():
    probabilities = np.eye(7)[[5, 5, 4, 0]]
    spread = prediction_spread(probabilities)
    assert spread["top_class_share"] == 0.5
    assert spread["predicted_class_entropy"] == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert str(prediction_spread(np.eye(7)[[5, 5, 5]])) == "{'predicted_class_entropy': 0.0, 'top_class_share': 1.0}"
    assert prediction_spread(np.array([[0.9, 0.1], [0.4, 0.6]]))["predicted_class_entropy"] == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize(
    ("shares", "steps"),
    [
        ([], []),
        ([1.0], []),
        ([1.0, 0.994, 1.0], []),
        ([0.9, 0.995, 0.995], [30]),
        ([1.0, 1.0, 1.0, 0.5, 1.0, 1.0], [20, 30, 60]),
    ],
)
def test_a_collapse_takes_two_consecutive_evaluations(shares, steps):
    assert collapsed_steps(history(*shares)) == steps


def guarded(tmp_path, shares, stop=False) -> TrainerControl:
    """The guard at the last evaluation of a training with these shares, as after a resume: it saw no other one."""
    args = RunArguments(output_dir=str(tmp_path / "run"), stop_on_collapse=stop, use_cpu=True, bf16=False)
    state = TrainerState(log_history=history(*shares), global_step=10 * len(shares))
    control = TrainerControl()
    CollapseGuard().on_evaluate(args, state, control, metrics=state.log_history[-1])
    return control


def test_a_run_warns_once_and_suggests_remedies(tmp_path, caplog):
    for shares in ([1.0], [0.9, 1.0], [1.0, 0.9]):
        guarded(tmp_path, shares)
    assert not caplog.records
    guarded(tmp_path, [0.9, 1.0, 0.997])
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    for word in (
        "at least 99.5 %",
        "now 99.7 %",
        "learning_rate",
        "warmup_steps",
        "normalization",
        "logit_adjustment",
    ):
        assert word in record.getMessage()
    guarded(tmp_path, [0.9, 1.0, 0.997, 1.0])
    guarded(tmp_path, [1.0, 1.0, 0.5, 1.0, 1.0])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("stop", [True, False])
def test_a_collapse_stops_the_training_only_with_stop_on_collapse(tmp_path, stop):
    assert guarded(tmp_path, [1.0, 1.0], stop).should_training_stop is stop
    assert guarded(tmp_path, [1.0, 1.0, 1.0], stop).should_training_stop is stop
    assert not guarded(tmp_path, [1.0, 1.0, 0.9], stop).should_training_stop


def test_images_normalized_twice_collapse_and_the_run_stops_early_and_completes(tiny, synthetic_dir, tmp_path, caplog):
    settings = {"normalization": "twice", "num_train_epochs": 3, "max_train_samples": 24, "stop_on_collapse": True}
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    flags = tiny_flags(tiny, synthetic_dir, tmp_path / "run", **settings)
    main(flags)
    warnings = [record.getMessage() for record in caplog.records if "has collapsed" in record.getMessage()]
    assert len(warnings) == 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["run"]["training"]["epochs"] == 2
    collapse = report["collapse"]
    assert [entry["epoch"] for entry in collapse["evaluations"]] == [1, 2]
    assert collapse["collapsed_steps"] == [collapse["evaluations"][1]["step"]]
    assert collapse["saved_model"] == {"predicted_class_entropy": 0.0, "top_class_share": 1.0}
    main([*flags, "--resume"])
    assert json.loads((tmp_path / "run" / "report.json").read_text())["run"]["training"]["epochs"] == 2
    main([*flags, "--resume", "--stop_on_collapse", "False"])  # the log of the first part has been warned of
    assert len([record for record in caplog.records if "has collapsed" in record.getMessage()]) == 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["collapse"]["evaluations"]) == 3


# In the report


def page_of(run, shares):
    state = {"log_history": history(*shares)}
    (run / "trainer_state.json").write_text(json.dumps(state))
    collapse = write_report(run)["collapse"]
    return collapse, (run / "README.md").read_text(encoding="utf-8")


def test_the_report_says_whether_it_collapsed(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    collapse, page = page_of(run, [0.9, 1.0, 0.9])
    assert collapse["collapsed_steps"] == []
    assert collapse["evaluations"][1] == {
        "step": 20,
        "epoch": 2.0,
        "top_class_share": 1.0,
        "predicted_class_entropy": 0.01,
    }
    assert "There were no two consecutive evaluations at which one prediction covered at least 99.5 %" in page
    assert "has collapsed" not in page
    assert "| 20 | 2 | 100.0 % | .010 |" in page
    assert f"covers {100 * collapse['saved_model']['top_class_share']:.1f} % of the validation images" in page
    _, page = page_of(run, [0.9, 1.0, 1.0])
    assert "**The training collapsed" in page and "first at step 30**, and still at the end." in page
    _, page = page_of(run, [1.0, 1.0, 0.7])
    assert "first at step 20**, but not at the end." in page


def test_an_older_run_without_collapse_metrics_has_a_report(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    collapse = write_report(run)["collapse"]
    assert collapse["evaluations"] == [] and collapse["saved_model"]["top_class_share"] < 0.9
    assert "The log has no such figures" in (run / "README.md").read_text(encoding="utf-8")


def test_the_report_says_that_a_saved_model_has_collapsed_whatever_the_log(tmp_path):
    run = make_run(tmp_path / "run", images=(40, 0))
    path = run / "predictions_validation.csv"
    always_nv = np.tile(np.eye(7)[5], (40, 1))
    write_predictions(path, read_predictions(path)._replace(probabilities=always_nv))
    _, page = page_of(run, [1.0])
    assert "covers 100.0 % of the validation images: **the model has collapsed**; the entropy" in page
