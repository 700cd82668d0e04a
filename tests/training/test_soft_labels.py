"""A run with soft labels: what it learns from, what it records, and that it resumes only with the same ones."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from ham_hf.config.recipe import parse_recipe
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_record import FILE, TrainingImage, read_record
from ham_hf.inference.run_record import check_facts
from ham_hf.models.build import Revisions
from ham_hf.reporting.report import write_report
from ham_hf.system.command import run_command
from ham_hf.system.errors import InputError
from ham_hf.system.files import file_digest
from ham_hf.train import main
from ham_hf.training.build import build_trainer
from ham_hf.training.datasets import read_data
from tests.helpers.fake_runs import change_facts
from tests.helpers.fake_teachers import add_seen, make_teachers
from tests.helpers.tiny_runs import tiny_flags

OUTPUTS = ("model.safetensors", "predictions_validation.csv", "predictions_test.csv")
ELSEWHERE = TrainingImage("elsewhere", "another collection", "train", "0" * 64, "1" * 64)

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def soft(synthetic_dir, tmp_path_factory) -> Path:
    """The predictions of teachers, of which one began as a model of other images."""
    path = make_teachers(tmp_path_factory.mktemp("teachers") / "cv", synthetic_dir)
    add_seen(path.parent / "fold_1", ELSEWHERE)
    return path


@pytest.fixture(scope="module")
def flags(tiny, synthetic_dir, soft):
    words = partial(tiny_flags, tiny, synthetic_dir, eval_strategy="epoch", save_strategy="epoch", save_total_limit=9)
    return partial(words, soft_labels=soft, soft_label_weight=0.7, mixup=0.2, logit_adjustment=0.5)


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    main(flags(folder))
    return folder


@pytest.fixture
def broken(unbroken, tmp_path) -> Path:
    """The run as a kill leaves it after its first epoch."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    (folder / "run.json").unlink()
    first, *later = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    return folder


def test_the_run_records_its_teachers_and_what_they_have_seen(unbroken, soft, synthetic_dir):
    facts = json.loads((unbroken / "run.json").read_text())
    recorded = {"teachers": "cv", "weight": 0.7, "sha256": file_digest(soft)}
    assert facts["training"]["soft_labels"] == recorded
    arguments = json.loads((unbroken / "arguments.json").read_text())
    assert (arguments["soft_labels"], arguments["soft_label_weight"]) == (str(soft), 0.7)
    record = read_record(unbroken / FILE)
    trained = {image.image_id for image in record.images if image.split == "train"}
    assert ELSEWHERE in record.images and record.complete
    assert trained == {"elsewhere", *read_predictions(soft).image_ids}


def test_the_report_and_the_card_name_the_teachers(unbroken, soft, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    write_report(run)
    for page in ("README.md", "report.html"):
        text = (run / page).read_text()
        assert "with a weight of .700 the out-of-fold probabilities of cv" in text and file_digest(soft) in text


@pytest.mark.parametrize("part", ["teachers", "weight", "sha256"])
def test_a_record_of_teachers_that_no_training_wrote_is_refused(part, unbroken, tmp_path):
    shutil.copy(unbroken / "run.json", tmp_path)
    change_facts(tmp_path, **{f"training__soft_labels__{part}": None})
    with pytest.raises(InputError, match=f"training.soft_labels.{part} is None: expected the file"):
        check_facts(json.loads((tmp_path / "run.json").read_text()), tmp_path / "run.json")


def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(unbroken, broken, flags):
    main([*flags(broken), "--resume"])
    assert all((broken / name).read_bytes() == (unbroken / name).read_bytes() for name in OUTPUTS)
    assert json.loads((broken / "run.json").read_text())["training"]["hindrances"] == []


def test_a_run_resumes_only_with_the_same_soft_labels(broken, flags, soft, synthetic_dir, tmp_path):
    moved = shutil.copytree(soft.parent, tmp_path / "moved") / soft.name
    fewer = soft.read_text().splitlines(keepends=True)
    moved.write_text("".join([fewer[0], *fewer[:0:-1]]))  # the same rows in another order: another file
    with pytest.raises(InputError, match="these settings changed: the soft labels. Restore"):
        main([*flags(broken, soft_labels=moved), "--resume"])
    with pytest.raises(InputError, match="these settings changed: soft_label_weight from 0.7 to 0.5. Restore"):
        main([*flags(broken, soft_label_weight=0.5), "--resume"])
    plain = flags(broken)
    for name in ("--soft_labels", "--soft_label_weight"):
        del plain[plain.index(name) : plain.index(name) + 2]
    with pytest.raises(InputError, match="these settings changed: soft_label_weight from 0.7 to 0.5; the soft labels"):
        main([*plain, "--resume"])
    shutil.copy(soft, moved)
    main([*flags(broken, soft_labels=moved), "--resume"])


def test_the_loss_of_a_batch_is_that_of_its_soft_labels(tiny, synthetic_dir, soft, tmp_path):
    """One step of all images without augmentation; the labels of the evaluation stay as they are."""
    settings = {"soft_labels": soft, "augment": False, "max_steps": 1, "per_device_train_batch_size": 200}
    recipe = parse_recipe(tiny_flags(tiny, synthetic_dir, tmp_path / "run", **settings))
    data = read_data(recipe)
    trainer = build_trainer(recipe, data, Revisions())
    [batch] = trainer.get_train_dataloader()
    batch = trainer._prepare_inputs(batch)
    order = {tuple(row.tolist()) for row in data.soft_labels.targets}
    assert {tuple(row.tolist()) for row in batch["soft_labels"]} == order
    trainer.model.train()
    logits = trainer.model(pixel_values=batch["pixel_values"]).logits
    expected = -(batch["soft_labels"] * logits.log_softmax(dim=1)).sum() / len(order)
    torch.testing.assert_close(
        trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=len(order)), expected
    )
    assert all("soft_labels" not in of for of in trainer.get_eval_dataloader())


def test_a_run_of_two_classes_has_soft_labels_of_two(tiny, synthetic_dir, tmp_path):
    soft = make_teachers(tmp_path / "two", synthetic_dir, "nevus_or_other")
    words = tiny_flags(tiny, synthetic_dir, tmp_path / "run", soft_labels=soft, max_steps=1)
    main([*words, "--classes", "nevus_or_other", "--max_train_samples", "20"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["soft_labels"]["teachers"] == "two"
    assert run_command(main, [*words, "--output_dir", str(tmp_path / "seven")]) == 2
    assert not (tmp_path / "seven").exists()
