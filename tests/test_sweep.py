"""A search finds what is better, goes on where it was broken off, and ends with a recipe and a picture."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from ham_hf import sweep as sweeping
from ham_hf.cli import main as ham_hf
from ham_hf.errors import InputError
from ham_hf.recipe import parse_recipe
from ham_hf.sweep import Sweep, Trial, read_sweep, render_sweep
from tests.test_predict import make_run_folder

GREEDY = "method: greedy\nvariables:\n  learning_rate: [1.0e-3]\n  horizontal_flip: [false]\n"
OPTUNA = """\
method: optuna
metric: accuracy
trials: 3
variables:
  learning_rate: {low: 1.0e-8, high: 1.0e-2, log: true}
  weight_decay: [0.0, 0.1]
"""


@pytest.fixture
def recipe(tmp_path, synthetic_dir) -> Path:
    start = make_run_folder(tmp_path / "start")
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model_name_or_path: {start}\ndata_dir: {synthetic_dir}\nsplit: grouped\nimage_size: 32\nmax_steps: 2\n"
        "eval_strategy: steps\neval_steps: 1\nsave_strategy: steps\nsave_steps: 1\nbf16: false\ndisable_tqdm: true\n"
    )
    return path


def run(recipe, text, folder) -> int:
    path = recipe.with_name("variables.yaml")
    path.write_text(text)
    return ham_hf(["sweep", str(recipe), str(path), "--output_dir", str(folder)])


def test_greedy_tries_each_variable_in_turn_and_goes_on_where_it_was(recipe, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    assert run(recipe, GREEDY, folder) == 0
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    assert [trial["settings"] for trial in trials[:2]] == [{}, {"learning_rate": 1e-3}]
    of_first = max(trials[:2], key=lambda trial: trial["value"])["settings"]
    assert [trial["settings"] for trial in trials[2:]] == [of_first | {"horizontal_flip": False}]
    best = max(trials, key=lambda trial: trial["value"])
    assert best["settings"].items() <= yaml.safe_load((folder / "best.yaml").read_text()).items()
    parse_recipe([str(folder / "best.yaml")])
    assert (folder / "sweep.png").stat().st_size > 5000

    before = (folder / "sweep.json").read_text()
    shutil.rmtree(folder / "trial_3")
    started = []
    really = sweeping.subprocess.run
    monkeypatch.setattr(sweeping.subprocess, "run", lambda words: started.append(words) or really(words))
    assert run(recipe, GREEDY, folder) == 0
    assert len(started) == 1 and (folder / "sweep.json").read_text() == before


def test_optuna_searches_through_the_trainer_and_goes_on_where_it_was(recipe, tmp_path):
    pytest.importorskip("optuna")
    folder = tmp_path / "sweep"
    assert run(recipe, OPTUNA, folder) == 0
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    assert len(trials) == 3
    assert all(1e-8 <= trial["settings"]["learning_rate"] <= 1e-2 for trial in trials)
    assert {trial["settings"]["weight_decay"] for trial in trials} <= {0.0, 0.1}
    journal = (folder / "optuna.log").read_text()
    assert run(recipe, OPTUNA, folder) == 0
    assert json.loads((folder / "sweep.json").read_text())["trials"] == trials
    assert (folder / "optuna.log").read_text().startswith(journal)
    parse_recipe([str(folder / "best.yaml")])


def test_a_folder_belongs_to_one_search(recipe, tmp_path, capsys):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "search.json").write_text("{}")
    assert run(recipe, GREEDY, folder) == 2
    assert "holds another search" in capsys.readouterr().err


def test_a_value_that_no_recipe_may_have_is_refused_before_the_first_trial(recipe, tmp_path, capsys):
    assert run(recipe, "method: greedy\nvariables: {color_jitter: [0.2, 7]}\n", tmp_path / "sweep") == 2
    assert "color_jitter is 7.0" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_the_page_says_that_the_best_is_so_by_luck_too():
    sweep = Sweep("greedy", "accuracy", None, {"learning_rate": [1, 2]})
    trials = [Trial({}, 0.5), Trial({"learning_rate": 2}, 0.7), Trial({"learning_rate": 1}, None)]
    page = render_sweep(sweep, trials, trials[1])
    assert page.index("| 2 | .700") < page.index("| – | .500") < page.index("| 1 | pruned")
    assert "by luck" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: random\nvariables: {seed: [1]}", "method is 'random': expected greedy or optuna"),
        ("method: greedy\nvariables: {seed: 3}", "seed is 3: expected a list of values$"),
        ("method: greedy\ntrials: 3\nvariables: {seed: [1]}", "trials is 3: expected a number above 0 for optuna"),
        ("method: optuna\nvariables: {seed: [1]}", "trials is None: expected a number above 0"),
        ("method: optuna\ntrials: 2\nvariables: {color_jitter: [0.1]}", "no argument of the training itself"),
        ("method: optuna\ntrials: 2\nvariables: {ema_decay: [0.9]}", "averaged weights are set up once"),
        ("method: greedy\nmetric: f1\nvariables: {seed: [1]}", "metric is 'f1': expected one of balanced_accuracy"),
        ("variables: [1]", "expected the keys method, metric, trials, variables"),
        ("a: {b", "is not readable YAML"),
    ],
)
def test_a_sweep_that_is_not_as_expected_is_refused(text, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_sweep(path)
