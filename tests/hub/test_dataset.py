"""`ham-hf data push`: a copy of HAM10000 goes to the Hub when that is meant, and comes back the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Image, load_dataset

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.data.schema import canonical_features
from ham_hf.data.sources import hub
from ham_hf.hub.dataset_files import stage_dataset
from tests.helpers.hub_server import HubServer
from tests.helpers.small_data import load, make_rows, write_folder

ROOT = Path(__file__).parents[2]
REPO = "ada/ham10000"
FROM_THE_HUB = """
import json, sys
from ham_hf.cli.main import main
from tests.helpers.small_data import load
folder, repo = sys.argv[1:]
push = ["data", "push", folder, repo, "--split", "grouped", "--split_seed", "7"]
assert main(push) == 2 and main([*push, "--dry_run"]) == 0
print("accepted", flush=True)
assert main([*push, "--accept_license", "--private"]) == 0
assert main([*push, "--accept_license"]) == 0
splits, facts = load(repo, split_seed=7)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def rows():
    """Under HAM10000's own ids; the study's split tears none of these lesions apart."""
    return [row | {"image_id": f"ISIC_{24306 + number:07d}"} for number, row in enumerate(make_rows(70, images=1))]


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "HAM10000", rows)


@pytest.fixture(scope="module")
def pushed(data, tmp_path_factory):
    """Push a dataset and load it back: the output, the facts, and the Hub."""
    with HubServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB, str(data), REPO],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | server.environment(tmp_path_factory.mktemp("home")),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield done, server


def test_nothing_is_sent_unless_that_is_said(pushed):
    done, server = pushed
    assert "nothing was sent. HAM10000 is CC BY-NC 4.0" in done.stderr and "photographs of patients" in done.stderr
    dry = done.stdout.split("accepted")[0]
    assert "data/train-00000-of-00001.parquet" in dry and "README.md:" in dry and "Nothing was sent." in dry
    assert server.repos["datasets", REPO].private
    assert next(request for request in server.requests if request.startswith("POST ")) == "POST /api/repos/create"


def test_it_is_one_commit_and_a_second_push_none(pushed):
    done, server = pushed
    assert "already has these files" in done.stdout
    assert server.repos["datasets", REPO].titles() == ["HAM10000, split grouped", "initial commit"]


def test_what_comes_back_has_the_same_split_and_the_same_bytes(pushed, data):
    facts = json.loads(pushed[0].stdout.splitlines()[-1])
    splits, direct = load(data, split_seed=7)
    assert facts["kind"] == "hub" and len(splits["test"])
    assert facts | {"kind": "folder", "source": str(data)} == direct  # split_sha256 and images_sha256 among them


@pytest.fixture()
def stage(tmp_path):
    def stage(folder, **changes):
        (tmp_path / "staged").mkdir()
        stage_dataset(DataArguments(data_dir=str(folder), **changes), tmp_path / "staged", REPO)
        return tmp_path / "staged"

    return stage


def test_its_columns_are_the_canonical_ones_with_the_files_in_them(stage, data, rows, tmp_path):
    staged = stage(data, split="study")
    loaded = load_dataset(str(staged), cache_dir=tmp_path / "cache")
    assert set(loaded) == {"train", "validation", "test"} and sum(map(len, loaded.values())) == len(rows)
    assert all(part.features == canonical_features() for part in loaded.values())
    cell = loaded["test"].cast_column("image", Image(decode=False))[0]
    assert cell["image"]["path"] == f"{cell['image_id']}.jpg"
    assert cell["image"]["bytes"] == (data / "images" / f"{cell['image_id']}.jpg").read_bytes()


def test_its_card_says_license_split_and_audit_and_nothing_of_this_machine(stage, data):
    staged = stage(data, split="study")
    card = (staged / "README.md").read_text()
    _, facts = load(data, split="study")
    assert "license: cc-by-nc-4.0" in card and "@article{tschandl2018ham10000" in card
    assert f"--data_dir {REPO} --split study" in card and f'load_dataset("{REPO}")' in card
    assert facts["split_sha256"] in card and facts["images_sha256"] in card
    assert "### Leak audit" in card and "| lesions in two splits | 0 |" in card
    assert str(data.parent) not in card and "{{" not in card


def test_absent_images_are_left_out_and_split_csv_gives_the_same_split(stage, rows, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "copy", rows)
    for path in sorted((folder / "images").iterdir())[:5]:
        path.unlink()
    staged = stage(folder, split="grouped", allow_missing_images=True)
    assert "--split split.csv" in (staged / "README.md").read_text()
    loaded = load_dataset(str(staged), cache_dir=tmp_path / "cache")
    monkeypatch.setattr(hub, "load_dataset", lambda name, revision: loaded)
    _, facts = load(folder, allow_missing_images=True)
    _, again = load(REPO, split=str(staged / "split.csv"))
    assert facts["split_sha256"] == again["split_sha256"] and facts["images_sha256"] == again["images_sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{folder}", "ham10000"], "expected owner/name"),
        (["{folder}/nowhere", REPO], "is not a folder: expected a copy of HAM10000"),
        (["{folder}", REPO], "nothing was sent"),
        (["{clinic}", REPO, "--split", "grouped", "--accept_license"], "70 images are not HAM10000's (IMG_000_0"),
        (["{folder}", REPO, "--dry_run", "--split", "nowhere.csv"], "expected 'study', 'grouped', 'all', or a CSV"),
    ],
)
def test_what_is_not_to_be_published_is_refused(words, said, data, tmp_path, capsys):
    clinic = write_folder(tmp_path / "clinic", make_rows())
    words = [word.format(folder=data, clinic=clinic) for word in words]
    assert main(["data", "push", *words]) == 2
    assert said in capsys.readouterr().err
