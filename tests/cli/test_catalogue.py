"""`ham-hf recipes`: what there is, what the study reported, and what runs of one's own came to."""

import json
import shutil

import pytest

from ham_hf.cli.catalogue import read_recipes
from ham_hf.cli.main import main
from ham_hf.reporting.report import build_report, headline_line, read_run
from tests.reporting.test_report import change_facts, make_run
from tests.test_recipes import FOLDER, RECIPES, ROOT

QUICKSTART = FOLDER / "quickstart.yaml"


def shown(capsys, *words) -> str:
    assert main(["recipes", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_every_recipe_of_the_repository_is_listed_with_what_the_study_reported(monkeypatch, capsys, tmp_path):
    assert [entry.path for entry in read_recipes(FOLDER)] == RECIPES
    assert all(entry.what for entry in read_recipes(FOLDER))
    monkeypatch.chdir(ROOT)
    text = shown(capsys, "--runs", tmp_path)
    assert f"{len(RECIPES)} recipes" in text
    assert (
        "recipes/study/b7_vit_base.yaml: google/vit-base-patch16-224\n"
        "  B7: ViT-B/16, batches of 64: the study's chosen vision transformer\n"
        "  reported: loss .592900, validation accuracy .849398 (best .861 at epoch 8), test accuracy .856, 19m 33s\n"
    ) in text
    assert "MMBT of ResNet-50 and BERT-base as we would train it.\n" in text  # the first sentence of several


@pytest.fixture()
def runs(tmp_path):
    """A run of the quick start, with flags of its own; one of another recipe; and a folder that is no run."""
    folder = tmp_path / "runs"
    (folder / "no run").mkdir(parents=True)
    run = make_run(folder / "mine", images=(40, 30), synthetic=True)
    argv = ["recipes/quickstart.yaml", "--data_dir", "x", "--crop_scale", "0.5", "1", "--output_dir=y", "--seed=3"]
    change_facts(run, argv=argv)
    # The same recipe, with another comment
    (run / "recipe.yaml").write_text("# Mine\n" + QUICKSTART.read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copytree(run, folder / "other")
    (folder / "other" / "recipe.yaml").write_text("model_name_or_path: pypi:efficientnet-lite0\n")
    return folder


def test_a_run_of_a_recipe_is_listed_with_its_interval_and_what_was_different(runs, capsys):
    assert f"  {runs / 'mine'}: no report.json: `ham-hf report" in shown(capsys, FOLDER, "--runs", runs)
    report = build_report(read_run(runs / "mine"))
    (runs / "mine" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    text = shown(capsys, FOLDER, "--runs", runs)
    line = headline_line(report["results"]["validation"])
    assert "[" in line
    of_quickstart = text.partition(f"{QUICKSTART}: ")[2].partition(str(FOLDER / "study"))[0]
    expected = f"{runs / 'mine'}: {line}; split study; --crop_scale 0.5 1; --seed=3; Made from synthetic images"
    assert expected in of_quickstart
    assert text.count(str(runs / "mine")) == 1 and str(runs / "other") not in text


def test_what_is_not_there_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes"]) == 2
    assert "recipes come with a clone of the repository" in capsys.readouterr().err
    (tmp_path / "recipes").mkdir()
    shutil.copy(FOLDER / "sweeps" / "greedy.yaml", tmp_path / "recipes")
    assert main(["recipes"]) == 2
    assert "recipes holds no recipe" in capsys.readouterr().err


def test_a_run_that_is_not_readable_is_named(runs, capsys):
    (runs / "mine" / "run.json").write_text("{")
    assert main(["recipes", str(FOLDER), "--runs", str(runs)]) == 2
    assert "mine/run.json is not readable as JSON" in capsys.readouterr().err
