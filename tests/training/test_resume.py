"""A run resumes with the settings of its checkpoint, and ends as if it had never been interrupted."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from datasets import DatasetDict

from ham_hf.config.recipe import parse_recipe
from ham_hf.data.dataset import load_ham10000
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training.datasets import Data
from ham_hf.training.resume import settings_in, settings_of
from tests.helpers.tiny_checkpoints import make_run_folder
from tests.helpers.tiny_runs import tiny_flags

OUTPUTS = ("model.safetensors", "predictions_validation.csv", "predictions_test.csv")

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def flags(tiny, synthetic_dir):
    return partial(tiny_flags, tiny, synthetic_dir, eval_strategy="epoch", save_strategy="epoch", save_total_limit=9)


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    main(flags(folder))
    return folder


def broken_after(run: Path, epochs: int, folder: Path) -> Path:
    """A copy of `run` as a kill had left it after so many epochs."""
    shutil.copytree(run, folder)
    (folder / "run.json").unlink()
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in checkpoints[epochs:]:
        shutil.rmtree(checkpoint)
    return folder


def ends_as(run: Path, other: Path) -> bool:
    return all((run / name).read_bytes() == (other / name).read_bytes() for name in OUTPUTS)


def hindrances(run: Path) -> list[str]:
    return json.loads((run / "run.json").read_text())["training"]["hindrances"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split_seed": 1}, "the training images; the validation images"),
        ({"max_train_samples": 20}, "max_train_samples from None to 20"),
        ({"learning_rate": 2e-3}, "learning_rate from 0.001 to 0.002"),
        ({"logit_adjustment": 1}, "logit_adjustment from 0.0 to 1.0"),
        ({"horizontal_flip": False}, "horizontal_flip from True to False"),
        ({"per_device_train_batch_size": 4}, "images a step from 8 to 4"),
        ({"freeze": "backbone"}, "freeze from 'none' to 'backbone'"),
        ({"ema_decay": 0.9}, "ema_decay from None to 0.9"),
    ],
)
def test_other_settings_or_images_are_refused(change, words, unbroken, flags, tmp_path):
    run = broken_after(unbroken, 1, tmp_path / "run")
    with pytest.raises(InputError, match=f"these settings changed: {words}"):
        main([*flags(run, **change), "--resume"])
    assert (run / "checkpoint-11").exists() and not (run / "run.json").exists()


def test_a_resumed_run_with_the_same_settings_ends_the_same(unbroken, flags, tmp_path):
    run = broken_after(unbroken, 1, tmp_path / "run")
    main([*flags(run), "--resume"])
    assert ends_as(run, unbroken) and hindrances(run) == []
    before = settings_in(run / "checkpoint-11")["seconds"]
    assert json.loads((run / "run.json").read_text())["training"]["seconds"] > before > 0


def test_images_that_are_seen_again_are_in_the_report(unbroken, flags, tmp_path):
    run = broken_after(unbroken, 1, tmp_path / "run")
    main([*flags(run, ignore_data_skip=True), "--resume"])
    changed, seen_again = hindrances(run)
    assert (
        changed.endswith("ignore_data_skip from False to True") and "images of the epoch were seen again" in seen_again
    )


def test_changed_settings_are_in_the_report(unbroken, flags, tmp_path, caplog):
    run = broken_after(unbroken, 1, tmp_path / "run")
    changed = flags(run, num_train_epochs=3, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    main([*changed, "--resume"])
    (run / "run.json").unlink()
    main([*changed, "--resume"])
    assert hindrances(run) == [
        f"resumed from checkpoint-11 with {change}"
        for change in (
            "num_train_epochs from 2.0 to 3.0",
            "per_device_train_batch_size from 8 to 4",
            "gradient_accumulation_steps from 1 to 2",
        )
    ]
    assert "num_train_epochs from 2.0 to 3.0: the result may differ from that of an uninterrupted run" in caplog.text
    write_report(run)
    assert "resumed from checkpoint-11 with num" in (run / "README.md").read_text()


def test_settings_that_do_not_affect_training_may_change(unbroken, flags, tmp_path):
    run = broken_after(unbroken, 1, tmp_path / "run")
    main([*flags(run, test_time_augmentation="flips", per_device_eval_batch_size=3), "--resume"])
    assert (run / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert hindrances(run) == []


@pytest.mark.parametrize("state", ["[]", '{"stateful_callbacks": {"KeepSettings": {"attributes": {"fixed": 1}}}}'])
def test_a_state_that_no_training_wrote_is_refused(state, tmp_path):
    (tmp_path / "trainer_state.json").write_text(state)
    with pytest.raises(InputError, match="trainer_state.json does not have the expected format"):
        settings_in(tmp_path)


def test_patients_count_where_the_model_reads_them(flags, synthetic_dir):
    splits, facts = load_ham10000(synthetic_dir, "grouped")
    older = DatasetDict({name: split.map(lambda row: {"age": 90.0}) for name, split in splits.items()})
    for fusion, same in (("none", True), ("mlp", False)):
        recipe = parse_recipe(flags("runs/of_patients", fusion=fusion))
        settings = [settings_of(recipe, Data(of, facts, {})) for of in (splits, older)]
        assert (settings[0] == settings[1]) is same


def test_a_run_that_ended_within_an_epoch_takes_no_more_steps(flags, tmp_path):
    settings = {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 9, "load_best_model_at_end": False}
    within = partial(flags, max_steps=9, **settings)
    main(within(tmp_path / "unbroken"))
    run = broken_after(tmp_path / "unbroken", 1, tmp_path / "run")
    main([*within(run), "--resume"])
    steps = [json.loads((of / "run.json").read_text())["training"]["steps"] for of in (run, tmp_path / "unbroken")]
    assert steps == [9, 9] and ends_as(run, tmp_path / "unbroken")


def test_a_checkpoint_without_settings_is_resumed_and_the_report_says_so(unbroken, flags, tmp_path):
    from ham_hf.training.checkpointing import write_checksums

    run = broken_after(unbroken, 1, tmp_path / "run")
    state = run / "checkpoint-11" / "trainer_state.json"
    values = json.loads(state.read_text())
    del values["stateful_callbacks"]["KeepSettings"]
    state.write_text(json.dumps(values))
    write_checksums(state.parent)
    main([*flags(run), "--resume"])
    assert hindrances(run) == ["checkpoint-11 does not record what it was trained with"]


def test_a_checkpoint_of_weights_only_cannot_be_resumed(flags, tmp_path):
    # Of the validation images, fewer than a batch, dataloader_drop_last leaves out none
    weights_alone = flags(tmp_path / "run", save_only_model=True, num_train_epochs=1, dataloader_drop_last=True)
    main(weights_alone)
    with pytest.raises(InputError, match="checkpoint-10: it has only the weights, because save_only_model is true"):
        main([*weights_alone, "--resume"])


def test_early_stopping_and_a_plateau_remember_how_long_they_have_waited(flags, tmp_path):
    """So low a rate gets no better: it ends after the third of six epochs."""
    patient = partial(
        flags,
        model_name_or_path=make_run_folder(tmp_path / "pretrained"),
        num_train_epochs=6,
        max_train_samples=16,
        learning_rate=1e-7,
        early_stopping_patience=2,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs='{"patience": 0}',
    )
    main(patient(tmp_path / "unbroken"))
    state = json.loads((tmp_path / "unbroken" / "trainer_state.json").read_text())
    assert state["epoch"] == 3
    for epochs in (2, 3):
        run = broken_after(tmp_path / "unbroken", epochs, tmp_path / f"after_{epochs}")
        main([*patient(run), "--resume"])
        again = json.loads((run / "trainer_state.json").read_text())
        assert again["global_step"] == state["global_step"]
        rates = [[entry.get("learning_rate") for entry in log["log_history"]] for log in (state, again)]
        assert rates[0] == rates[1] and ends_as(run, tmp_path / "unbroken")
