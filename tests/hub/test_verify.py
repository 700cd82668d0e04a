"""`ham-hf verify`: true claims hold, and each way of falsifying a card is caught."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors.torch import load_file, save_file

from ham_hf.cli.main import main
from ham_hf.hub.verify.claims import read_card
from tests.helpers.small_data import ham10000_rows, write_table

MODEL_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture()
def model(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "model")


def edit_claims(model, change) -> None:
    """Call `change` with the dataset and the metric of every claim of the card; its page stays."""
    card = read_card(model / "README.md")
    for result in card.values["model-index"][0]["results"]:
        for metric in result["metrics"]:
            change(result["dataset"], metric)
    front = yaml.safe_dump(card.values, sort_keys=False)
    (model / "README.md").write_text(f"---\n{front}---\n{card.page}")


def verify(model, data, *words) -> int:
    return main(["verify", str(model), "--data_dir", str(data), *map(str, words)])


def claims_of(model) -> list[EvalResult]:
    return ModelCard.load(model / "README.md").data.eval_results


def test_true_claims_hold(model, data, capsys):
    assert verify(model, data) == 0
    shown = capsys.readouterr().out
    assert "18 claims: 18 hold, 0 false, 0 cannot be told.\n" in shown
    assert re.search(r"test +balanced_accuracy +0\.\d{4} +0\.\d{4} +[+-]0\.0000 +\[.*\] +holds\n", shown)
    last = shown.splitlines()[-1]
    assert last.startswith("Not checked: the base model and what it has seen; whether the training used other images")
    assert "the pictures in plots" in last and "; the files " in last and "trainer_state.json" in last


def test_an_edited_figure_is_caught_and_corrected(model, data, tmp_path, capsys):
    true = {(result.dataset_split, result.metric_type): result.metric_value for result in claims_of(model)}

    def raise_accuracy(dataset, metric):
        metric["value"] += 0.05 * ((dataset["split"], metric["type"]) == ("test", "accuracy"))

    edit_claims(model, raise_accuracy)
    assert verify(model, data, "--write", tmp_path / "README.md") == 1
    shown = capsys.readouterr().out
    assert "same images, another figure" in shown and "17 hold, 1 false" in shown
    assert re.search(r"README\.md, front matter, model-index\[0\].*value: FALSE: .*, where report.json has ", shown)
    assert shown.splitlines()[-1].startswith("Not checked: ")
    corrected = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {(r.dataset_split, r.metric_type): r.metric_value for r in corrected} == pytest.approx(true, abs=1e-5)
    shutil.copy(tmp_path / "README.md", model)
    assert verify(model, data) == 0


def test_an_edited_interval_is_caught(model, data, capsys):
    def narrow(_, metric):
        metric["args"] = {"interval": [metric["value"] - 0.001, metric["value"] + 0.001]}

    edit_claims(model, narrow)
    assert verify(model, data) == 1
    assert "the interval claimed is" in capsys.readouterr().out


def test_without_its_revision_a_claim_is_compared_with_the_images_of_report_json(model, data, capsys):
    def move_within_the_interval(dataset, metric):
        dataset.pop("revision", None)
        low, high = metric.pop("args", {"interval": (0, 1)})["interval"]
        metric.pop("name", None)
        metric["value"] = high if high - metric["value"] > metric["value"] - low else low

    edit_claims(model, move_within_the_interval)
    assert verify(model, data) == 1
    shown = capsys.readouterr().out
    assert "within the interval" not in shown and "same images, another figure" in shown


def test_altered_weights_are_caught(model, data, capsys):
    weights = load_file(model / "model.safetensors")
    weights = {name: value.flip(0).contiguous() if "classifier" in name else value for name, value in weights.items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert verify(model, data) == 1
    shown = capsys.readouterr().out
    assert "FALSE: same images, another figure" in shown
    assert "model.safetensors: FALSE: its weights are not those" in shown
    assert "predictions_test.csv: FALSE: " in shown and "predictions are not the model's, such as that of" in shown


def test_figures_of_another_split_are_caught(model, data, capsys):
    swap = {"validation": "test", "test": "validation"}
    card = read_card(model / "README.md")
    for result in card.values["model-index"][0]["results"]:
        result["dataset"]["split"] = swap[result["dataset"]["split"]]
    (model / "README.md").write_text(f"---\n{yaml.safe_dump(card.values)}---\n{card.page}")
    assert verify(model, data) == 1
    assert "its data are the validation images, not test's" in capsys.readouterr().out


def test_a_split_that_leaks_is_refused(model, data, tmp_path, capsys):
    rows = ham10000_rows()
    rows = [{"image_id": row["image_id"], "split": ("train", "test")[i % 2]} for i, row in enumerate(rows)]
    write_table(tmp_path / "leaky.csv", rows)
    assert verify(model, data, "--split", tmp_path / "leaky.csv") == 2
    assert "35 lesions in two splits" in capsys.readouterr().err


def change_training_hash(path, *keys) -> None:
    values = json.loads(path.read_text())
    place = values
    for key in keys:
        place = place[key]
    place["data"]["splits"]["train"]["sha256"] = "0" * 64
    path.write_text(json.dumps(values))


def test_training_on_other_images_than_the_splits_is_told(model, data, capsys):
    """A card may name a split that the run did not train by: the images evaluated may be among those trained on."""
    change_training_hash(model / "run.json")
    change_training_hash(model / "report.json", "run")
    (model / "report.html").unlink()  # which shows it
    assert verify(model, data) == 2
    assert "its training images are others than this split's: what it says of them was not" in capsys.readouterr().out
    (model / "training_images.csv").unlink()  # which alone says that none of the images was among them
    assert verify(model, data) == 2
    assert "the training images differ from those of this split" in capsys.readouterr().out
    (model / "run.json").unlink()  # which alone turned it into "holds"
    assert verify(model, data) == 2
    shown = capsys.readouterr().out
    assert "the training images differ from those of this split" in shown
    assert "run.json: cannot tell: is missing" in shown


def test_other_images_under_the_same_names_cannot_tell(model, data, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    for path in sorted((other / "images").iterdir()):
        path.write_bytes(path.read_bytes() + b"\0")  # decodes to the same pixels
    assert verify(model, other) == 2
    shown = capsys.readouterr().out
    assert "made on other test images (SHA-256" in shown and "0 hold, 0 false" in shown


# What users get


@pytest.mark.parametrize(
    ("name", "changes", "code", "said"),
    [
        (
            "config.json",
            {"problem_type": "multi_label_classification"},
            1,
            "pipeline: FALSE: users get something else",
        ),
        ("config.json", {"dtype": "bfloat16"}, 1, "pipeline: FALSE: users get something else"),
        (
            "config.json",
            {"auto_map": {"AutoModelForImageClassification": "evil/x--modeling.Evil"}},
            2,
            "pipeline: cannot tell: config.json refers to the code 'evil/x--modeling.Evil'",
        ),
    ],
)
def test_a_file_that_changes_what_users_get_is_caught(model, data, capsys, name, changes, code, said):
    values = json.loads((model / name).read_text()) | changes
    (model / name).write_text(json.dumps(values))
    assert verify(model, data) == code
    shown = capsys.readouterr().out
    assert "18 hold, 0 false" in shown and said in shown


# Cards that we did not write


def foreign_card(model, **changes) -> None:
    """A third-party model, with a card as other trainers write it."""
    claim = {
        "task_type": "image-classification",
        "dataset_type": "imagefolder",
        "dataset_name": "skin",
        "dataset_config": "default",
        "dataset_split": "validation",
        "metric_type": "accuracy",
    }
    for path in model.iterdir():
        if path.name not in MODEL_FILES:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    card = ModelCardData(model_name="skin", eval_results=[EvalResult(**claim | changes)])
    (model / "README.md").write_text(f"---\n{card.to_yaml()}\n---\n\n# Skin\n")


@pytest.mark.parametrize(
    ("changes", "words", "code", "said"),
    [
        ({"metric_value": 0.99}, [], 1, "FALSE: outside the interval; the card names no data"),
        ({"metric_value": 99.0}, [], 1, "FALSE: outside the interval"),
        ({"metric_value": 0.1, "metric_type": "f1"}, [], 2, "unknown metric, say of which average"),
        ({"metric_value": 0.1, "metric_type": "bleu"}, [], 2, "unknown metric"),
        ({"metric_value": "good"}, [], 2, "'good' is not a number"),
        ({"metric_value": 0.99, "dataset_split": "train"}, [], 2, "it is about the split 'train'"),
        ({"metric_value": 0.99, "dataset_split": "train"}, ["--part", "test"], 1, "outside the interval"),
        ({"metric_value": 0.99, "dataset_name": "ISIC 2019"}, [], 2, "it is about another dataset"),
    ],
)
def test_cards_that_we_did_not_write(model, data, capsys, changes, words, code, said):
    foreign_card(model, **changes)
    assert verify(model, data, "--split", "grouped", *words) == code
    shown = capsys.readouterr().out
    assert said in shown
    assert shown.splitlines()[-1].startswith("Not checked: the text of README.md and its front matter beside")


def test_a_foreign_claim_within_the_interval_holds(model, data, capsys):
    [accuracy] = [r for r in claims_of(model) if (r.dataset_split, r.metric_type) == ("test", "accuracy")]
    foreign_card(model, metric_value=round(100 * accuracy.metric_value, 1), dataset_split="test")
    assert verify(model, data, "--split", "grouped", "--split_seed", "3") == 0
    shown = capsys.readouterr().out
    assert "within the interval; the card names no data" in shown and "the files" not in shown
    shutil.copy(model / "model.safetensors", model / "model.fp16.safetensors")  # for `variant="fp16"`
    assert verify(model, data, "--split", "grouped", "--split_seed", "3") == 0
    assert capsys.readouterr().out.endswith("; the files model.fp16.safetensors.\n")


def test_a_malformed_entry_is_told_and_the_others_are_judged(model, data, capsys):
    foreign_card(model, metric_value=0.99)
    text = (model / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    [good] = front["model-index"][0]["results"]
    broken = [{"task": good["task"], "metrics": good["metrics"]}, {**good, "metrics": [{"type": "accuracy"}]}, "0.99"]
    front["model-index"][0]["results"] = [*broken, good]
    front["model-index"].append({"name": "empty", "results": []})
    (model / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n")
    assert verify(model, data, "--split", "grouped") == 1
    shown = capsys.readouterr().out
    assert "4 claims: 0 hold, 1 false, 3 cannot be told." in shown and "results[0] has no dataset" in shown
    assert "metrics[0] has no value" in shown and "results[2] is '0.99': expected keys and values" in shown


def test_a_card_without_claims_or_no_card_cannot_be_told(model, data, capsys):
    foreign_card(model, metric_value=0.99)
    for front in ("license: mit", "license: mit\nmodel-index:\n- name: x\n  results: []"):
        (model / "README.md").write_text(f"---\n{front}\n---\n\n# Skin\n")
        assert verify(model, data) == 2
        assert "makes no claims" in capsys.readouterr().err
    (model / "README.md").unlink()
    assert verify(model, data) == 2
    assert "has no README.md" in capsys.readouterr().err
