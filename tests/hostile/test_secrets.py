"""Nothing secret is published: tokens, patients' data, and whatever a link points to."""

import json
import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from ham_hf.cli.main import main
from ham_hf.hub.model_repo import stage
from ham_hf.labels import LABELS
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import make_run
from tests.helpers.small_data import make_rows, read_rows, write_folder
from tests.helpers.tiny_checkpoints import save_classifier

TOKEN = "hf_aRecognisableTokenOfTheHub0123456789"
AGE, SITE = "87.25", "retroauricular"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and images of patients whose data would be recognized."""
    folder = tmp_path_factory.mktemp("secrets")
    save_classifier(folder / "model", LABELS)
    rows = [row | {"age": AGE, "localization": SITE} for row in make_rows(35, 1)]
    write_folder(folder / "data", rows)
    return folder


def test_tokens_and_patients_are_only_where_they_were_asked_for(folder, monkeypatch, capfd, caplog):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    caplog.set_level(logging.DEBUG)
    model, data, output = (str(folder / name) for name in ("model", "data", "evaluation"))
    photo = next((folder / "data" / "images").iterdir())
    before = set(folder.rglob("*"))
    assert main(["predict", model, str(photo), "--csv", str(folder / "out.csv")]) == 0
    words = ["--data_dir", data, "--split", "grouped", "--output_dir", output]
    assert main(["evaluate", model, *words]) == 0
    assert main(["report", output]) == 0
    assert main(["compare", output, "--with", output]) == 2
    assert main(["evaluate", model, *words]) == 2
    assert main(["predict", model, str(folder / "gone.jpg"), "--debug"]) == 2
    shown = capfd.readouterr()
    assert TOKEN not in shown.out + shown.err + caplog.text
    written = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    assert len(written) > 10
    with_patients = set()
    for path in written:
        content = path.read_bytes()
        assert TOKEN.encode() not in content, path
        with_patients |= {path.name} if AGE.encode() in content else set()
    # Ages of single patients are in the files that are called so, and nowhere else; sites are in the report, by group
    assert with_patients == {"patients_validation.csv", "patients_test.csv"}
    assert SITE not in (folder / "out.csv").read_text() + shown.out + shown.err


def test_a_token_in_a_recipe_or_on_the_command_line_is_refused_and_not_repeated(folder, tmp_path, capfd):
    (tmp_path / "recipe.yaml").write_text(f"data_dir: synthetic\nmodel_name_or_path: x\nhub_token: {TOKEN}\n")
    flags = ["--data_dir", "synthetic", "--model_name_or_path", "x", "--hub_token", TOKEN]
    for words in ([str(tmp_path / "recipe.yaml")], flags):
        assert main(["train", *words]) == 2
    shown = capfd.readouterr()
    assert shown.err.count("hub_token is set: it would be written into the run's files") == 2
    assert TOKEN not in shown.out + shown.err


# Links: what they point to is never written


def test_predictions_replace_a_link_and_leave_what_it_points_to(folder, tmp_path):
    private, link = tmp_path / "private.txt", tmp_path / "out.csv"
    private.write_text("mine")
    link.symlink_to(private)
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    assert main(["predict", str(folder / "model"), str(tmp_path / "photo.png"), "--csv", str(link)]) == 0
    assert private.read_text() == "mine" and not link.is_symlink()
    assert [row["file"] for row in read_rows(link)] == [str(tmp_path / "photo.png")]


def test_a_report_replaces_links_and_leaves_what_they_point_to(tmp_path):
    run = make_run(tmp_path / "run", images=(12, 12))
    write_report(run)
    private = tmp_path / "private"
    private.mkdir()
    files = [path for path in run.rglob("*") if path.suffix in (".md", ".png") or path.name == "report.json"]
    assert len(files) > 8
    for number, path in enumerate(files):
        (private / str(number)).write_text("mine")
        path.unlink()
        path.symlink_to(private / str(number))
    write_report(run)
    assert {path.read_text() for path in private.iterdir()} == {"mine"}
    assert not [path for path in files if path.is_symlink()]


def test_pictures_are_not_drawn_into_a_folder_elsewhere(tmp_path, capsys):
    run = make_run(tmp_path / "run", images=(12, 12))
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "subgroups_test.png").write_text("mine")
    (run / "plots").symlink_to(tmp_path / "private")
    capsys.readouterr()
    assert main(["report", str(run)]) == 2
    assert (
        "plots is a link, and the figures would be written to its target: remove the link" in capsys.readouterr().err
    )
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["subgroups_test.png"]


def test_what_a_link_points_to_is_not_published(tmp_path):
    run = make_run(tmp_path / "run", images=(12, 12))
    write_report(run)
    (tmp_path / "id_rsa").write_text("secret")
    (run / "recipe.yaml").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(
        InputError, match="recipe.yaml is a link to .*id_rsa, outside the run folder: replace it by the file"
    ):
        stage(run, tmp_path / "staged", repo_id="you/model")


def test_a_photograph_behind_a_link_is_read(folder, tmp_path, capsys):
    photo = next((folder / "data" / "images").iterdir())
    (tmp_path / "linked.jpg").symlink_to(photo)
    assert main(["predict", str(folder / "model"), str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "linked.jpg"))


def test_names_of_files_that_are_no_utf8_are_predicted_and_shown(folder, tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/\xff\x1b[2J.png"
    Image.new("RGB", (40, 30)).save(os.fsdecode(name))
    assert main(["predict", str(folder / "model"), str(tmp_path), "--csv", str(tmp_path / "out.csv")]) == 0
    assert r"\udcff\x1b[2J.png" in capsys.readouterr().out
    assert name in (tmp_path / "out.csv").read_bytes()


def test_a_malformed_run_json_is_an_error(folder, tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    path = folder / "model" / "run.json"
    for content in ("[]", '{"data": []}', '{"data": {"synthetic": 1}}' * 2, "[" * 100_000, "\ud800"):
        path.write_text(content, errors="surrogatepass")
        assert main(["predict", str(folder / "model"), str(tmp_path / "photo.png")]) == 2
        assert "run.json" in capsys.readouterr().err
    path.write_text(json.dumps({"data": {"synthetic": False}}))
    assert main(["predict", str(folder / "model"), str(tmp_path / "photo.png")]) == 0
    path.unlink()
