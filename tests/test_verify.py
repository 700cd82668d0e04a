"""`ham-hf verify`: true claims hold, and each way of falsifying a card is caught."""

import json
import re
import shutil

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors.torch import load_file, save_file

from ham_hf.card import claims
from ham_hf.cli import main
from tests.small_data import make_rows, write_folder, write_table
from tests.test_predict import make_run_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "images", make_rows())


@pytest.fixture(scope="module")
def published(tmp_path_factory, data):
    """A model with a card whose claims are true, and the record of its run."""
    folder = make_run_folder(tmp_path_factory.mktemp("models") / "vit")
    evaluation = folder.with_name("evaluation")
    words = ["--data_dir", str(data), "--split", "grouped", "--split_seed", "3", "--output_dir", str(evaluation)]
    assert main(["evaluate", str(folder), *words]) == 0
    shutil.copy(evaluation / "run.json", folder)
    report = json.loads((evaluation / "report.json").read_text())
    write_card(folder, claims(report))
    return folder


def write_card(folder, results) -> None:
    card = ModelCardData(model_name="skin", eval_results=results)
    (folder / "README.md").write_text(f"---\n{card.to_yaml()}\n---\n\n# Skin\n")


@pytest.fixture()
def model(published, tmp_path):
    return shutil.copytree(published, tmp_path / "model")


def verify(model, data, *words) -> int:
    return main(["verify", str(model), "--data_dir", str(data), *map(str, words)])


def claims_of(model) -> list[EvalResult]:
    return ModelCard.load(model / "README.md").data.eval_results


def test_true_claims_hold(model, data, capsys):
    assert verify(model, data) == 0
    shown = capsys.readouterr().out
    assert "18 claims: 18 hold, 0 false, 0 cannot be told." in shown
    assert re.search(r"test +balanced_accuracy +0\.\d{4} +0\.\d{4} +[+-]0\.0000 +\[.*\] +holds\n", shown)


def test_an_edited_figure_is_caught_and_corrected(model, data, tmp_path, capsys):
    results = claims_of(model)
    true = {(result.dataset_split, result.metric_type): result.metric_value for result in results}
    for result in results:
        if (result.dataset_split, result.metric_type) == ("test", "accuracy"):
            result.metric_value += 0.05
    write_card(model, results)
    assert verify(model, data, "--write", tmp_path / "README.md") == 1
    shown = capsys.readouterr().out
    assert "same images, another figure" in shown and "17 hold, 1 false" in shown
    corrected = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {(r.dataset_split, r.metric_type): r.metric_value for r in corrected} == pytest.approx(true, abs=1e-5)
    shutil.copy(tmp_path / "README.md", model)
    assert verify(model, data) == 0


def test_an_edited_interval_is_caught(model, data, capsys):
    results = claims_of(model)
    results[0].metric_args = {"interval": [results[0].metric_value - 0.001, results[0].metric_value + 0.001]}
    write_card(model, results)
    assert verify(model, data) == 1
    assert "the interval claimed is" in capsys.readouterr().out


def test_altered_weights_are_caught(model, data, capsys):
    weights = load_file(model / "model.safetensors")
    weights = {name: value.flip(0).contiguous() if "classifier" in name else value for name, value in weights.items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert verify(model, data) == 1
    assert "FALSE: same images, another figure" in capsys.readouterr().out


def test_figures_of_another_split_are_caught(model, data, capsys):
    results = claims_of(model)
    swap = {"validation": "test", "test": "validation"}
    for result in results:
        result.dataset_split = swap[result.dataset_split]
    write_card(model, results)
    assert verify(model, data) == 1
    assert "its data are the validation images, not test's" in capsys.readouterr().out


def test_a_split_that_leaks_is_refused(model, data, tmp_path, capsys):
    rows = [{"image_id": row["image_id"], "split": ("train", "test")[i % 2]} for i, row in enumerate(make_rows())]
    write_table(tmp_path / "leaky.csv", rows)
    assert verify(model, data, "--split", tmp_path / "leaky.csv") == 2
    assert "35 lesions in two splits" in capsys.readouterr().err


def test_training_on_other_images_than_the_splits_is_told(model, data, capsys):
    """A card may name a split that the run did not train by: the images judged may be among those trained on."""
    run = json.loads((model / "run.json").read_text())
    run["data"]["splits"]["train"]["sha256"] = "0" * 64
    (model / "run.json").write_text(json.dumps(run))
    assert verify(model, data) == 2
    assert "the training images were others than this split's" in capsys.readouterr().out


def test_other_images_under_the_same_names_cannot_tell(model, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    for path in sorted((other / "images").iterdir()):
        path.write_bytes(path.read_bytes() + b"\0")  # decodes to the same pixels
    assert verify(model, other) == 2
    shown = capsys.readouterr().out
    assert "made on other test images (SHA-256" in shown and "0 hold, 0 false" in shown


def foreign_card(model, **changes) -> None:
    """A card as other trainers write it."""
    claim = {
        "task_type": "image-classification",
        "dataset_type": "imagefolder",
        "dataset_name": "skin",
        "dataset_config": "default",
        "dataset_split": "validation",
        "metric_type": "accuracy",
    }
    write_card(model, [EvalResult(**claim | changes)])
    (model / "run.json").unlink()


@pytest.mark.parametrize(
    ("changes", "words", "code", "said"),
    [
        ({"metric_value": 0.99}, [], 1, "FALSE: outside the interval; the card names no data"),
        ({"metric_value": 99.0}, [], 1, "FALSE: outside the interval"),
        ({"metric_value": 0.1, "metric_type": "f1"}, [], 2, "unknown metric, say of which average"),
        ({"metric_value": 0.1, "metric_type": "bleu"}, [], 2, "unknown metric"),
        ({"metric_value": "good"}, [], 2, "'good' is no number"),
        ({"metric_value": 0.99, "dataset_split": "train"}, [], 2, "it is about the split 'train'"),
        ({"metric_value": 0.99, "dataset_split": "train"}, ["--part", "test"], 1, "outside the interval"),
    ],
)
def test_cards_that_we_did_not_write(model, data, capsys, changes, words, code, said):
    foreign_card(model, **changes)
    assert verify(model, data, "--split", "grouped", *words) == code
    assert said in capsys.readouterr().out


def test_a_foreign_claim_within_the_interval_holds(model, data, capsys):
    [accuracy] = [r for r in claims_of(model) if (r.dataset_split, r.metric_type) == ("test", "accuracy")]
    foreign_card(model, metric_value=round(100 * accuracy.metric_value, 1), dataset_split="test")
    assert verify(model, data, "--split", "grouped", "--split_seed", "3") == 0
    assert "within the interval; the card names no data" in capsys.readouterr().out


def test_a_card_without_claims_or_no_card_cannot_be_told(model, data, capsys):
    (model / "README.md").write_text("---\nlicense: mit\n---\n\n# Skin\n")
    assert verify(model, data) == 2
    assert "makes no claim" in capsys.readouterr().err
    (model / "README.md").unlink()
    assert verify(model, data) == 2
    assert "has no README.md" in capsys.readouterr().err
