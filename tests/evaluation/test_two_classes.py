"""`classes: nevus_or_other`: the study's Model 4, from the data to the prediction."""

import csv
import json
import shutil

import pytest
from datasets import Image

from ham_hf.cli.main import main
from ham_hf.config.metric_names import COMPARED_METRICS
from ham_hf.data.dataset import load_ham10000
from ham_hf.labels import LABELS, NEVUS_OR_OTHER, label_set
from ham_hf.reporting.compare import compare_runs
from tests.helpers.tiny_checkpoints import IMAGE_SIZE
from tests.helpers.tiny_runs import flags_of


def test_every_diagnosis_but_nevus_becomes_other_and_nothing_else_changes(synthetic_dir):
    seven, seven_facts = load_ham10000(synthetic_dir, "grouped")
    two, two_facts = load_ham10000(synthetic_dir, "grouped", classes="nevus_or_other")
    for name in seven:
        assert two[name].features["label"].names == list(NEVUS_OR_OTHER)
        expected = ["nv" if LABELS[label] == "nv" else "other" for label in seven[name]["label"][:]]
        assert [NEVUS_OR_OTHER[label] for label in two[name]["label"][:]] == expected
        before, after = (rows[name].cast_column("image", Image(decode=False)) for rows in (seven, two))
        assert before.remove_columns("label").to_dict() == after.remove_columns("label").to_dict()
        counts = seven_facts["splits"][name]["classes"]
        nevi = counts["nv"]
        assert two_facts["splits"][name]["classes"] == {"nv": nevi, "other": sum(counts.values()) - nevi}
    assert two_facts["split_sha256"] == seven_facts["split_sha256"]


def test_a_label_set_is_known_in_any_order():
    assert label_set(["other", "nv"]) == NEVUS_OR_OTHER
    assert label_set(reversed(LABELS)) == LABELS
    assert label_set(["nv", "mel"]) is None


@pytest.fixture(scope="module")
def run(tiny_checkpoint, synthetic_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two"
    flags = {
        "data_dir": synthetic_dir,
        "split": "grouped",
        "classes": "nevus_or_other",
        "model_name_or_path": tiny_checkpoint("microsoft/resnet-50"),
        "image_size": IMAGE_SIZE,
        "num_train_epochs": 1,
        "logit_adjustment": 0.4,
        "report_to": "none",
        "output_dir": folder,
    }
    assert main(["train", *flags_of(flags)]) == 0
    return folder


def test_model_predictions_and_report_have_two_classes(run):
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "nv", "1": "other"}
    header = (run / "predictions_test.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "image_id,lesion_id,label,nv,other"
    results = json.loads((run / "report.json").read_text(encoding="utf-8"))["results"]["test"]
    assert len(results["confusion_matrix"]) == 2
    assert results["always_nv"]["balanced_accuracy"] == 0.5
    assert {"recall_nv", "recall_other"} <= set(results["metrics"]) and "recall_mel" not in results["metrics"]
    page = (run / "README.md").read_text(encoding="utf-8")
    assert "Any of the other six diagnoses (other)" in page and "Melanoma (mel)" not in page


def test_runs_of_two_classes_are_compared_by_all_but_melanoma(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoint-*"))
    assert set(COMPARED_METRICS) - set(compare_runs([run], [other])["metrics"]) == {"recall_mel"}


def test_the_validation_loss_is_without_the_adjustment_of_the_training_s(run):
    history = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    assert evaluations
    for entry in evaluations:
        assert entry["eval_loss"] == pytest.approx(entry["eval_log_loss"], rel=1e-3)


def test_predict_shows_two_classes(run, synthetic_dir, tmp_path, capsys):
    photo = next(synthetic_dir.rglob("*.jpg"))
    assert main(["predict", str(run), str(photo), "--csv", str(tmp_path / "out.csv")]) == 0
    shown = capsys.readouterr().out
    assert "Melanocytic nevus" in shown and "Any of the other six diagnoses" in shown and "Melanoma" not in shown
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert list(row) == ["file", "prediction", "nv", "other"]
    assert float(row["nv"]) + float(row["other"]) == pytest.approx(1)
    assert row["prediction"] == max(("nv", "other"), key=lambda name: float(row[name]))
