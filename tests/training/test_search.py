"""A search finds better settings, resumes after an interruption, and writes a recipe and a picture."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from ham_hf.cli.main import main as ham_hf
from ham_hf.config.recipe import parse_recipe
from ham_hf.system.errors import InputError, MachineError, TrainingError
from ham_hf.training import child_run
from ham_hf.training import search as sweeping
from ham_hf.training.checkpointing import only_writer
from ham_hf.training.search import Trial, render_sweep
from ham_hf.training.sweep import Sweep, read_sweep
from tests.helpers.tiny_checkpoints import make_run_folder

GREEDY = "method: greedy\nvariables:\n  horizontal_flip: [true, false]\n"
OPTUNA = """\
method: optuna
metric: accuracy
trials: 3
variables:
  learning_rate: {low: 1.0e-8, high: 1.0e-2, log: true}
  weight_decay: [0.0, 0.1]
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture
def recipe(start, tmp_path, synthetic_dir) -> Path:
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


def test_greedy_tries_each_variable_in_turn_and_resumes(recipe, tmp_path, monkeypatch, in_this_process):
    folder = tmp_path / "sweep"
    assert run(recipe, GREEDY, folder) == 0
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    # true is the recipe's own
    assert [trial["settings"] for trial in trials] == [{}, {"horizontal_flip": False}]
    trial_1 = folder / "trial_1"  # the test images are not for tuning
    assert not (trial_1 / "predictions_test.csv").exists() and (trial_1 / "predictions_validation.csv").exists()
    assert "images, not evaluated (do_predict: false)." in (trial_1 / "README.md").read_text()
    best = max(trials, key=lambda trial: trial["value"])
    assert best["settings"].items() <= yaml.safe_load((folder / "best.yaml").read_text()).items()
    parse_recipe([str(folder / "best.yaml")])
    assert (folder / "sweep.png").stat().st_size > 5000

    before = (folder / "sweep.json").read_text()
    (folder / "trial_1" / "report.json").unlink()  # as after a kill just before it was written
    shutil.rmtree(folder / "trial_2")
    started = []
    really = child_run.run_child
    monkeypatch.setattr(child_run, "run_child", lambda module, words: started.append(words) or really(module, words))
    assert run(recipe, GREEDY, folder) == 0
    assert len(started) == 1 and (folder / "sweep.json").read_text() == before


def test_a_second_search_is_refused_while_the_first_one_runs(recipe, tmp_path, capsys):
    folder = tmp_path / "sweep"
    with only_writer(folder):
        assert run(recipe, GREEDY, folder) == 3
    assert f"another process is writing in {folder}" in capsys.readouterr().err
    assert not list(folder.glob("trial_*"))


def test_optuna_suggests_settings_and_resumes(recipe, tmp_path, trained):
    pytest.importorskip("optuna")
    folder = tmp_path / "sweep"
    assert run(recipe, OPTUNA, folder) == 0
    assert trained[1] == ["trial_1", "trial_2", "trial_3"]
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
    assert "color_jitter is 7" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_variables_without_effect_are_refused(recipe, tmp_path, capsys):
    recipe.write_text(recipe.read_text() + "base_learning_rate: 1.0e-3\n")
    assert run(recipe, "method: greedy\nvariables: {learning_rate: [1.0e-3]}\n", tmp_path / "sweep") == 2
    assert "learning_rate is 0.001, which has no effect with base_learning_rate" in capsys.readouterr().err
    recipe.write_text(recipe.read_text().replace("base_learning_rate: 1.0e-3", "optimizer: sgd"))
    assert run(recipe, "method: optuna\ntrials: 1\nvariables: {adam_beta2: [0.9]}\n", tmp_path / "sweep") == 2
    assert "adam_beta2 is 0.9, which has no effect with optimizer: sgd" in capsys.readouterr().err


@pytest.fixture
def trained(recipe, tmp_path, monkeypatch):
    """Runs that end at once with the next of the given exit codes (default 0), and the folders that were tried."""
    codes, tried = [], []

    def end(module, words):
        folder = Path(words[words.index("--output_dir") + 1])
        tried.append(folder.name)
        if code := codes.pop(0) if codes else 0:
            return code
        metrics = {name: {"value": 0.1 * len(tried)} for name in ("balanced_accuracy", "accuracy")}
        (folder / "report.json").write_text(json.dumps({"results": {"validation": {"metrics": metrics}}}))
        shutil.copyfile(recipe, folder / "recipe.yaml")
        (folder / "run.json").write_text(json.dumps({"argv": words}))
        return 0

    monkeypatch.setattr(child_run, "run_child", end)
    monkeypatch.setattr(sweeping, "_draw", lambda *_: None)
    return codes, tried


def outcomes(folder: Path) -> list[str]:
    return [trial["outcome"] for trial in json.loads((folder / "sweep.json").read_text())["trials"]]


def test_a_diverging_trial_does_not_end_the_search_and_is_not_repeated(recipe, tmp_path, trained):
    codes, tried = trained
    codes += [0, TrainingError.exit_code]
    for _ in range(2):
        assert run(recipe, "method: greedy\nvariables: {seed: [1, 2]}\n", tmp_path / "sweep") == 0
        assert outcomes(tmp_path / "sweep") == ["complete", "failed", "complete"]
    assert tried == ["trial_1", "trial_2", "trial_3"]
    assert not list((tmp_path / "sweep").glob("trial_*/training.json"))


@pytest.mark.parametrize(
    ("code", "ours"),
    [(InputError.exit_code, 2), (MachineError.exit_code, 3), (1, 2), (-9, 3)],
    ids=["missing data", "full disk", "traceback", "killed"],
)
def test_a_trial_that_fails_for_other_reasons_stops_the_search_and_is_repeated(code, ours, recipe, tmp_path, trained):
    codes, tried = trained
    codes += [0, code]
    text = "method: greedy\nvariables: {seed: [1, 2]}\n"
    assert run(recipe, text, tmp_path / "sweep") == ours
    assert tried == ["trial_1", "trial_2"] and not (tmp_path / "sweep" / "best.yaml").exists()
    assert run(recipe, text, tmp_path / "sweep") == 0
    assert outcomes(tmp_path / "sweep") == ["complete"] * 3
    assert tried == ["trial_1", "trial_2", "trial_2", "trial_3"]


def test_settings_that_do_not_fit_together_fail_without_a_training(recipe, tmp_path, trained):
    _, tried = trained
    text = "method: greedy\nvariables: {image_size: [48], eval_resize: [40, 64]}\n"  # 48 is better, and more than 40
    assert run(recipe, text, tmp_path / "sweep") == 0
    assert outcomes(tmp_path / "sweep") == ["complete", "complete", "failed", "complete"]
    assert tried == ["trial_1", "trial_2", "trial_4"]
    assert "eval_resize is 40" in (tmp_path / "sweep" / "trial_3" / "failed.txt").read_text()


def test_a_recipe_that_does_not_train_can_be_tried_again(recipe, tmp_path, trained):
    trained[0].append(TrainingError.exit_code)
    assert run(recipe, GREEDY, tmp_path / "sweep") == TrainingError.exit_code
    assert run(recipe, GREEDY, tmp_path / "sweep") == 0


def test_a_recipe_that_is_edited_or_gone_during_the_search_stops_it(recipe, tmp_path, trained, monkeypatch, capsys):
    end = child_run.run_child

    def edit(module, words):
        recipe.write_text(recipe.read_text() + "# edited\n")
        return end(module, words)

    monkeypatch.setattr(child_run, "run_child", edit)
    assert run(recipe, GREEDY, tmp_path / "sweep") == 2
    assert "small.yaml was edited during the search" in capsys.readouterr().err


def test_missing_data_stop_the_search_and_a_loss_that_is_infinite_does_not(
    recipe, tmp_path, synthetic_dir, in_this_process, capfd
):
    folder, away = tmp_path / "sweep", tmp_path / "away.csv"
    data = Path(shutil.copytree(synthetic_dir, tmp_path / "data"))
    table = data / "HAM10000_metadata.csv"
    recipe.write_text(recipe.read_text().replace(str(synthetic_dir), str(data)))
    text = "method: greedy\nvariables: {freeze: [no_such_part], learning_rate: [100.0]}\n"
    longer = recipe.read_text().replace("max_steps: 2", "max_steps: 30\nweight_decay: 100")
    recipe.write_text(longer.replace("_steps: 1", "_steps: 30"))
    table.rename(away)
    assert run(recipe, text, folder) == 2
    assert "trial_1 failed with the error above; run the same command again to retry" in capfd.readouterr().err
    away.rename(table)
    assert run(recipe, text, folder) == 0
    assert outcomes(folder) == ["complete", "failed", "failed"]
    assert sorted(path.parent.name for path in folder.glob("*/failed.txt")) == ["trial_2", "trial_3"]
    assert "is nan" in capfd.readouterr().err  # the loss of trial_3
    assert not list(folder.glob("*/training.json"))


def test_a_trial_that_the_machine_stops_is_run_again(recipe, tmp_path, in_this_process, capsys):
    with only_writer(tmp_path / "sweep" / "trial_1"):
        assert run(recipe, GREEDY, tmp_path / "sweep") == 3
    assert "trial_1 ended with exit code 3; run the same command again to resume" in capsys.readouterr().err


def test_a_trial_of_optuna_that_the_machine_interrupted_is_run_again_with_its_settings(recipe, tmp_path, trained):
    pytest.importorskip("optuna")
    folder, (codes, tried) = tmp_path / "sweep", trained
    codes += [TrainingError.exit_code, MachineError.exit_code]
    assert run(recipe, OPTUNA, folder) == 3
    before = json.loads((folder / "trial_2" / "training.json").read_text())
    assert run(recipe, OPTUNA, folder) == 0
    assert outcomes(folder) == ["failed", "complete", "complete"]
    assert tried == ["trial_1", "trial_2", "trial_2", "trial_3"]
    assert json.loads((folder / "trial_2" / "run.json").read_text())["argv"] == before["argv"]


def test_lists_numbers_and_dictionaries_become_flags(tmp_path):
    settings = {"crop_scale": [0.3, 1.0], "config_overrides": {"model_args": {"drop_rate": 0.1}}, "seed": 3}
    words = "--data_dir synthetic --model_name_or_path x".split()
    recipe = parse_recipe([*words, *sweeping._flags(settings)])
    assert recipe.image.crop_scale == [0.3, 1.0] and recipe.training.seed == 3
    assert recipe.model.config_overrides == settings["config_overrides"]
    path = tmp_path / "sweep.yaml"
    path.write_text("method: optuna\ntrials: 1\nvariables: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}\n")
    assert read_sweep(path).variables["learning_rate"] == {"low": 1e-4, "high": 1e-2, "log": True}
    path.write_text("method: greedy\nvariables: {learning_rate: [1e-4, x], seed: ['3'], split: ['3']}\n")
    assert read_sweep(path).variables == {"learning_rate": [1e-4, "x"], "seed": [3], "split": ["3"]}


def test_the_page_warns_that_the_best_trial_is_partly_luck():
    sweep = Sweep("greedy", "accuracy", None, {"learning_rate": [1, 2]})
    trials = [Trial({}, 0.5), Trial({"learning_rate": 2}, 0.7), Trial({"learning_rate": 1}, None, "pruned")]
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
        ("method: optuna\ntrials: 2\nvariables: {crop_scale: [[0.2, 1]]}", "which only method: greedy supports"),
        ("method: greedy\nmetric: f1\nvariables: {seed: [1]}", "metric is 'f1': expected one of balanced_accuracy"),
        ("variables: [1]", "expected the keys method, metric, trials, variables"),
        ("a: {b", "is not readable YAML"),
    ],
)
def test_invalid_sweeps_are_refused(text, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_sweep(path)
