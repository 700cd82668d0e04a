"""Optimisers and schedules do what the recipe says."""

import pytest
import torch
from torch import nn

from ham_hf.optimization import decay_by_epoch, optimizer_class
from ham_hf.recipe import RunArguments, parse_recipe


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
