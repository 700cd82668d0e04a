"""Every mistake a user can make stops before any training, download or prediction, and says how to fix it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import BertConfig, BertModel, BitImageProcessor

from ham_hf.cli.main import main
from ham_hf.labels import LABELS
from tests.helpers.tiny_checkpoints import save_classifier

ROOT = Path(__file__).parents[2]
TABLE = "HAM10000_metadata.csv"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"), LABELS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20)
    ).save_pretrained(folder)
    BitImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def data(synthetic_dir, tmp_path) -> Path:
    """A copy of the synthetic images that a test may spoil."""
    return Path(shutil.copytree(synthetic_dir, tmp_path / "data"))


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def refused(capsys):
    """Run `ham-hf …`, which must refuse; returns its message."""

    def run(*argv: str | Path) -> str:
        capsys.readouterr()
        assert main(list(map(str, argv))) == 2
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in err
        return err[err.index("error: ") :]

    return run


@pytest.fixture
def refused_training(refused, tmp_path, classifier):
    """Run `ham-hf train …`, which must refuse and leave no run folder; returns its message."""

    def run(*argv: str | Path, model: str | Path = classifier, split: str = "grouped") -> str:
        output = tmp_path / "run"
        flags = ["--model_name_or_path", model, "--image_size", "32", "--split", split, "--output_dir", output]
        message = refused("train", *argv, *flags)
        assert not output.exists()
        return message

    return run


# Recipes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rat: 1e-3", ["unknown key 'learning_rat'", "did you mean 'learning_rate'?"]),
        ("seed: 1\nlearning_rate: 1e-3\nseed: 2", ["'seed' occurs twice"]),
        ("data_dri: synthetic", ["unknown key 'data_dri'", "did you mean 'data_dir'?"]),
        ("warmup_ratio: 0.1", ["unknown key 'warmup_ratio'", "did you mean"]),
        ("num_train_epochs: many", ["num_train_epochs is 'many': expected a number"]),
        ("per_device_train_batch_size: 2.5", ["per_device_train_batch_size", "'2.5'", "int"]),
        ("allow_missing_images: perhaps", ["allow_missing_images", "perhaps"]),
        ("optimizer: adamax", ["optimizer", "'adamax'", "adamw", "sgd"]),
        ("crop_scale: [0.5, 2]", ["crop_scale", "[0.5, 2.0]", "0 < smallest <= largest <= 1"]),
        ("fusion: mmbt", ["text_model_name_or_path is missing", "pypi:all-minilm-l6-v2"]),
        ("fusion: mlp\ntext_model_name_or_path: a/bert", ["'a/bert', which fusion: mlp does not use"]),
        ("fusion: mlp\npatient_encoding: codes", ["patient_encoding is 'codes'", "only fusion: mmbt"]),
        ("fusion: mlp\npatient_dropout: 1", ["patient_dropout is 1: expected a number from 0 to below 1"]),
        ("patient_dropout: 0.1", ["patient_dropout is 0.1: it requires a fusion"]),
        ("image_learning_rate: 1e-3", ["image_learning_rate requires a fusion: use learning_rate"]),
        ("config_overrides: dropout", ["config_overrides is 'dropout': expected a JSON object"]),
        ("- learning_rate", ["expected a flat mapping", "list"]),
        ("", ["expected a flat mapping"]),
        ("key: [", ["is not readable YAML"]),
    ],
)
def test_a_recipe_with_a_mistake_names_it(text, expected, refused_training, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text + "\n")
    message = refused_training(recipe, "--data_dir", "synthetic")
    for part in expected:
        assert part in message


def test_a_missing_recipe_is_named(refused_training, tmp_path):
    message = refused_training(tmp_path / "absent.yaml")
    assert f"no recipe at {tmp_path / 'absent.yaml'}: expected a YAML file, such as recipes/quickstart.yaml" in message


def test_an_unknown_flag_suggests_the_known_one(refused_training):
    message = refused_training("--data_dir", "synthetic", "--learnin_rate", "1e-3")
    assert "unknown argument '--learnin_rate': did you mean 'learning_rate'?" in message


def test_a_recipe_without_data_or_model_says_what_is_missing(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "data_dir is missing: expected a folder" in refused("train", "--model_name_or_path", "x")
    assert "model_name_or_path is missing: expected a checkpoint" in refused("train", "--data_dir", "synthetic")
    assert list(tmp_path.iterdir()) == []


# Data (what may be wrong with a folder: tests/data)


def test_a_missing_data_folder_is_named(refused_training, tmp_path):
    message = refused_training("--data_dir", tmp_path / "absent")
    assert str(tmp_path / "absent") in message and "expected" in message


def test_a_broken_image_is_named(data, refused_training):
    image = next(data.rglob("*.jpg"))
    image.write_bytes(b"no image")
    assert image.stem in refused_training("--data_dir", data)


# Checkpoints to train


def test_training_from_a_folder_without_a_model_is_refused(data, refused_training, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused_training("--data_dir", data, model=tmp_path / "empty")
    assert f"{tmp_path / 'empty'} is not a model folder: it has no config.json, model.safetensors" in message


# Prediction


def test_predicting_with_a_folder_that_is_no_run_names_what_is_missing(photo, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused("predict", tmp_path / "empty", photo)
    for part in (str(tmp_path / "empty"), "not a model folder", "config.json", "model.safetensors", "run folder"):
        assert part in message


def test_predicting_with_an_unfinished_run_names_its_last_checkpoint(photo, refused, tmp_path):
    for step in (90, 1000):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    message = refused("predict", tmp_path / "run", photo)
    assert f"its training is not finished; its last checkpoint is {tmp_path / 'run' / 'checkpoint-1000'}" in message


def test_predicting_with_a_model_path_that_does_not_exist_says_so(photo, refused, tmp_path):
    said = f"'{tmp_path / 'absent'}' is neither an existing folder nor a Hub id"
    assert said in refused("predict", tmp_path / "absent", photo)


def test_predicting_with_a_checkpoint_that_is_no_image_classifier_is_refused(bert, photo, refused):
    assert f"{bert} is a bert model, not an image classifier: expected a run folder" in refused("predict", bert, photo)


def test_predicting_with_a_model_of_other_labels_names_them(photo, refused, tmp_path):
    other = save_classifier(tmp_path / "other", ["cat", "dog"])
    message = refused("predict", other, photo)
    assert f"{other} has 2 labels (cat, dog): expected the seven diagnoses akiec, bcc" in message


def test_predicting_with_damaged_weights_is_refused(classifier, photo, refused, tmp_path):
    damaged = shutil.copytree(classifier, tmp_path / "damaged")
    os.truncate(damaged / "model.safetensors", 1000)
    assert f"{damaged}: its files do not fit together or are damaged" in refused("predict", damaged, photo)


def test_a_revision_of_a_local_folder_is_refused(classifier, photo, refused):
    assert "has no revision v1: remove --revision" in refused("predict", classifier, photo, "--revision", "v1")


def test_a_missing_photograph_is_named(classifier, refused, tmp_path):
    assert f"no photograph or folder at {tmp_path / 'absent.jpg'}" in refused(
        "predict", classifier, tmp_path / "absent.jpg"
    )


def test_a_folder_without_images_is_named(classifier, refused, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert f"no image in {tmp_path} (only 1 .txt): expected files ending in .jpg" in refused(
        "predict", classifier, tmp_path
    )


def test_a_broken_photograph_leaves_no_csv(classifier, photo, refused, tmp_path):
    (tmp_path / "empty.jpg").touch()
    message = refused("predict", classifier, photo, tmp_path / "empty.jpg", "--csv", tmp_path / "out.csv")
    assert "1 of 2 files cannot be used" in message and "empty.jpg: the file is empty" in message
    assert not (tmp_path / "out.csv").exists()


def test_a_csv_that_cannot_be_written_is_refused_before_the_work(classifier, photo, refused, tmp_path):
    assert "is a folder: expected the name of a file" in refused("predict", classifier, photo, "--csv", tmp_path)
    absent = tmp_path / "absent" / "out.csv"
    assert f"--csv {absent}: {absent.parent} does not exist or is not writable" in refused(
        "predict", classifier, photo, "--csv", absent
    )


# Reports


def test_a_report_of_a_folder_that_is_no_run_names_what_is_missing(refused, tmp_path):
    message = refused("report", tmp_path)
    assert str(tmp_path) in message and "run.json" in message
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path / "absent") in refused("report", tmp_path / "absent")


# The Hub


def test_a_hub_id_in_offline_mode_is_refused_at_once(photo, refused, refused_training):
    for message in (
        refused("predict", "someone/some-model", photo),
        refused_training("--data_dir", "synthetic", model="someone/some-model"),
    ):
        assert "'someone/some-model' is not a local folder" in message and "offline mode is on" in message


def run(*argv: str | Path, **environment: str) -> tuple[subprocess.CompletedProcess, float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *map(str, argv)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done, time.perf_counter() - started


def nobody_answers(cache: Path) -> dict[str, str]:
    """The environment of a machine without a network, where offline mode was not asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again when the block ends
    return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(cache)}


def test_a_hub_id_without_a_network_does_not_hang(photo, tmp_path):
    done, seconds = run("ham_hf", "predict", "someone/some-model", photo, **nobody_answers(tmp_path / "cache"))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: model 'someone/some-model' is not a local folder, and the Hub cannot be reached"
    )
    assert "check the name and the network" in done.stderr
    assert seconds < 15


def test_a_model_in_the_cache_needs_no_network_and_does_not_hang(classifier, photo, tmp_path):
    commit = "0123456789" * 4
    repository = tmp_path / "cache" / "hub" / "models--someone--some-model"
    shutil.copytree(classifier, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    done, seconds = run("ham_hf", "predict", "someone/some-model", photo, **nobody_answers(tmp_path / "cache"))
    assert done.returncode == 0
    assert "Melanoma" in done.stdout
    assert seconds < 30  # mostly imports


def test_debug_shows_the_traceback(photo, tmp_path, capsys):
    assert main(["predict", str(tmp_path / "absent"), str(photo), "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert f"error: '{tmp_path / 'absent'}' is neither an existing folder nor a Hub id" in err


def test_a_home_that_cannot_be_written_names_hf_home_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()  # no folder can be made below a file, not even by root
    caches = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in caches}
    environment |= {"HOME": str(tmp_path / "file" / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ham_hf", "train", "quickstart", "--max_steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    error = done.stderr[done.stderr.index("error: ") :]
    assert "Set HF_HOME to a folder that you can write to" in error and error.count("\n") == 1
    assert "Matplotlib" not in done.stderr and list(tmp_path.iterdir()) == [tmp_path / "file"]
