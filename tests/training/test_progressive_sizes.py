"""A training whose image size changes from epoch to epoch: resumed, with workers or two processes, it is the same."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training.trainer import HamTrainer
from tests.helpers.tiny_runs import tiny_flags, train_in_two_processes

SCHEDULE = '{"1": 32, "2": 64, "3": 48}'
STEPS = 4  # an epoch
OUTPUTS = ("model.safetensors", "predictions_validation.csv", "predictions_test.csv")

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def flags(tiny, synthetic_dir):
    """The options of three epochs of four steps, with a checkpoint after each step, that end with the last model."""
    return partial(
        tiny_flags,
        tiny,
        synthetic_dir,
        train_size=SCHEDULE,
        num_train_epochs=3,
        max_train_samples=16,
        per_device_train_batch_size=4,
        eval_strategy="no",
        save_steps=1,
        save_total_limit=99,
        load_best_model_at_end=False,
    )


@pytest.fixture
def sizes(monkeypatch):
    """The steps of a run: their epoch and the shape of their batch."""
    seen = []
    step = HamTrainer.training_step

    def spy(self, model, inputs, *args, **kwargs):
        seen.append((int(self.state.epoch) + 1, tuple(inputs["pixel_values"].shape)))
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(HamTrainer, "training_step", spy)
    return seen


def expected(first: int = 0) -> list:
    """The steps of a run without its `first` ones."""
    shapes = [(epoch, (4, 3, size, size)) for epoch, size in ((1, 32), (2, 64), (3, 48)) for _ in range(STEPS)]
    return shapes[first:]


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    main(flags(folder))
    return folder


def ends_as(run: Path, other: Path) -> bool:
    return all((run / name).read_bytes() == (other / name).read_bytes() for name in OUTPUTS)


def test_each_epoch_has_the_size_of_the_schedule(flags, unbroken, sizes, tmp_path):
    main(flags(tmp_path / "run"))
    assert sizes == expected()
    assert ends_as(tmp_path / "run", unbroken)


def test_persistent_workers_that_read_ahead_change_the_size_with_the_epoch(flags, unbroken, sizes, tmp_path):
    ahead = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4}
    main(flags(tmp_path / "run", **ahead))
    assert sizes == expected()
    assert ends_as(tmp_path / "run", unbroken)


@pytest.mark.parametrize(("steps", "workers"), [(STEPS, 0), (STEPS + 2, 0), (2 * STEPS + 1, 2)])
def test_a_run_resumed_at_or_after_a_change_ends_the_same(steps, workers, flags, unbroken, sizes, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run")
    (run / "run.json").unlink()
    for step in range(steps + 1, 3 * STEPS + 1):
        shutil.rmtree(run / f"checkpoint-{step}")
    persistent = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True} if workers else {}
    main([*flags(run, **persistent), "--resume"])
    assert sizes == expected(steps)
    assert ends_as(run, unbroken)


def test_a_run_does_not_resume_with_another_schedule(flags, unbroken, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run")
    (run / "run.json").unlink()
    for other, words in (('{"1": 32, "3": 48}', "{'1': 32, '3': 48}"), ("32", "32")):
        with pytest.raises(InputError) as raised:
            main([*flags(run, train_size=other), "--resume"])
        assert f"train_size from {{'1': 32, '2': 64, '3': 48}} to {words}. Restore them" in str(raised.value)


def test_a_run_records_its_schedule_and_states_it_in_words(unbroken):
    assert json.loads((unbroken / "arguments.json").read_text())["train_size"] == json.loads(SCHEDULE)
    assert json.loads((unbroken / "run.json").read_text())["training"]["train_size"] == json.loads(SCHEDULE)
    write_report(unbroken)
    words = "32 x 32 pixels; training crops of 32 pixels, from epoch 2 of 64, from epoch 3 of 48"
    assert words in (unbroken / "README.md").read_text() and words in (unbroken / "report.html").read_text()


def test_a_size_that_the_model_does_not_take_is_refused_before_the_first_step(flags, tiny_checkpoint, sizes, tmp_path):
    vit = tiny_checkpoint("google/vit-base-patch16-224")
    with pytest.raises(InputError, match="on RGB images of 64 x 64 pixels from epoch 2 on"):
        main(flags(tmp_path / "run", model_name_or_path=vit))
    assert sizes == []


def test_two_processes_train_as_one(flags, tiny_checkpoint, tmp_path):
    # Without batch norm, which takes its statistics from the images of one process
    convnext = tiny_checkpoint("facebook/convnextv2-large-22k-384")
    two = partial(flags, model_name_or_path=convnext, optimizer="sgd", learning_rate=0.1, save_strategy="no")
    main(two(tmp_path / "one", per_device_train_batch_size=8))
    train_in_two_processes(two(tmp_path / "two"))
    start, one, other = (
        load_file(folder / "model.safetensors") for folder in (convnext, *map(tmp_path.joinpath, ("one", "two")))
    )
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-5)
    encoder = [name for name in one if name in start and start[name].shape == one[name].shape]
    assert any((start[name] - one[name]).abs().max() > 1e-3 for name in encoder)
