"""`ham-hf evaluate`: any classifier, any images with known diagnoses, the same figures as a training's report."""

import html
import json
import shutil

import evaluate
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageClassification

from ham_hf.cli.ensemble import training_options
from ham_hf.cli.main import build_parser, main
from ham_hf.cli.options import data_arguments
from ham_hf.config.arguments import DataArguments
from ham_hf.config.recipe import parse_recipe
from ham_hf.data.dataset import load_checked
from ham_hf.data.sources.isic import CHALLENGE_COLUMNS, NOT_SCORED
from ham_hf.evaluate import evaluate_run
from ham_hf.evaluation.contamination import check_start
from ham_hf.evaluation.hf_metric import HamMetrics
from ham_hf.evaluation.isic_submission import write_submission
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.predictions import Predictions, read_predictions
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from ham_hf.system.files import new_folder
from tests.helpers.fake_runs import change_facts
from tests.helpers.small_data import load, make_rows, read_rows, write_folder, write_image, write_table
from tests.helpers.tiny_checkpoints import make_run_folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return make_run_folder(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "images", make_rows())


def run(*words) -> int:
    return main(["evaluate", *map(str, words)])


def test_an_evaluation_reports_the_models_predictions(model_folder, data, tmp_path, capsys):
    assert run(model_folder, "--data_dir", data, "--split", "grouped", "--output_dir", tmp_path / "out") == 0
    assert "validation: balanced accuracy" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    splits, facts = load(data)
    classifier = load_classifier(str(model_folder))
    for name in ("validation", "test"):
        predicted = probabilities(classifier, splits[name]["image"])
        expected = compute_scores(predicted, np.array(splits[name]["label"][:]))
        found = report["results"][name]["metrics"]
        assert found["balanced_accuracy"]["value"] == pytest.approx(expected["balanced_accuracy"], abs=1e-12)
        assert found["log_loss"]["value"] == pytest.approx(expected["log_loss"], abs=1e-6)
        assert report["run"]["data"]["splits"][name]["sha256"] == facts["splits"][name]["sha256"]
    assert report["run"]["training"] is None and report["run"]["model"]["image_size"] == 32
    page = (tmp_path / "out" / "report.html").read_text()
    assert "evaluation report" in page and "ham-hf evaluate" in page and not (tmp_path / "out" / "README.md").exists()
    assert not (tmp_path / "out" / "plots" / "loss.png").exists()
    assert main(["report", str(tmp_path / "out")]) == 0


def test_data_without_splits_or_lesions_are_evaluated_as_a_whole(model_folder, tmp_path):
    rows = [{"image_id": row["image_id"], "dx": row["dx"]} for row in make_rows(14, 1)]
    (tmp_path / "clinic").mkdir()
    write_table(tmp_path / "labels.csv", rows)
    for seed, row in enumerate(rows):
        write_image(tmp_path / "clinic" / f"{row['image_id']}.png", seed)
    words = [model_folder, "--data_dir", tmp_path / "clinic", "--metadata_csv", tmp_path / "labels.csv"]
    assert run(*words, "--split", "all", "--output_dir", tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    assert results["validation"] is None and results["test"]["images"] == 14
    assert results["test"]["lesions"] is None


@pytest.fixture()
def challenge(tmp_path):
    """ISIC 2018's test set in small: images, and a ground truth with one column a diagnosis."""
    folder = tmp_path / "ISIC2018"
    (folder / "ISIC2018_Task3_Test_Input").mkdir(parents=True)
    rows = []
    for number in range(28):
        name, code = f"ISIC_{35000 + number:07d}", LABELS[number % 7]
        write_image(folder / "ISIC2018_Task3_Test_Input" / f"{name}.jpg", number)
        rows.append(
            {"image": name} | {column: f"{float(CHALLENGE_COLUMNS[column] == code)}" for column in CHALLENGE_COLUMNS}
        )
    rows[3]["image"] = NOT_SCORED
    (folder / "ISIC2018_Task3_Test_Input" / "ISIC_0035003.jpg").rename(
        folder / "ISIC2018_Task3_Test_Input" / f"{NOT_SCORED}.jpg"
    )
    write_table(folder / "ISIC2018_Task3_Test_GroundTruth.csv", rows)
    return folder


@pytest.mark.parametrize("has_image", [True, False])
def test_the_challenges_test_set_gives_a_report_and_a_whole_submission(
    model_folder, challenge, tmp_path, caplog, has_image
):
    unscored = challenge / "ISIC2018_Task3_Test_Input" / f"{NOT_SCORED}.jpg"
    if not has_image:
        unscored.rename(tmp_path / "elsewhere.jpg")
    assert run(model_folder, "--data_dir", challenge, "--output_dir", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["data"]["kind"] == "isic2018" and report["results"]["test"]["images"] == 27
    predictions = read_predictions(tmp_path / "out" / "predictions_test.csv")
    rows = read_rows(tmp_path / "out" / "submission_test.csv")
    assert list(rows[0]) == ["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    assert report["run"]["data"]["split"] == "all" and report["run"]["data"]["split_by_default"]
    truth = [row["image"] for row in read_rows(challenge / "ISIC2018_Task3_Test_GroundTruth.csv")]
    # What the challenge's own command asks of a file: a row for each image of the ground truth, each once, no other
    assert [row["image"] for row in rows] == sorted(truth) and len(set(truth)) == 28
    predicted = {row["image"]: [float(row[code.upper()]) for code in LABELS] for row in rows}
    of_unscored = predicted.pop(NOT_SCORED)
    assert list(predicted) == predictions.image_ids and list(predicted.values()) == predictions.probabilities.tolist()
    page = " ".join(html.unescape((tmp_path / "out" / "report.html").read_text()).split())
    said = "does not score, is not included in any figure; its row of the submission is "
    if has_image:
        [expected] = probabilities(load_classifier(str(model_folder)), [Image.open(unscored)])
        assert of_unscored == pytest.approx(expected.tolist(), abs=1e-7)
        assert f"{said}the model's prediction." in page
    else:
        assert of_unscored == [1 / 7] * 7
        assert f"{said}a placeholder, the same for each diagnosis." in page
        assert f"{NOT_SCORED}, which the challenge does not score, has no readable image here" in caplog.text
    assert "the default for images that are neither in HAM10000 nor in the model's training record" in page
    assert "Which images this model was trained on is not recorded" in page


def test_a_ground_truth_of_two_diagnoses_is_refused(model_folder, challenge, tmp_path, capsys):
    path = challenge / "ISIC2018_Task3_Test_GroundTruth.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("0.0", "1.0", 1)
    path.write_text("\n".join(lines))
    assert run(model_folder, "--data_dir", challenge, "--split", "all", "--output_dir", tmp_path / "out") == 2
    assert "line 2: ISIC_0035000 has 2 diagnoses" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_balanced_accuracy_and_auroc_are_those_of_the_challenges_own_scoring(tmp_path):
    classification = pytest.importorskip(
        "isic_challenge_scoring.classification", reason="isic-challenge-scoring is not installed"
    )
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(7), rng.integers(7, size=293)])
    powers = np.exp(rng.normal(size=(300, 7)) + np.eye(7)[labels])
    predicted = powers / powers.sum(axis=1, keepdims=True)
    names = [f"ISIC_{number:07d}" for number in range(300)]
    write_submission(tmp_path / "submission.csv", Predictions(names, names, labels, predicted, LABELS))
    truth = [
        {"image": name} | {column: f"{float(code == LABELS[label])}" for column, code in CHALLENGE_COLUMNS.items()}
        for name, label in zip(names, labels, strict=True)
    ]
    write_table(tmp_path / "truth.csv", truth)
    # Its own reader of CSVs calls what pandas 3 has no more (DataFrame.applymap); its scoring does not
    truth, submission = (
        pd.read_csv(tmp_path / name, index_col="image").sort_index() for name in ("truth.csv", "submission.csv")
    )
    weights = pd.DataFrame(1.0, index=truth.index, columns=["score_weight", "validation_weight"])
    metric = classification.ClassificationMetric.BALANCED_ACCURACY
    theirs = classification.ClassificationScore(truth, submission, weights, metric)
    ours = compute_scores(predicted, labels)
    assert ours["balanced_accuracy"] == pytest.approx(theirs.overall, abs=1e-9)
    for column, code in CHALLENGE_COLUMNS.items():
        assert ours[f"auroc_{code}"] == pytest.approx(theirs.per_category.loc[column, "auc"], abs=1e-9)


def test_the_default_split_is_that_of_the_training(model_folder, data, tmp_path, caplog):
    trained = shutil.copytree(model_folder, tmp_path / "trained")
    words = [trained, "--data_dir", data]
    assert run(*words, "--split", "grouped", "--split_seed", "3", "--output_dir", tmp_path / "first") == 0
    shutil.copy(tmp_path / "first" / "run.json", trained)  # as if it had been trained on that split
    assert run(*words, "--output_dir", tmp_path / "own") == 0
    first, own, other = tmp_path / "first", tmp_path / "own", tmp_path / "other"
    assert (own / "predictions_test.csv").read_bytes() == (first / "predictions_test.csv").read_bytes()
    assert (
        evaluate_run(trained, data)
        == json.loads((first / "report.json").read_text())["results"]["validation"]["metrics"]
    )
    assert "was trained on other images" not in caplog.text
    assert run(*words, "--split", "grouped", "--output_dir", other) == 0
    assert "was trained on other images than the training images of this split" in caplog.text
    count = json.loads((first / "run.json").read_text())["data"]["splits"]["train"]["images"]
    assert f"{count} other images; evaluated images may be among them" in (other / "report.html").read_text()
    assert "trained on before" not in (own / "report.html").read_text()


def seen(folder) -> int | None:
    return json.loads((folder / "run.json").read_text())["data"]["seen_before"]


def test_the_report_says_what_a_model_may_have_seen(model_folder, data, tmp_path):
    trained = shutil.copytree(model_folder, tmp_path / "trained")
    words = [trained, "--data_dir", data]
    assert run(*words, "--split", "grouped", "--output_dir", tmp_path / "first") == 0
    shutil.copy(tmp_path / "first" / "run.json", trained)
    count = json.loads((trained / "run.json").read_text())["data"]["splits"]["train"]["images"]
    # All of them as test images, its training images among them
    assert run(*words, "--split", "all", "--output_dir", tmp_path / "all") == 0
    assert seen(tmp_path / "all") == count
    # A checkpoint of it
    checkpoint = shutil.copytree(model_folder, trained / "checkpoint-7")
    assert run(checkpoint, *words[1:], "--split", "grouped", "--split_seed", "3", "--output_dir", tmp_path / "c") == 0
    assert seen(tmp_path / "c") == count
    # One whose own training began with a model that may have seen them
    change_facts(trained, data__seen_before=12)
    assert run(*words, "--output_dir", tmp_path / "own") == 0
    assert seen(tmp_path / "own") == 12
    # Other images: what a run without a record was trained on is known only for the study's split
    clinic = write_folder(tmp_path / "clinic", [row | {"image_id": f"c{row['image_id']}"} for row in make_rows()])
    assert run(trained, "--data_dir", clinic, "--split", "all", "--output_dir", tmp_path / "unknown") == 0
    assert seen(tmp_path / "unknown") == count
    change_facts(trained, data__seen_before=None, data__split="study")
    assert run(trained, "--data_dir", clinic, "--split", "all", "--output_dir", tmp_path / "clinics") == 0
    assert seen(tmp_path / "clinics") is None


def test_the_same_split_with_other_classes_is_recognized(data, model_folder, tmp_path):
    trained = shutil.copytree(model_folder, tmp_path / "trained")
    assert run(trained, "--data_dir", data, "--split", "grouped", "--output_dir", tmp_path / "first") == 0
    shutil.copy(tmp_path / "first" / "run.json", trained)
    splits, facts, checks = load_checked(DataArguments(str(data), split="grouped", classes="nevus_or_other"))
    check_start(str(trained), None, splits, facts, checks)
    assert facts["seen_before"] is None


def test_possible_training_images_are_evaluated_only_with_a_given_split(model_folder, data, tmp_path, capsys):
    trained = shutil.copytree(model_folder, tmp_path / "trained")
    words = [trained, "--data_dir", data, "--output_dir", tmp_path / "out"]
    assert run(*words[:3], "--split", "grouped", "--output_dir", tmp_path / "first") == 0
    shutil.copy(tmp_path / "first" / "run.json", trained)
    change_facts(trained, data__splits__train__sha256=64 * "0", data__split_sha256=64 * "0")
    assert run(*words) == 2
    assert "it may have seen the evaluated ones: if it has not, set --split" in capsys.readouterr().err
    change_facts(trained, data__split="ours.csv")
    assert run(*words) == 2
    assert "was trained with the split of a CSV: add --split path/to/ours.csv" in capsys.readouterr().err


def relabeled(model_folder, tmp_path, names):
    """The same weights under other names of the labels."""
    model = AutoModelForImageClassification.from_pretrained(model_folder)
    model.config.id2label = {i: names[label] for i, label in model.config.id2label.items()}
    model.config.label2id = {label: i for i, label in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "preprocessor_config.json").write_bytes(
        (model_folder / "preprocessor_config.json").read_bytes()
    )
    return tmp_path / "other"


def test_full_names_of_diagnoses_are_understood_and_others_need_a_map(model_folder, data, tmp_path, capsys):
    full = relabeled(model_folder, tmp_path, {
        "akiec": "Actinic keratoses", "bcc": "basal_cell_carcinoma", "bkl": "benign_keratosis-like_lesions",
        "df": "dermatofibroma", "mel": "Melanoma", "nv": "melanocytic_Nevi", "vasc": "growth",
    })  # fmt: skip
    words = [full, "--data_dir", data, "--split", "grouped", "--output_dir"]
    assert run(*words, tmp_path / "refused") == 2
    assert "--label_map" in capsys.readouterr().err
    assert run(*words, tmp_path / "mapped", "--label_map", '{"growth": "vasc"}') == 0
    assert run(model_folder, *words[1:], tmp_path / "own") == 0
    mapped, own = (read_predictions(tmp_path / name / "predictions_test.csv") for name in ("mapped", "own"))
    np.testing.assert_array_equal(mapped.probabilities, own.probabilities)
    assert run(*words, tmp_path / "wrong", "--label_map", '{"grwth": "vasc"}') == 2
    assert "--label_map names 'grwth'" in capsys.readouterr().err
    assert run(*words, tmp_path / "wrong", "--label_map", "[]") == 2


def test_labels_may_share_a_diagnosis_and_be_left_out(model_folder, data, tmp_path):
    classifier = load_classifier(str(model_folder))
    photos = load(data)[0]["test"]["image"][:4]
    whole = probabilities(classifier, photos)
    classifier.model.config.id2label = {i: "nv" if i == 6 else None if i == 5 else "other" for i in range(7)}
    two = probabilities(classifier, photos)
    by_class = np.stack([whole[:, 6], whole[:, :5].sum(axis=1)], axis=1)
    np.testing.assert_allclose(two, by_class / by_class.sum(axis=1, keepdims=True), atol=1e-12)


def test_a_non_empty_output_folder_is_refused(model_folder, data, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run(model_folder, "--data_dir", data, "--output_dir", tmp_path) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_second_command_into_the_same_folder_is_refused_and_the_first_one_ends(tmp_path):
    folder = tmp_path / "reports" / "new"
    with new_folder(folder) as first:
        (first / "report.html").write_text("first")
        with pytest.raises(InputError, match="another process is writing .*new: wait"), new_folder(folder):
            pass
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["reports/new/report.html"]


def test_leftovers_of_a_killed_command_are_overwritten(tmp_path):
    (tmp_path / ".new.unfinished").mkdir()
    (tmp_path / ".new.unfinished" / "half").touch()
    (tmp_path / ".new.unfinished.lock").touch()
    with new_folder(tmp_path / "new") as unfinished:
        (unfinished / "whole").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "whole"]


def test_the_folder_one_is_in_is_refused_before_the_work(model_folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(model_folder, "--data_dir", data, "--output_dir", ".") == 2
    assert "--output_dir . is the current folder" in capsys.readouterr().err


def test_every_command_about_images_knows_the_lists_of_duplicates():
    flags = ["--split", "study", "--same_lesion", "none", "--drop_hidden_duplicates"]
    for words in (["evaluate", "m"], ["verify", "m"], ["explain", "m"], ["ensemble", "m"], ["data", "push"]):
        of_data = ["here", "ada/data"] if words[0] == "data" else ["--data_dir", "here"]
        folder = ["--output_dir", "new"] if words[0] not in ("verify", "data") else []
        args = build_parser().parse_args([*words, *of_data, *flags, *folder])
        assert data_arguments(args).same_lesion == "none" and data_arguments(args).drop_hidden_duplicates
        if words[0] == "ensemble":
            trained = parse_recipe(["--model_name_or_path", "m", *training_options(args)])
            assert trained.data == data_arguments(args)


def test_the_evaluator_of_evaluate_takes_our_metric_and_our_models(model_folder, data):
    splits, _ = load(data)
    images = Dataset.from_dict({"image": splits["test"]["image"][:], "label": splits["test"]["label"][:]})
    classifier = load_classifier(str(model_folder))
    found = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=str(model_folder),
        data=images,
        metric=HamMetrics(),
        label_mapping=classifier.model.config.label2id,
        input_column="image",
        label_column="label",
    )
    expected = compute_scores(probabilities(classifier, images["image"]), np.array(images["label"][:]))
    assert found["balanced_accuracy"] == pytest.approx(expected["balanced_accuracy"])
    assert found["recall_mel"] == pytest.approx(expected["recall_mel"], nan_ok=True)
    assert "log_loss" not in found and "macro_auroc" not in found  # need probabilities
