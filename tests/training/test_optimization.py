"""Optimizers and schedules do what the recipe says."""

import json
import re

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ham_hf.config.recipe import RunArguments, parse_recipe
from ham_hf.labels import LABELS
from ham_hf.models.build import build_model
from ham_hf.train import main
from ham_hf.training.optimization import (
    blocks_from_the_top,
    decay_by_epoch,
    give_own_rate,
    optimizer_class,
    set_rates_by_block,
    unfreeze_gradually,
)
from tests.helpers.tiny_checkpoints import make_run_folder

pytestmark = pytest.mark.usefixtures("without_report")


def arguments(tmp_path, **values):
    return RunArguments(output_dir=str(tmp_path), lr_scheduler_type="constant", **values)


def test_a_rate_is_multiplied_every_k_epochs(tmp_path):
    args = arguments(tmp_path, lr_decay_factor=0.1, lr_decay_epochs=7)
    assert [decay_by_epoch(epoch, 1.0, args) for epoch in (0, 6, 7, 13, 14)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_a_rate_warms_up_by_step_then_decays_each_epoch(tmp_path):
    args = arguments(tmp_path, lr_decay_factor=0.5, warmup_epochs=2)
    rates = [decay_by_epoch(epoch, fraction, args) for epoch in range(5) for fraction in (0.5, 1.0)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize(("name", "expected"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_an_optimizer_is_built_with_the_recipe_s_rate(name, expected, tmp_path):
    chosen, options = optimizer_class(RunArguments(output_dir=str(tmp_path), optimizer=name, learning_rate=0.3))
    optimizer = chosen(nn.Linear(1, 1).parameters(), **options)
    assert type(optimizer) is expected
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0].get("momentum", 0.9) == 0.9


def test_adamw_is_the_trainer_s_own(tmp_path):
    assert optimizer_class(RunArguments(output_dir=str(tmp_path))) is None


def test_a_base_rate_is_scaled_by_the_images_of_a_step():
    flags = "--data_dir synthetic --model_name_or_path x --base_learning_rate 1e-3 --per_device_train_batch_size 16"
    recipe = parse_recipe([*flags.split(), "--gradient_accumulation_steps", "8"])
    assert recipe.training.learning_rate == pytest.approx(1e-3 * 16 * 8 / 256)


@pytest.fixture
def tiny_model(tiny_checkpoint):
    """Return a function from a checkpoint's name to a model of seven diagnoses."""
    return lambda name="google/vit-base-patch16-224": build_model(str(tiny_checkpoint(name)), labels=LABELS)


def rates_of(optimizer, model):
    """Rate of each weight, by its name."""
    rates = {weight: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    return {name: rates[weight] for name, weight in model.named_parameters()}


def adamw(model):
    """As the Trainer makes it: two groups, with and without weight decay."""
    weights = list(model.parameters())
    return torch.optim.AdamW([{"params": weights[::2]}, {"params": weights[1::2], "weight_decay": 0}], lr=1e-3)


def test_each_block_learns_slower_than_the_one_above_and_the_head_at_its_own_rate(tiny_model, tmp_path):
    model = tiny_model()
    optimizer = adamw(model)
    args = arguments(tmp_path, learning_rate=1e-3, layer_decay=0.5, head_learning_rate=1e-2)
    set_rates_by_block(optimizer, model, args)
    rates = rates_of(optimizer, model)
    assert rates["classifier.weight"] == 1e-2
    assert rates["vit.layernorm.weight"] == 5e-4
    layers = [name for name in rates if re.search(r"\.\d+\.", name)]
    assert {rates[name] for name in layers if ".1." in name} == {2.5e-4}
    assert {rates[name] for name in layers if ".0." in name} == {1.25e-4}
    assert rates["vit.embeddings.cls_token"] == 6.25e-5
    decays = {weight: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert [decays[weight] for weight in model.parameters()][:2] == [0.01, 0]


def test_a_model_of_many_blocks_has_two_groups_for_each():
    model = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(40)), "classifier": nn.Linear(2, 2)})
    optimizer = adamw(model)
    for part in (model["classifier"], *model["blocks"]):
        give_own_rate(optimizer, set(part.parameters()), 1e-4)
    assert len(optimizer.param_groups) == 2 + 2 * 41


def test_blocks_thaw_from_the_top_down(tiny_model, tmp_path):
    model = tiny_model()
    optimizer = adamw(model)
    set_rates_by_block(optimizer, model, arguments(tmp_path, learning_rate=1e-3, gradual_unfreezing=1.0))
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    unfreeze_gradually(schedule, steps=8)
    learning = []
    for _ in range(10):
        learning.append({name for name, rate in rates_of(optimizer, model).items() if rate})
        optimizer.step()
        schedule.step()
    assert learning[0] == {"classifier.weight", "classifier.bias"}
    assert all(before <= after for before, after in zip(learning, learning[1:], strict=False))
    assert "vit.embeddings.cls_token" in learning[8] and "vit.embeddings.cls_token" not in learning[7]
    assert len({len(names) for names in learning}) == 5


@pytest.mark.parametrize("name", ["microsoft/resnet-50", "timm/resnet18.tv_in1k"])
def test_a_convolutional_model_has_blocks_too(name, tiny_model):
    model = tiny_model(name)
    blocks = blocks_from_the_top(model)
    assert len(blocks) >= 6  # classifier, four stages, stem
    assert sum(map(len, blocks)) == len(list(model.parameters()))


def test_a_plateau_follows_the_direction_of_the_metric(tmp_path):
    for metric, mode in (("balanced_accuracy", "max"), ("loss", "min"), ("ece", "min")):
        plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": metric}
        assert RunArguments(output_dir=str(tmp_path), **plateau).lr_scheduler_kwargs == {"mode": mode}
        greedy = plateau | {"lr_scheduler_type": "greedy"}
        assert RunArguments(output_dir=str(tmp_path), **greedy).lr_scheduler_kwargs == {"mode": mode, "min_lr": 0.0}


@pytest.fixture
def stopped_early(tmp_path, synthetic_dir):
    """So low a rate gets no better; and a plateau is lowered."""
    checkpoint = make_run_folder(tmp_path / "pretrained")
    flags = (
        f"--data_dir {synthetic_dir} --split grouped --model_name_or_path {checkpoint} --image_size 32 --bf16 false"
    )
    flags += " --num_train_epochs 6 --learning_rate 1e-7 --early_stopping_patience 2 --layer_decay 0.5"
    flags += ' --lr_scheduler_type reduce_lr_on_plateau --lr_scheduler_kwargs {"patience":0}'
    main([*flags.split(), "--output_dir", str(tmp_path / "run")])
    return json.loads((tmp_path / "run" / "trainer_state.json").read_text())


def test_a_training_that_gets_no_better_stops_and_its_plateau_lowers_the_rate(stopped_early):
    assert stopped_early["epoch"] == 3
    rates = [entry["learning_rate"] for entry in stopped_early["log_history"] if "learning_rate" in entry]
    assert rates[-1] < rates[0]
