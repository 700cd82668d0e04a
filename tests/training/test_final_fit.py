"""A final fit trains the recipe that a run has chosen on training and validation images together."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ham_hf.cli.main import main as ham_hf
from ham_hf.config.recipe import parse_recipe
from ham_hf.evaluation.training_record import record_of
from ham_hf.system.errors import InputError
from ham_hf.train import main
from tests.helpers.tiny_runs import tiny_flags

RECIPE = {"calibration": "temperature_and_prior", "melanoma_sensitivity": 0.9, "num_train_epochs": 3}


@pytest.fixture(scope="module")
def flags(tiny, synthetic_dir):
    by_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 9}
    return partial(tiny_flags, tiny, synthetic_dir, **by_epoch, **RECIPE)


@pytest.fixture(scope="module")
def chosen(flags, tmp_path_factory):
    """A run whose best checkpoint is that of the second of three epochs."""
    folder = tmp_path_factory.mktemp("runs") / "chosen"
    main(flags(folder))
    run = json.loads((folder / "run.json").read_text())
    run["training"]["best_step"] = run["training"]["steps"] * 2 // 3
    (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.fixture(scope="module")
def final(flags, chosen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "final"
    main(flags(folder, final_fit=chosen, seed=7))
    return folder


def facts(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def test_training_and_validation_images_are_trained_on_and_nothing_is_chosen(chosen, final):
    before, run = facts(chosen), facts(final)
    sizes = [{name: split["images"] for name, split in of["data"]["splits"].items()} for of in (before, run)]
    assert sizes[1] == {"train": sizes[0]["train"] + sizes[0]["validation"], "validation": 0, "test": sizes[0]["test"]}
    assert run["data"]["splits"]["test"] == before["data"]["splits"]["test"]
    training = run["training"]
    assert training["epochs"] == 2 and training["best_step"] is None
    assert training["images"] == sizes[1]["train"] and training["steps"] == 2 * -(-sizes[1]["train"] // 8)
    assert training["final_fit"] == {
        **{"run": "chosen", "seed": 42, "epochs": 2.0},
        **{"metric": "balanced_accuracy", "value": before["training"]["best_value"]},
    }
    assert run["model"]["calibration"] == before["model"]["calibration"]
    assert run["model"]["melanoma_threshold"] == before["model"]["melanoma_threshold"]
    assert {image.split for image in record_of(str(final)).images} == {"train"}


def test_the_report_and_the_card_have_test_figures_only_and_name_both_runs(final):
    report = json.loads((final / "report.json").read_text())
    assert report["results"]["validation"] is None and report["results"]["test"]["metrics"]
    assert report["collapse"]["saved_model"] is None
    card = ModelCard.load(final / "README.md")
    assert {claim.dataset_split for claim in card.data.eval_results} == {"test"}
    text = " ".join(card.text.split())
    assert "The recipe was chosen by the run chosen (seed 42), and so was the number of epochs, 2" in text
    assert "validation: no images, because the model was trained on them" in text
    assert "validation images by the run chosen" in text and "its validation images are training images" in text
    assert "on training and validation images together, and predicts the test images once." in text
    assert "optimistic" not in text
    assert "The recipe was chosen by the run chosen" in " ".join((final / "report.html").read_text().split())


def test_its_card_is_verified_and_its_split_is_that_of_an_evaluation(final, synthetic_dir, tmp_path, capsys):
    data = ["--data_dir", str(synthetic_dir)]
    assert ham_hf(["verify", str(final), *data]) == 0
    shown = capsys.readouterr().out
    assert "9 claims: 9 hold" in shown and "cannot tell" not in shown
    assert ham_hf(["evaluate", str(final), *data, "--output_dir", str(tmp_path / "evaluation")]) == 0
    metrics = [json.loads((of / "report.json").read_text())["results"] for of in (final, tmp_path / "evaluation")]
    assert metrics[0]["test"]["metrics"] == metrics[1]["test"]["metrics"] and metrics[1]["validation"] is None


def test_with_split_all_every_image_is_trained_on(flags, chosen, tmp_path):
    main(flags(tmp_path / "all", final_fit=chosen, split="all"))
    run, before = facts(tmp_path / "all"), facts(chosen)
    images = sum(split["images"] for split in before["data"]["splits"].values())
    assert run["training"]["images"] == images
    card = ModelCard.load(tmp_path / "all" / "README.md")
    assert not card.data.eval_results
    text = " ".join(card.text.split())
    assert "test: no images, because the model was trained on all of them" in text
    assert "it is trained on all images." in text and "predicts the test images" not in text
    assert "This card has no figures, because all images of its data are training images" in text
    assert ham_hf(["push", str(tmp_path / "all"), "ada/skin", "--dry_run"]) == 0


def test_an_interrupted_final_fit_ends_as_if_it_had_not_been(flags, chosen, final, tmp_path):
    run = tmp_path / "final"
    shutil.copytree(final, run)
    (run / "run.json").unlink()
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 2
    for kept in (2, 1):  # all of them: only the report is missing
        for checkpoint in checkpoints[kept:]:
            shutil.rmtree(checkpoint)
        main([*flags(run, final_fit=chosen, seed=7), "--resume"])
        assert facts(run)["training"]["steps"] == facts(final)["training"]["steps"]
        for name in ("model.safetensors", "predictions_test.csv"):
            assert (run / name).read_bytes() == (final / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 2e-3}, "learning_rate is 0.001 there and 0.002 here"),
        ({"rotation": 9}, "rotation is 0.0 there and 9.0 here"),
        ({"num_train_epochs": 4}, "num_train_epochs is 3.0 there and 4.0 here"),
        ({"calibration": "none"}, "calibration is 'temperature_and_prior' there and 'none' here"),
        ({"per_device_train_batch_size": 4}, "the batch of all processes has 8 images there and 4 here"),
        ({"split_seed": 1}, "with other test images than this one"),
    ],
)
def test_another_recipe_or_split_is_refused(changes, words, flags, chosen, tmp_path):
    with pytest.raises(InputError, match="final_fit is .*chosen, wh") as caught:
        main(flags(tmp_path / "run", **{"final_fit": chosen} | changes))
    assert words in str(caught.value) and not (tmp_path / "run" / "training_images.csv").exists()


def test_other_images_are_refused(flags, chosen, synthetic_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(synthetic_dir, data)
    first = sorted(data.rglob("*.jpg"))[0]
    first.write_bytes(first.read_bytes() + b"\0")
    with pytest.raises(InputError, match="was trained on other images: expected the same --data_dir"):
        main(flags(tmp_path / "run", final_fit=chosen, data_dir=data))


def test_an_evaluation_has_chosen_nothing(flags, chosen, synthetic_dir, tmp_path):
    words = ["--data_dir", str(synthetic_dir), "--output_dir", str(tmp_path / "evaluation")]
    assert ham_hf(["evaluate", str(chosen), *words]) == 0
    with pytest.raises(InputError, match="evaluation, which was only evaluated: expected the run that chose"):
        main(flags(tmp_path / "run", final_fit=tmp_path / "evaluation"))


def test_a_final_fit_chooses_nothing_for_another_one(flags, final, tmp_path):
    with pytest.raises(InputError, match="which is a final fit itself: expected the run that chose the recipe"):
        main(flags(tmp_path / "run", final_fit=final))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"final_fit": "absent"}, "final_fit is 'absent': expected the folder of a finished `ham-hf train`"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "does not support lr_scheduler_type: reduce_lr_on_plateau"),
        ({"max_steps": 3}, "final_fit does not support max_steps"),
        ({"max_train_samples": 9}, "final_fit does not support max_train_samples"),
        ({"train_on_validation": True}, "unknown argument '--train_on_validation'"),
    ],
)
def test_what_a_final_fit_cannot_follow_is_refused_at_once(changes, words, flags, chosen, tmp_path):
    with pytest.raises(InputError) as caught:
        parse_recipe(flags(tmp_path / "run", **{"final_fit": chosen} | changes))
    assert words in str(caught.value)


def test_what_reads_validation_figures_refuses_a_final_fit(flags, chosen, final, synthetic_dir, tmp_path, capsys):
    data = ["--data_dir", str(synthetic_dir), "--split", "grouped"]
    assert ham_hf(["ensemble", str(chosen), str(final), *data, "--output_dir", str(tmp_path / "out")]) == 2
    assert f"{final} is a final fit, trained on the validation images" in capsys.readouterr().err
    assert ham_hf(["compare", str(chosen), "--with", str(final)]) == 2
    assert f"{final} has no validation images: choose the other --split" in capsys.readouterr().err
    recipe, sweep = tmp_path / "recipe.yaml", tmp_path / "sweep.yaml"
    recipe.write_text(f"final_fit: {chosen}\nmodel_name_or_path: {chosen}\ndata_dir: {synthetic_dir}\n")
    sweep.write_text("method: greedy\nvariables:\n  rotation: [0, 9]\n")
    assert ham_hf(["sweep", str(recipe), str(sweep)]) == 2
    assert "final_fit leaves no validation images to compare trials on" in capsys.readouterr().err
    assert ham_hf(["cross-validate", str(recipe), "--folds", "2", "--output_dir", str(tmp_path / "folds")]) == 2
    assert "final_fit trains on the validation images" in capsys.readouterr().err
