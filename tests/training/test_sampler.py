"""The images of an epoch, in one process or several, and their weights in the loss."""

import shutil
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Image
from torch.utils.data import BatchSampler
from transformers import BitImageProcessor

from ham_hf.config.arguments import ImageArguments
from ham_hf.data.dataset import load_ham10000
from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training.losses import class_weights
from ham_hf.training.sampler import Repeats, WeightedSampler
from ham_hf.training.transforms import TrainTransform

COUNTS = [8000, 1500, 500]
LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.mark.parametrize(("power", "shares"), [(1.0, [1, 1, 1]), (0.5, [80**0.5, 15**0.5, 5**0.5])])
def test_each_diagnosis_is_drawn_as_often_as_requested(power, shares):
    sampler = WeightedSampler(class_weights(COUNTS, power)[LABELS], seed=0)
    drawn = Counter(LABELS[list(sampler)].tolist())
    assert len(sampler) == drawn.total() == 10_000
    for label, share in enumerate(shares):
        assert drawn[label] / 10_000 == pytest.approx(share / sum(shares), abs=0.02)


def test_each_epoch_has_its_own_reproducible_draw():
    sampler, again = (WeightedSampler(torch.ones(100), seed=3) for _ in range(2))
    first = list(sampler)
    assert list(sampler) == first == list(again)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(WeightedSampler(torch.ones(100), seed=4)) != first


def test_an_image_that_is_drawn_again_is_augmented_differently(synthetic_dir):
    splits, _ = load_ham10000(synthetic_dir, "grouped")
    rows = splits["train"].cast_column("image", Image(decode=False)).select(range(3))
    transform = TrainTransform(ImageArguments(image_size=32), BitImageProcessor(), seed=0)
    sampler = WeightedSampler([0, 1, 1e-9], seed=0, number_repeats=True)
    assert list(sampler) == [1, 4, 7]
    first, second, third = Repeats(rows, transform).__getitems__(list(sampler))
    assert first["image_ids"] == second["image_ids"] == rows["image_id"][1]
    assert not torch.equal(first["pixel_values"], second["pixel_values"])
    assert not torch.equal(second["augmentation"], third["augmentation"])
    [once] = rows.with_transform(transform).__getitems__([1])
    assert torch.equal(once["pixel_values"], first["pixel_values"])


def test_two_processes_share_one_draw():
    alone = BatchSampler(WeightedSampler(torch.ones(64), seed=0), 8, drop_last=False)
    shards = [
        list(BatchSamplerShard(BatchSampler(WeightedSampler(torch.ones(64), seed=0), 8, drop_last=False), 2, rank))
        for rank in range(2)
    ]
    assert [batch for pair in zip(*shards, strict=True) for batch in pair] == list(alone)


def flags(tiny, data, folder, *more):
    words = f"--model_name_or_path {tiny} --data_dir {data} --split grouped --image_size 32 --report_to none"
    return [*words.split(), "--output_dir", str(folder), *more]


def test_a_run_is_other_with_sampling_and_with_weights_by_how_sure_a_diagnosis_is(tiny, synthetic_dir, tmp_path):
    weights = '{"histo": 1, "consensus": 0, "follow_up": 0, "confocal": 0, "unknown": 0}'
    predictions = set()
    for name, more in {
        "plain": [],
        "sampled": ["--sampling", "balanced"],
        "weighted": ["--dx_type_weights", weights],
    }.items():
        main(flags(tiny, synthetic_dir, tmp_path / name, "--max_steps", "2", *more))
        predictions.add((tmp_path / name / "predictions_validation.csv").read_text())
    assert len(predictions) == 3


def test_the_trainer_draws_anew_in_every_epoch_and_a_resumed_run_continues_its_draw(
    tiny, synthetic_dir, tmp_path, monkeypatch
):
    draws = []
    draw = WeightedSampler.__iter__

    def spied(sampler):
        draws.append(list(draw(sampler)))
        return iter(draws[-1])

    monkeypatch.setattr(WeightedSampler, "__iter__", spied)
    given = ["--sampling", "square_root", "--num_train_epochs", "2", "--save_total_limit", "5", "--logging_steps", "1"]
    given += ["--save_strategy", "steps", "--eval_strategy", "steps", "--save_steps", "4", "--eval_steps", "4"]
    folder = tmp_path / "run"
    main(flags(tiny, synthetic_dir, folder, *given))
    assert len(draws) == 2 and draws[0] != draws[1]
    whole = (folder / "predictions_validation.csv").read_text()
    (folder / "run.json").unlink()
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in checkpoints[1:]:
        shutil.rmtree(checkpoint)
    draws.clear()
    main(flags(tiny, synthetic_dir, folder, *given, "--resume"))
    assert len(draws) == 2 and draws[0] != draws[1]
    assert (folder / "predictions_validation.csv").read_text() == whole


def test_a_weight_for_every_way_of_diagnosis_is_needed(tiny, synthetic_dir, tmp_path):
    with pytest.raises(InputError, match=r"dx_type_weights has no weight for .*: the training images have"):
        main(flags(tiny, synthetic_dir, tmp_path / "run", "--dx_type_weights", '{"histo": 1}'))
    nothing = '{"histo": 0, "consensus": 0, "follow_up": 0, "confocal": 0, "unknown": 0}'
    with pytest.raises(InputError, match="0 for every training image"):
        main(flags(tiny, synthetic_dir, tmp_path / "run", "--dx_type_weights", nothing))
