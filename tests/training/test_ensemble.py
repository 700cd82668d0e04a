"""An ensemble is a model like any other: calibrated, evaluated, verified and published."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ViTConfig, pipeline

from ham_hf.cli.main import main as ham_hf
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_record import FILE, read_record
from ham_hf.hub.model_repo import check_that_it_loads, stage
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.models.ensemble import EnsembleConfig, EnsembleForImageClassification
from ham_hf.system.files import new_folder
from ham_hf.train import main
from ham_hf.training.checkpointing import only_writer
from ham_hf.training.ensemble import join, select_greedily
from tests.helpers.fake_runs import change_facts, change_json
from tests.helpers.small_data import noise
from tests.helpers.tiny_checkpoints import make_run_folder

KINDS = ("google/vit-base-patch16-224", "timm/resnet18.tv_in1k")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, synthetic_dir):
    folder = tmp_path_factory.mktemp("members")
    flags = f"--data_dir {synthetic_dir} --split grouped --image_size 32 --num_train_epochs 1 --learning_rate 1e-3"
    for number, kind in enumerate(KINDS):
        start = make_run_folder(folder / f"start_{number}", kind)
        words = f"{flags} --model_name_or_path {start} --output_dir {folder / f'run_{number}'} --bf16 false"
        main([*words.split(), "--test_time_augmentation", "flips"])
    return [folder / f"run_{number}" for number in range(len(KINDS))]


@pytest.fixture(scope="module")
def ensemble(runs, synthetic_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "both"
    words = f"ensemble {runs[0]} {runs[1]} --data_dir {synthetic_dir} --split grouped --output_dir {folder}"
    assert ham_hf(words.split()) == 0
    return folder


def test_it_predicts_the_mean_of_its_members_until_it_is_calibrated(runs):
    loaded = [load_classifier(str(run)) for run in runs]
    joined = join([classifier.model for classifier in loaded], [0.25, 0.75])
    photos = [noise(seed=seed) for seed in range(3)]
    members = [probabilities(classifier, photos) for classifier in loaded]
    ours = probabilities(loaded[0]._replace(model=joined), photos)
    np.testing.assert_allclose(ours, 0.25 * members[0] + 0.75 * members[1], atol=1e-6)


def test_its_record_is_that_of_its_members(ensemble, runs):
    assert read_record(ensemble / FILE) == read_record(runs[0] / FILE) == read_record(runs[1] / FILE)
    of = json.loads((ensemble / "run.json").read_text())["data"]["overlap"]
    assert of["record"] == "complete" and of["test"]["train"] == of["validation"]["train"] == 0
    assert of["validation"]["validation"] == of["validation"]["images"]
    assert "None of the evaluated images was a training image of a member" in (ensemble / "README.md").read_text()


NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}


@pytest.fixture
def vit_and_resnet():
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    resnet = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    members = [ViTConfig(**vit, image_size=32, patch_size=8, **NAMES), ResNetConfig(**resnet, **NAMES)]
    torch.manual_seed(0)
    config = EnsembleConfig(members=[member.to_dict() for member in members], weights=[0.5, 0.5], **NAMES)
    return EnsembleForImageClassification(config).eval()


@torch.no_grad()
def test_it_returns_its_members_hidden_states_and_attentions_on_request(vit_and_resnet):
    model, images = vit_and_resnet, torch.rand(2, 3, 32, 32)
    model.set_attn_implementation("eager")
    plain = model(images)
    output = model(images, output_hidden_states=True, output_attentions=True)
    assert plain.hidden_states is None and plain.attentions is None
    shapes = 3 * [(2, 17, 16)] + [(2, 4, 8, 8), (2, 4, 8, 8), (2, 8, 4, 4)]
    assert [tuple(state.shape) for state in output.hidden_states] == shapes
    assert [tuple(weights.shape) for weights in output.attentions] == 2 * [(2, 2, 17, 17)]
    [by_tuple] = model(images, return_dict=False)
    assert torch.equal(output.logits, plain.logits) and torch.equal(by_tuple, plain.logits)


def test_its_members_use_the_requested_attention(vit_and_resnet, tmp_path):
    assert [member.config._attn_implementation for member in vit_and_resnet.members] == ["sdpa", "eager"]
    vit_and_resnet.save_pretrained(tmp_path)
    for asked, expected in {"eager": ["eager", "eager"], "sdpa": ["sdpa", "eager"]}.items():
        loaded = EnsembleForImageClassification.from_pretrained(tmp_path, attn_implementation=asked)
        assert [member.config._attn_implementation for member in loaded.members] == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_takes_images_in_float32(vit_and_resnet, dtype, tmp_path):
    images = torch.rand(2, 3, 32, 32)
    vit_and_resnet.save_pretrained(tmp_path)
    half = EnsembleForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {dtype, torch.int64}  # counts of batches
    with torch.no_grad():
        output, expected = half(images).logits, vit_and_resnet(images).logits
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02)


def test_a_classifier_that_no_checkpoint_holds_changes_nothing(vit_and_resnet):
    members = {key: value for key, value in vit_and_resnet.state_dict().items() if not key.startswith("classifier")}
    loaded = EnsembleForImageClassification.from_pretrained(None, config=vit_and_resnet.config, state_dict=members)
    assert torch.equal(loaded.classifier.weight, torch.eye(7)) and not loaded.classifier.bias.any()


def test_its_report_is_about_the_saved_and_calibrated_weights(ensemble):
    report = json.loads((ensemble / "report.json").read_text())
    model = report["run"]["model"]
    assert [member["weight"] for member in model["members"]] == [0.5, 0.5]
    assert model["calibration"]["temperature"] > 0
    predictions = read_predictions(ensemble / "predictions_validation.csv", LABELS)
    scores = compute_scores(predictions.probabilities, predictions.labels)
    assert report["results"]["validation"]["metrics"]["log_loss"]["value"] == pytest.approx(scores["log_loss"])
    assert (ensemble / "README.md").read_text().count("member, weight") == 2


def test_its_card_holds(ensemble, synthetic_dir):
    card = (ensemble / "README.md").read_text()
    assert "trust_remote_code=True" in card and "The mean of 2 models trained with ham_hf" in card
    assert "The validation figures are therefore" in card
    assert ham_hf(["verify", str(ensemble), "--data_dir", str(synthetic_dir)]) == 0


def test_it_is_published_with_its_code_and_a_pipeline_reads_it(ensemble, tmp_path):
    staged = tmp_path / "staged"
    stage(ensemble, staged, repo_id="you/ensemble")
    assert {"modeling_ensemble.py", "configuration_ensemble.py"} <= {path.name for path in staged.iterdir()}
    check_that_it_loads(ensemble, staged)
    classify = pipeline("image-classification", model=str(ensemble), trust_remote_code=True, top_k=7)
    assert sum(result["score"] for result in classify(noise())) == pytest.approx(1, abs=1e-5)


def test_greedy_selection_takes_the_best_and_leaves_out_who_makes_it_worse():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 600)
    good, other, bad = (
        np.eye(7)[labels] * strength + rng.random((600, 7)) * noise_of
        for strength, noise_of in ((0.7, 1.5), (0.7, 1.5), (0.0, 4.0))
    )
    members = [of / of.sum(axis=1, keepdims=True) for of in (good, other, bad)]
    weights = select_greedily(members, labels, LABELS, "accuracy")
    assert sum(weights) == pytest.approx(1) and weights[2] == 0 and min(weights[:2]) > 0


def test_a_recipe_is_trained_first_and_not_again(
    runs, synthetic_dir, tmp_path, monkeypatch, capfd, caplog, in_this_process
):
    recipe = tmp_path / "member.yaml"
    recipe.write_text(
        f"model_name_or_path: {runs[0].parent / 'start_0'}\nimage_size: 32\nmax_steps: 2\nbf16: false\n"
        "test_time_augmentation: flips\n"
    )
    monkeypatch.chdir(tmp_path)
    words = f"ensemble {recipe} {runs[1]} --data_dir {synthetic_dir} --split grouped --calibration none"
    assert ham_hf([*words.split(), "--output_dir", "first", "--greedy", "accuracy"]) == 0
    assert (tmp_path / "first-members" / "member" / "run.json").exists()
    shutil.rmtree(tmp_path / "first")
    caplog.clear()
    assert ham_hf([*words.split(), "--output_dir", "first"]) == 0
    assert "first-members/member is trained" in caplog.messages
    shutil.rmtree(tmp_path / "first")
    recipe.write_text(recipe.read_text() + "seed: 3\n")
    assert ham_hf([*words.split(), "--output_dir", "first"]) == 2
    assert "was trained with another recipe or other flags" in capfd.readouterr().err


def test_a_second_ensemble_is_refused_at_once_while_the_first_one_is_built(runs, synthetic_dir, tmp_path, capsys):
    recipes = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for recipe in recipes:
        recipe.write_text("image_size: 32\n")
    words = ["--data_dir", str(synthetic_dir), "--output_dir", str(tmp_path / "new")]
    with only_writer(tmp_path / "new-members"):  # its members are trained
        assert ham_hf(["ensemble", *map(str, recipes), *words]) == 3
    with new_folder(tmp_path / "new"):
        assert ham_hf(["ensemble", *map(str, runs), *words]) == 3
    assert capsys.readouterr().err.count("another process is writing") == 2


def test_members_that_do_not_fit_are_refused(runs, synthetic_dir, tmp_path, capsys):
    words = f"--data_dir {synthetic_dir} --split grouped --output_dir {tmp_path / 'new'}".split()
    assert ham_hf(["ensemble", str(runs[0]), *words]) == 2
    assert "an ensemble requires at least two members, but there is 1 run" in capsys.readouterr().err
    other = shutil.copytree(runs[1], tmp_path / "other", ignore=shutil.ignore_patterns("checkpoint-*"))
    change_json(other / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    assert ham_hf(["ensemble", str(runs[0]), str(other), *words]) == 2
    assert "prepare images differently" in capsys.readouterr().err
    shutil.copy(runs[1] / "preprocessor_config.json", other)
    change_facts(other, data__splits__train__sha256="0" * 64)
    assert ham_hf(["ensemble", str(runs[0]), str(other), *words]) == 2
    assert "has other train images: expected" in capsys.readouterr().err
    shutil.copy(runs[1] / "run.json", other)
    shutil.copy(runs[1] / "predictions_test.csv", other / "predictions_validation.csv")
    assert ham_hf(["ensemble", str(runs[0]), str(other), *words]) == 2
    assert "other/predictions_validation.csv does not match the validation images" in capsys.readouterr().err
    assert ham_hf(["ensemble", str(runs[0]), str(tmp_path / "nothing"), *words]) == 2
    assert "no recipe at" in capsys.readouterr().err
