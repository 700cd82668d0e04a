"""A run folder is published as a model: these files, and without what is private."""

import json
import shlex
from pathlib import Path

import pytest
from markupsafe import escape

from ham_hf.hub.model_repo import stage
from ham_hf.reporting.report import write_report
from tests.helpers.fake_runs import change_facts, make_run

REPO = "ada/skin"
CARD = "---\nlicense: cc-by-nc-4.0\nlibrary_name: transformers\npipeline_tag: image-classification\n---\n\n# Skin\n"


@pytest.fixture
def run(tmp_path):
    """Return a run without test predictions, and without the model."""
    run = make_run(tmp_path / "run", images=(40, 0))
    write_report(run)
    return run


def test_only_pictures_that_the_report_draws_are_published(run, tmp_path):
    plots = run / "plots"
    drawn = {path.name for path in plots.iterdir()}
    for name in ("preview.png", "loss_copy.png", "roc_test.png"):  # the run has no test predictions
        (plots / name).write_bytes(b"a photograph")
    stage(run, tmp_path / "staged", repo_id=REPO)
    assert {path.name for path in (tmp_path / "staged" / "plots").iterdir()} == drawn
    (run / "report.json").unlink()
    stage(run, tmp_path / "again", repo_id=REPO)
    assert not (tmp_path / "again" / "plots").exists()


def test_paths_of_this_machine_and_tokens_are_not_published(run, tmp_path):
    data, token = "/home/ada lovelace/März_1/HAM10000", "hf_" + "x" * 34
    change_facts(run, argv=["/srv/r.yaml", f"--data_dir={data}/", "--hub_token", token, "--output_dir", "/srv/r"])
    change_facts(run, data__source=data, recipe="/srv/r.yaml")
    write_report(run)
    arguments = {"data_dir": data, "model_name_or_path": "C:\\Users\\ada\\net", "split": "~/splits/s.csv"}
    (run / "arguments.json").write_text(json.dumps(arguments | {"output_dir": "runs/r", "image_size": 32}))
    (run / "recipe.yaml").write_text(f"data_dir: {data}  # and/or another\nsplit: /mnt/nfs/other.csv\n")
    (run / "README.md").write_text(f"{CARD}{data}/a.jpg, {Path.home()}/secret/b.csv, https://host/srv/r\n")
    notes = stage(run, tmp_path / "staged", repo_id=REPO)
    texts = {path.name: path.read_text() for path in (tmp_path / "staged").iterdir() if path.is_file()}
    for private in (data, "lovelace", "/srv/r.yaml", "Users", "~/splits", "/mnt/nfs", str(Path.home()), token):
        assert [name for name, text in texts.items() if private in text] == []
    assert json.loads(texts["run.json"])["argv"] == [
        "r.yaml",
        "--data_dir=HAM10000/",
        "--hub_token",
        "<HUB_TOKEN>",
        "--output_dir",
        "r",
    ]
    assert json.loads(texts["arguments.json"]) == {
        "data_dir": "HAM10000",
        "model_name_or_path": "net",
        "split": "s.csv",
        "output_dir": "runs/r",
        "image_size": 32,
    }
    assert json.loads(texts["report.json"])["run"]["data"]["source"] == "HAM10000"
    assert texts["recipe.yaml"] == "data_dir: HAM10000  # and/or another\nsplit: other.csv\n"
    assert texts["README.md"] == f"{CARD}HAM10000/a.jpg, ~/secret/b.csv, https://host/srv/r\n"
    assert any(f"{data} → HAM10000 (" in note and "run.json" in note for note in notes)


def test_the_html_page_loses_its_paths_and_keeps_its_pictures(run, tmp_path):
    data, picture = "/home/d'arc & sons/HAM10000", "data:image/png;base64,iVBO+/srv/r+/srv/r/+/srv/r="
    change_facts(run, argv=[f"--data_dir={data}", "--output_dir", "/srv/r"])
    command = escape(shlex.join(["ham-hf", "train", f"--data_dir={data}", "--output_dir", "/srv/r"]))
    (run / "report.html").write_text(f'<p>{escape(data)}</p><code>{command}</code><img src="{picture}" />')
    stage(run, tmp_path / "staged", repo_id=REPO)
    page = (tmp_path / "staged" / "report.html").read_text()
    assert "d&#39;arc" not in page and "sons" not in page and page.startswith("<p>HAM10000</p>")
    assert "--output_dir r</code>" in page and f'src="{picture}"' in page
