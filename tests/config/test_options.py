"""An option is honored, or refused with a sentence: no value ends in a traceback or is silently ignored."""

import json
import math
import pickle
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from ham_hf.cli.main import main
from ham_hf.config.option_errors import explained
from ham_hf.config.option_rules import TRAINING_ARGUMENTS, Range
from ham_hf.config.recipe import parse_recipe
from ham_hf.data.image_hashes import check_images
from ham_hf.data.image_io import read_cell
from ham_hf.data.pixel_cache import build_cache
from ham_hf.models.build import Revisions, freeze_parts
from ham_hf.system.errors import MachineError, TrainingError
from ham_hf.train import _write_json
from ham_hf.training.build import build_trainer
from ham_hf.training.callbacks import EpochLine
from ham_hf.training.datasets import read_data
from ham_hf.training.last_batch import last_batch, starved_norm
from tests.helpers.small_data import load, make_rows, write_folder
from tests.helpers.tiny_runs import flags_of
from tests.helpers.try_options import run_trial, write_tiny


def test_every_training_argument_has_a_rule():
    assert {field.name for field in fields(TrainingArguments)} <= set(TRAINING_ARGUMENTS)


def test_an_error_rate_is_minimized_by_either_of_its_names():
    for name in ("ece", "eval_ece", "brier", "eval_loss", "log_loss"):
        words = f"--data_dir synthetic --model_name_or_path x --metric_for_best_model {name}".split()
        assert parse_recipe(words).training.greater_is_better is False


@pytest.mark.parametrize(
    ("numbers", "inside", "outside", "words"),
    [
        (Range(1), (1, 1e9), (0, math.inf), "at least 1"),
        (Range(0, above=True), (1e-9,), (0, math.nan), "a number above 0"),
        (Range(0, 1, below=True), (0, 0.99), (-0.1, 1), "a number from 0 to below 1"),
        (Range(0, 1, above=True, example=0.5), (0.1, 1), (0, 2), "a number from above 0 to 1, such as 0.5"),
    ],
)
def test_a_range_has_its_numbers_and_says_which(numbers, inside, outside, words):
    assert all(map(numbers.has, inside)) and not any(map(numbers.has, outside))
    assert str(numbers) == words


# Errors of libraries


def test_an_error_of_a_library_names_the_options():
    with pytest.raises(TrainingError, match=r"It failed \(ValueError: no\).*: optim 'lion'; --debug"):
        with explained("It failed", {"optim": "lion", "seed": 1}, names=("optim",)):
            raise ValueError("no")


@pytest.mark.parametrize(
    ("error", "options", "until"),
    [
        (ValueError("ours"), {}, False),  # no option is to blame
        (ValueError("later"), {"seed": 1}, True),
        (OSError(2, "absent"), {"seed": 1}, False),
        (torch.OutOfMemoryError("CUDA out of memory"), {"seed": 1}, False),
        (MachineError("disk"), {"seed": 1}, False),
        (KeyboardInterrupt(), {"seed": 1}, False),
    ],
)
def test_an_error_of_another_cause_stays_as_it_is(error, options, until):
    with pytest.raises(type(error)) as raised:
        with explained("It failed", options, until=lambda: until):
            raise error
    assert raised.value is error


def test_a_worker_process_s_error_keeps_its_sentence():
    said = (
        'Caught MachineError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"'
    )
    with pytest.raises(MachineError, match="^/data/a.jpg: gone$"):
        with explained("It failed", {}):
            raise MachineError(f"{said}\nham_hf.errors.MachineError: /data/a.jpg: gone\n")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict:
    """The flags of a training of one step on a tiny ViT and 35 images."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"optim": "lion_32bit"}, ["optimizer could not be built", "optim 'lion_32bit'"]),
        ({"optim": "sgd", "optim_args": "momentum=-1"}, ["Invalid momentum value", "optim_args 'momentum=-1'"]),
        ({"lr_scheduler_kwargs": '{"foo": 1}'}, ["schedule could not be built", "lr_scheduler_kwargs"]),
        ({"config_overrides": '{"image_size": 1}'}, ["config_overrides"]),
        ({"torch_compile_backend": "banana"}, ["torch_compile_backend 'banana'"]),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"lr_end": 1}'}, ["lr_end"]),
    ],
)
def test_a_sample_of_odd_options_ends_in_a_sentence(options, names, tiny, tmp_path):
    code, said = run_trial(tiny, options, tmp_path / "run")
    assert code == TrainingError.exit_code
    assert said.startswith("error: ") and all(name in said for name in names)


# A batch of one image


@pytest.mark.parametrize(
    ("images", "batch", "processes", "devices", "expected"),
    [
        (96, 95, 1, 1, 1),
        (96, 48, 1, 1, 48),
        (96, 1, 1, 1, 1),
        (1, 8, 1, 1, 1),
        (97, 16, 2, 1, 16),  # accelerate completes the last batches
        (97, 1, 2, 1, 1),
        (8, 8, 1, 4, 2),
        (21, 16, 1, 4, 1),  # five images on four devices: 2, 2 and 1
    ],
)
def test_the_smallest_batch_of_an_epoch(images, batch, processes, devices, expected):
    assert last_batch(images, batch, processes, devices) == expected


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.norm(pixel_values)


def test_a_batch_norm_with_one_value_a_channel_is_found_and_nothing_changes():
    model = Norm()
    model.norm.num_batches_tracked.fill_(5)
    assert starved_norm(model, {"pixel_values": torch.ones(1, 3, 1, 1)}) == "norm"
    assert starved_norm(model, {"pixel_values": torch.ones(1, 3, 2, 1)}) is None
    assert model.training and model.norm.num_batches_tracked == 5 and not model.norm._forward_pre_hooks
    freeze_parts(model, "norm")
    assert starved_norm(model, {"pixel_values": torch.ones(1, 3, 1, 1)}) is None


@pytest.fixture
def resnet(tiny_checkpoint) -> Path:
    return tiny_checkpoint("microsoft/resnet-50")


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        ({"model_name_or_path": "resnet"}, True),
        ({"model_name_or_path": "resnet", "image_size": 64}, False),  # 2 x 2 values a channel
        ({"model_name_or_path": "resnet", "image_size": 64, "train_size": '{"1": 64, "2": 32}'}, True),
        ({"model_name_or_path": "resnet", "freeze": "resnet"}, False),
        ({}, False),  # a ViT has no batch norm
    ],
    ids=["resnet", "larger images", "larger images at first", "frozen", "vit"],
)
def test_a_last_batch_of_one_image_is_dropped_only_where_batch_norm_could_not_learn(
    options, dropped, tiny, resnet, tmp_path
):
    values = tiny | {"max_train_samples": 9, "max_steps": -1, "num_train_epochs": 2, "output_dir": tmp_path} | options
    if "model_name_or_path" in options:
        values["model_name_or_path"] = resnet
    recipe = parse_recipe(flags_of(values))
    trainer = build_trainer(recipe, read_data(recipe), Revisions())
    trainer.train()
    assert trainer.state.global_step == (2 if dropped else 4)  # in batches of 8
    assert trainer.args.dataloader_drop_last is dropped


def test_a_run_says_that_it_drops_a_last_batch(tiny, tmp_path, caplog):
    options = {"fusion": "mlp", "max_train_samples": 9, "max_steps": -1, "num_train_epochs": 2}
    code, said = run_trial(tiny, options, tmp_path / "run")
    assert code == 0, said
    assert "9 images in batches of 8) would have one image, which batch norm" in caplog.text
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["training"]["steps"] == 2  # one an epoch
    assert json.loads((tmp_path / "run" / "arguments.json").read_text())["dataloader_drop_last"] is True


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size is 1, but batch norm"),
        ({"max_train_samples": 1}, "training images: 1, but batch norm"),
        ({"dataloader_drop_last": "true", "max_train_samples": 7}, "7 training images are fewer than a batch of 8"),
    ],
)
def test_a_training_of_single_images_is_refused_under_batch_norm(options, expected, tiny, resnet, tmp_path):
    code, said = run_trial(tiny, {"model_name_or_path": resnet, **options}, tmp_path / "run")
    assert code == TrainingError.exit_code and expected in said


# A metric that is not defined


@pytest.mark.parametrize(("metric", "diagnoses"), [("recall_mel", ("nv", "bcc")), ("macro_auroc", ("nv",))])
def test_a_metric_that_no_prediction_defines_is_refused(metric, diagnoses, tiny, tmp_path):
    rows = [row for row in make_rows(70, 1) if row["dx"] in diagnoses]
    options = {"data_dir": write_folder(tmp_path / "data", rows), "metric_for_best_model": metric}
    code, said = run_trial(tiny, options, tmp_path / "run")
    assert code == TrainingError.exit_code
    assert f"metric_for_best_model is '{metric}', which is not defined for these validation images" in said


def test_a_run_in_which_the_metric_was_never_defined_ends_with_the_last_model_and_says_so(tiny, tmp_path, caplog):
    # At a learning rate of 0 all images get one diagnosis, and no other has a precision
    options = {"metric_for_best_model": "precision_akiec", "learning_rate": 0, "seed": 0}
    code, said = run_trial(tiny, options, tmp_path / "run")
    assert code == 0, said
    assert "no evaluation defined precision_akiec: the model is the last one" in caplog.text
    facts = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert [facts["training"][key] for key in ("best_metric", "best_value", "best_step")] == [None] * 3


def test_run_json_has_no_number_that_json_does_not_know(tmp_path):
    _write_json(tmp_path / "run.json", {"best_value": -math.inf, "values": [math.nan, 1.5]})
    assert json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail) == {
        "best_value": None,
        "values": [None, 1.5],
    }


# Data that disappears


def test_a_missing_image_file_is_a_machine_error(tmp_path):
    with pytest.raises(MachineError, match=f"{tmp_path / 'a.jpg'}: No such file.*--resume"):
        read_cell({"bytes": None, "path": str(tmp_path / "a.jpg")})


def test_a_pixel_cache_that_is_gone_when_a_worker_opens_it_is_a_machine_error(tmp_path):
    data = load(write_folder(tmp_path / "data", make_rows(7, 1)))[0]["train"]
    cache = build_cache(data, check_images(data))
    in_worker = pickle.loads(pickle.dumps(cache))
    cache.path.unlink()
    with pytest.raises(MachineError, match=f"pixel cache {cache.path} is gone or damaged.*--resume"):
        len(in_worker)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_whose_images_disappear_stops_with_a_sentence_and_resumes(
    workers, tiny, tmp_path, monkeypatch, capsys
):
    data, away = write_folder(tmp_path / "data", make_rows(35, 1)), tmp_path / "away"
    options = {"data_dir": data, "max_steps": 4, "per_device_train_batch_size": 21, "dataloader_num_workers": workers}
    flags = {**tiny, **options, "output_dir": tmp_path / "run"}
    words = ["train", *flags_of(flags)]

    def disappear(*args, **kwargs):
        data.rename(away)

    with monkeypatch.context() as during:
        during.setattr(EpochLine, "on_evaluate", disappear)
        assert main(words) == 3
    err = capsys.readouterr().err
    said = err[err.index("error: ") :]
    assert str(data) in said and "No such file or directory" in said and "--resume" in said
    assert "Traceback" not in said and said.count("\n") == 1
    if not workers:
        return
    shutil.move(away, data)
    assert main([*words, "--resume"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["steps"] == 4


def test_images_that_disappear_before_the_last_evaluation_are_of_the_machine(tiny, tmp_path, monkeypatch):
    from ham_hf import train

    data = write_folder(tmp_path / "data", make_rows(35, 1))

    def disappear(*args):
        data.rename(tmp_path / "away")
        return saved(*args)

    saved = train._load_saved
    monkeypatch.setattr(train, "_load_saved", disappear)
    code, said = run_trial(tiny, {"data_dir": data}, tmp_path / "run")
    assert code == 3 and str(data) in said and "--resume" in said
