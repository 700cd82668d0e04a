"""`train_size` is a number, or sizes by epoch, in a recipe and on the command line alike."""

import json

import pytest
import yaml

from ham_hf.config.arguments import ImageArguments
from ham_hf.config.recipe import parse_recipe
from ham_hf.config.train_size import crops_in_words, sizes_by_epoch

BASE = {"data_dir": "synthetic", "model_name_or_path": "x", "num_train_epochs": 12}
SCHEDULE = {1: 128, 6: 160, 10: 224}


def of_recipe(path, value, *words):
    path.write_text(yaml.safe_dump({**BASE, "train_size": value}))
    return parse_recipe([str(path), *words]).image.train_size


@pytest.mark.parametrize("value", [128, SCHEDULE])
def test_a_recipe_and_the_command_line_mean_the_same(value, tmp_path):
    assert of_recipe(tmp_path / "a.yaml", value) == value
    assert of_recipe(tmp_path / "b.yaml", 64, "--train_size", json.dumps(value)) == value


def test_the_command_line_replaces_a_schedule_by_a_number(tmp_path):
    assert of_recipe(tmp_path / "a.yaml", SCHEDULE, "--train_size", "96") == 96


def test_epochs_come_in_any_order_and_back_from_json():
    schedule = ImageArguments(train_size='{"10": 224, "1": 128, "6": 160}').train_size
    assert list(schedule.items()) == list(SCHEDULE.items())
    assert ImageArguments(train_size=json.loads(json.dumps(schedule))).train_size == SCHEDULE


def test_sizes_by_epoch():
    assert ImageArguments(image_size=96).train_sizes() == {1: 96}
    assert ImageArguments(image_size=96, train_size=64).train_sizes() == {1: 64}
    assert ImageArguments(image_size=96, train_size=SCHEDULE).train_sizes() == SCHEDULE


def test_a_schedule_in_words():
    assert crops_in_words(SCHEDULE) == "training crops of 128 pixels, from epoch 6 of 160, from epoch 10 of 224"
    assert crops_in_words(sizes_by_epoch(128)) == "training crops of 128 pixels"


def test_a_short_test_of_a_recipe_may_end_before_its_sizes_change(tmp_path):
    path = tmp_path / "a.yaml"
    assert of_recipe(path, {1: 128, 13: 160}, "--max_steps", "2") == {1: 128, 13: 160}
    assert of_recipe(path, {1: 128, 13: 160}, "--num_train_epochs", "12.5") == {1: 128, 13: 160}
