"""A whole run on small synthetic images with a tiny checkpoint: its files, and that interruptions change nothing."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked, load_ham10000
from ham_hf.evaluation.contamination import check_start
from ham_hf.evaluation.patients import read_patients
from ham_hf.evaluation.training_record import FILE, images_of, read_record, record_of
from ham_hf.hub.model_repo import check_run
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training.ema import TRAINED_WEIGHTS
from tests.helpers.fake_runs import change_facts
from tests.helpers.small_data import load, read_rows
from tests.helpers.tiny_runs import tiny_flags, train_in_two_processes

ROOT = Path(__file__).parent.parent
RUN_FILES = set(
    """arguments.json config.json model.safetensors patients_test.csv patients_validation.csv predictions_test.csv
    predictions_validation.csv preprocessor_config.json report.html report.json README.md run.json trainer_state.json
    training_images.csv""".split()
)
KILLED_AT_THE_SECOND_EVALUATION = """
import os, signal, sys
from ham_hf import train
from ham_hf.training import build
class Killed(build.EpochLine):
    seen = 0
    def on_evaluate(self, *args, **kwargs):
        Killed.seen += 1
        if Killed.seen == 2:
            os.kill(os.getpid(), signal.SIGKILL)
build.EpochLine = Killed
train.main(sys.argv[1:])
"""


def test_a_loss_that_is_not_a_number_ends_the_run_and_names_the_images(tiny_checkpoint, synthetic_dir, tmp_path):
    checkpoint = tiny_checkpoint("google/vit-base-patch16-224")
    flags = f"--model_name_or_path {checkpoint} --data_dir {synthetic_dir} --split grouped --image_size 32"
    flags += " --max_steps 6 --learning_rate 100 --weight_decay 100 --max_grad_norm 0"
    with pytest.raises(InputError) as raised:
        main([*flags.split(), "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "run")])
    assert "the loss of step 4 is nan" in str(raised.value)
    named = re.search(r"its images: (.+?)\. The", str(raised.value))[1].split(", ")
    train = {image_id for image_id in load(synthetic_dir)[0]["train"]["image_id"][:]}
    assert len(named) == 4 and set(named) <= train


@pytest.fixture(scope="module")
def flags(tiny, synthetic_dir):
    return partial(tiny_flags, tiny, synthetic_dir)


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    main(flags(folder))
    return folder


def rows(folder, split="validation"):
    return read_rows(folder / f"predictions_{split}.csv")


def results(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))["results"]


def test_a_run_leaves_a_complete_folder_and_no_pickle(unbroken):
    files = {path.name for path in unbroken.iterdir() if path.is_file()}
    assert files == RUN_FILES
    assert list((unbroken / "plots").glob("*.png"))


def test_a_run_records_its_training_images(unbroken, synthetic_dir):
    splits, _, checks = load_checked(DataArguments(str(synthetic_dir), split="grouped"))
    record = read_record(unbroken / FILE)
    assert record.complete and len(record.images) == len(splits["train"]) + len(splits["validation"])
    for split in ("train", "validation"):
        assert [image for image in record.images if image.split == split] == images_of(splits[split], checks, split)
    for checkpoint in unbroken.glob("checkpoint-*"):
        assert record_of(str(checkpoint)) == record


def test_every_validation_and_test_image_is_predicted_once(unbroken, synthetic_dir):
    splits, _ = load_ham10000(synthetic_dir, "grouped")
    for split in ("validation", "test"):
        assert sorted(row["image_id"] for row in rows(unbroken, split)) == sorted(splits[split]["image_id"][:])
        truth = dict(zip(splits[split]["image_id"][:], splits[split]["label"][:], strict=True))
        assert all(row["label"] == LABELS[truth[row["image_id"]]] for row in rows(unbroken, split))


def test_the_patients_are_those_of_the_predicted_images(unbroken, synthetic_dir):
    splits, _ = load_ham10000(synthetic_dir, "grouped")
    for name in ("validation", "test"):
        split = splits[name]
        patients = read_patients(unbroken / f"patients_{name}.csv", split["image_id"][:])
        assert patients == (split["age"][:], split["sex"][:], split["localization"][:], split["dx_type"][:])
        assert {"sex", "age", "localization", "dx_type"} == set(results(unbroken)[name]["subgroups"])


def test_the_predictions_are_those_of_the_published_folder(unbroken, synthetic_dir):
    splits, _ = load_ham10000(synthetic_dir, "grouped")
    classify = pipeline("image-classification", model=str(unbroken), top_k=7)
    for item, row in zip(splits["validation"].select(range(5)), rows(unbroken)[:5], strict=True):
        assert item["image_id"] == row["image_id"]
        for result in classify(item["image"]):
            assert result["score"] == pytest.approx(float(row[result["label"]]), abs=1e-5)


def test_the_chosen_checkpoint_is_the_best_on_validation(unbroken):
    state = json.loads((unbroken / "trainer_state.json").read_text(encoding="utf-8"))
    values = {e["step"]: e["eval_balanced_accuracy"] for e in state["log_history"] if "eval_balanced_accuracy" in e}
    assert state["best_metric"] == max(values.values()) == values[state["best_global_step"]]
    report = results(unbroken)["validation"]["metrics"]["balanced_accuracy"]["value"]
    assert report == pytest.approx(state["best_metric"], abs=1e-6)


def test_a_killed_run_that_is_resumed_ends_in_the_same_report(flags, unbroken, tmp_path):
    arguments = flags(tmp_path / "killed")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_SECOND_EVALUATION, *arguments], cwd=ROOT, capture_output=True, timeout=300
    )
    assert killed.returncode == -9, killed.stderr[-2000:]
    assert not (tmp_path / "killed" / "run.json").exists()
    main([*arguments, "--resume"])
    for split in ("validation", "test"):
        ours, expected = results(tmp_path / "killed")[split], results(unbroken)[split]
        for name, metric in expected["metrics"].items():
            assert ours["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-6, nan_ok=True), name
    for ours, expected in zip(rows(tmp_path / "killed"), rows(unbroken), strict=True):
        assert [float(ours[label]) for label in LABELS] == pytest.approx(
            [float(expected[label]) for label in LABELS], abs=1e-6
        )


@pytest.fixture(scope="module")
def averaged(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    main(flags(folder, ema_decay=0.9, save_total_limit=9))
    return folder


def test_averaged_weights_survive_an_interruption_too(flags, averaged, tmp_path):
    folder = shutil.copytree(averaged, tmp_path / "interrupted")
    (folder / "run.json").unlink()
    for step in (14, 21, 22):
        shutil.rmtree(folder / f"checkpoint-{step}")
    main([*flags(folder, ema_decay=0.9, save_total_limit=9), "--resume"])
    assert rows(folder) == rows(averaged)


def test_the_published_weights_are_the_average(averaged, unbroken):
    published = load_file(averaged / "model.safetensors")
    trained = load_file(next(averaged.glob(f"checkpoint-*/{TRAINED_WEIGHTS}")))
    trained = {name.removeprefix("timm_model."): value for name, value in trained.items()}
    plain = load_file(unbroken / "model.safetensors")
    assert published.keys() == plain.keys()
    assert any(not torch.equal(published[name], plain[name]) for name in plain)
    published = {name.removeprefix("timm_model."): value for name, value in published.items()}
    assert trained.keys() == published.keys()
    assert any(not torch.equal(published[name], trained[name]) for name in trained)


def test_a_folder_that_holds_a_run_is_not_overwritten(flags, unbroken):
    before = (unbroken / "report.json").read_bytes()
    with pytest.raises(InputError, match="already holds a run: add --resume"):
        main(flags(unbroken))
    assert (unbroken / "report.json").read_bytes() == before


def test_a_checkpoint_that_has_seen_the_validation_images_is_refused_as_a_start(flags, unbroken, tmp_path):
    words = flags(tmp_path / "run", model_name_or_path=unbroken, split_seed=1)
    validation = set(load(Path(words[words.index("--data_dir") + 1]), split_seed=1)[0]["validation"]["image_id"][:])
    trained = {image.image_id for image in read_record(unbroken / FILE).images if image.split == "train"}
    said = (
        rf"^{len(trained & validation)} of the {len(validation)} validation images were training images of .*unbroken"
    )
    with pytest.raises(InputError, match=said):
        main(words)
    (old := shutil.copytree(unbroken, tmp_path / "old") / FILE).unlink()  # a run from before there were records
    with pytest.raises(InputError, match="trained on these images under another split, grouped, and has seen"):
        main(flags(tmp_path / "run", model_name_or_path=old.parent, split_seed=1))
    args = DataArguments(words[words.index("--data_dir") + 1], split="grouped")
    for start in (unbroken, old.parent):
        splits, facts, checks = load_checked(args)
        check_start(str(start), None, splits, facts, checks)
        assert facts["seen_before"] is None


def test_weights_with_a_flipped_bit_are_refused(flags, unbroken, tmp_path):
    damaged = shutil.copytree(unbroken, tmp_path / "damaged", ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1000] ^= 1  # of a number, not of the header
    (damaged / "model.safetensors").write_bytes(weights)
    for use in (
        lambda: load_classifier(str(damaged)),
        lambda: main(flags(tmp_path / "run", model_name_or_path=damaged)),
        lambda: check_run(damaged),
    ):
        with pytest.raises(InputError, match="model.safetensors is not the file that its training wrote"):
            use()
    load_classifier(str(damaged), altered=True)


def test_a_checkpoint_that_may_have_seen_the_validation_images_triggers_a_warning(flags, unbroken, tmp_path, caplog):
    start = shutil.copytree(unbroken, tmp_path / "start", ignore=shutil.ignore_patterns(FILE))
    change_facts(start, data__images_sha256=64 * "0")
    main(flags(tmp_path / "run", model_name_or_path=start, split_seed=1, num_train_epochs=1))
    assert "was trained on 87 other images before; the report states this" in caplog.text
    page = (tmp_path / "run" / "README.md").read_text()
    assert "87 other images; evaluated images may be among them" in page


def test_worker_processes_change_no_prediction(flags, unbroken, tmp_path):
    main(flags(tmp_path / "workers", dataloader_num_workers=2))
    assert rows(tmp_path / "workers") == rows(unbroken)


def test_two_processes_write_one_complete_run(flags, unbroken, tmp_path):
    train_in_two_processes(flags(tmp_path / "two", per_device_train_batch_size=4))
    assert [row["image_id"] for row in rows(tmp_path / "two")] == [row["image_id"] for row in rows(unbroken)]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["training"]["processes"] == 2


def test_max_train_samples_trains_on_that_many_images(flags, tmp_path):
    main(flags(tmp_path / "few", max_train_samples=16, max_steps=1, eval_steps=1, save_steps=1))
    assert json.loads((tmp_path / "few" / "run.json").read_text())["training"]["images"] == 16
    images = [image for image in read_record(tmp_path / "few" / FILE).images if image.split == "train"]
    assert len(images) == 16


def test_curves_go_to_tensorboard_when_asked(flags, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs the extra: pip install -e '.[tracking]'")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    main(
        flags(tmp_path / "few", max_train_samples=16, max_steps=1, eval_steps=1, save_steps=1, report_to="tensorboard")
    )
    assert list((tmp_path / "curves").rglob("events.out.tfevents.*"))
