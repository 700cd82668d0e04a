"""`ham-hf data push`: HAM10000 is published only on request, its license first, and loads back unchanged."""

import json
import subprocess
import sys

import pytest
from datasets import Image, load_dataset

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.data.schema import canonical_features
from ham_hf.hub.dataset_card import load_publishable, render_dataset_card
from tests.helpers.hub_client import ROOT, environment
from tests.helpers.hub_server import HubServer
from tests.helpers.small_data import load, make_rows, write_folder

REPO = "ada/ham10000"
# One process, because importing torch and datasets takes eight seconds
PUSHES = """
import json, sys
from ham_hf.cli.main import main
folder, partial, repo = sys.argv[1:]

def run(code, *argv):
    assert main(["data", *argv, "--split", "grouped", "--split_seed", "7"]) == code
    print("NEXT", flush=True)

run(2, "push", folder, repo)
run(0, "push", folder, repo, "--dry_run")
run(2, "push", folder, repo, "--accept_license", "--private")  # the Hub refuses the first file of images
run(0, "push", folder, repo, "--accept_license", "--private")
run(0, "push", folder, repo, "--accept_license")
run(0, "audit", repo)

from huggingface_hub import hf_hub_download
from tests.helpers.small_data import load
complete = load(repo, split_seed=7)[1]
run(0, "push", partial, repo, "--accept_license", "--allow_missing_images")
print(json.dumps([complete, load(repo, split=hf_hub_download(repo, "split.csv", repo_type="dataset"))[1]]))
"""


@pytest.fixture(scope="module")
def rows():
    """Return rows with ids of HAM10000, whose lesions the study's split keeps together."""
    return [row | {"image_id": f"ISIC_{24306 + number:07d}"} for number, row in enumerate(make_rows(70, images=1))]


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "HAM10000", rows)


@pytest.fixture(scope="module")
def partial(rows, tmp_path_factory):
    """Return a copy without the first five images."""
    folder = write_folder(tmp_path_factory.mktemp("partial") / "HAM10000", rows)
    for path in sorted((folder / "images").iterdir())[:5]:
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def pushed(data, partial, tmp_path_factory):
    """Push a dataset several times and load it back; return the output of the commands, stderr and the Hub."""
    with HubServer() as server:
        server.fail("PUT /lfs/.*", 403)
        done = subprocess.run(
            [sys.executable, "-c", PUSHES, str(data), str(partial), REPO],
            cwd=ROOT,
            env=environment(server, tmp_path_factory.mktemp("home")),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield done.stdout.split("NEXT\n"), done.stderr, server


@pytest.fixture(scope="module")
def commits(pushed):
    """Return the files of each commit, the oldest first."""
    repo = pushed[2].repos["datasets", REPO]
    found, oid = [], repo.refs["main"]
    while oid:
        found.insert(0, {path: file.data for path, file in repo.commits[oid].files.items()})
        oid = repo.commits[oid].parent
    return found


@pytest.fixture(scope="module")
def loaded(commits, tmp_path_factory):
    """Return a function that loads the dataset as of a commit, without ham_hf."""

    def load_commit(number):
        folder = tmp_path_factory.mktemp("commit")
        (folder / "data").mkdir()
        for path, content in commits[number].items():
            (folder / path).write_bytes(content)
        return load_dataset(str(folder), cache_dir=folder / "cache")

    return load_commit


def test_nothing_is_sent_without_confirmation(pushed):
    (_, dry, *_), stderr, server = pushed
    assert "nothing was sent. HAM10000 is CC BY-NC 4.0" in stderr and "photographs of patients" in stderr
    assert "42  images in data/train-*.parquet" in dry and "README.md:" in dry and "Nothing was sent." in dry
    assert server.repos["datasets", REPO].private
    assert next(request for request in server.requests if request.startswith("POST ")) == "POST /api/repos/create"


def test_the_license_is_on_the_hub_before_the_first_image(pushed, commits):
    server = pushed[2]
    commit = server.requests.index(f"POST /api/datasets/{REPO}/commit/main")
    assert commit < next(number for number, request in enumerate(server.requests) if request.startswith("PUT /lfs/"))
    assert commits[1].keys() == {".gitattributes", "README.md", "split.csv"}
    assert b"license: cc-by-nc-4.0" in commits[1]["README.md"]


def test_push_to_hub_adds_metadata_to_the_card_and_changes_nothing_else(commits):
    (front, page), (front_before, page_before) = (
        commits[number]["README.md"].decode().removeprefix("---\n").split("\n---\n", 1) for number in (2, 1)
    )
    assert page == page_before and front.startswith(front_before + "\ndataset_info:\n") and "\nconfigs:\n" in front


def test_an_interrupted_push_says_what_is_there_and_continues(pushed):
    (_, _, interrupted, complete, *_), stderr, server = pushed
    assert "(the Hub says 403: This is a test). The card is there, these images are not" in stderr
    assert "published: " in interrupted and "already has these files" in complete and "published: " in complete
    assert len(server.uploads) == len(set(server.uploads)) == 5  # three splits, and two that changed


def test_a_second_push_without_changes_makes_no_commit(pushed, commits):
    assert "already has these files" in pushed[0][4] and "already has these images" in pushed[0][4]
    assert "published: " not in pushed[0][4]
    assert len(commits) == 5  # the Hub's first; a card and images, twice


def test_the_pushed_dataset_has_the_same_split_and_bytes(pushed, data, partial):
    assert "No leaks found." in pushed[0][5]
    complete, without_five = json.loads(pushed[0][-1].splitlines()[-1])
    splits, direct = load(data, split_seed=7)
    assert complete["kind"] == "hub" and len(splits["test"])
    assert complete | {"kind": "folder", "source": str(data)} == direct  # split_sha256 and images_sha256 among them
    _, direct = load(partial, split_seed=7, allow_missing_images=True)
    for name in ("split_sha256", "images_sha256"):
        assert without_five[name] == direct[name]


def test_columns_are_canonical_and_contain_the_files(loaded, data, rows, commits):
    dataset = loaded(2)
    assert set(dataset) == {"train", "validation", "test"} and sum(map(len, dataset.values())) == len(rows)
    assert all(part.features == canonical_features() for part in dataset.values())
    for row in dataset["test"].cast_column("image", Image(decode=False)):
        assert row["image"]["path"] == f"{row['image_id']}.jpg"
        assert row["image"]["bytes"] == (data / "images" / f"{row['image_id']}.jpg").read_bytes()
    assert all(str(data.parent).encode() not in content for files in commits for content in files.values())


def test_images_that_are_gone_from_the_copy_are_removed(loaded, commits, rows):
    ids = {image_id for part in loaded(4).values() for image_id in part["image_id"]}
    assert ids == {row["image_id"] for row in rows[5:]}
    assert b"--split split.csv" in commits[4]["README.md"]
    assert set(commits[4]["split.csv"].decode().split()[1:]) == {
        f"{image_id},{name}" for name, part in loaded(4).items() for image_id in part["image_id"]
    }


def test_the_card_states_license_split_and_audit_and_no_local_path(data):
    splits, facts = load_publishable(DataArguments(data_dir=str(data), split="study"))
    card = render_dataset_card(facts, splits, REPO)
    assert "license: cc-by-nc-4.0" in card and "@article{tschandl2018ham10000" in card
    assert f"--data_dir {REPO} --split study" in card and f'load_dataset("{REPO}")' in card
    assert facts["split_sha256"] in card and facts["images_sha256"] in card
    assert "### Leak audit" in card and "| lesions in two splits | 0 |" in card
    assert str(data.parent) not in card and "{{" not in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}", "ham10000"], "expected owner/name"),
        (["{folder}/nowhere", REPO], "is not a folder: expected a copy of HAM10000"),
        (["{folder}", REPO], "nothing was sent"),
        (["{clinic}", REPO, "--split", "grouped", "--accept_license"], "70 images are not HAM10000's (IMG_000_0"),
        (["{folder}", REPO, "--dry_run", "--split", "nowhere.csv"], "expected 'study', 'grouped', 'all', or a CSV"),
    ],
)
def test_invalid_data_and_names_are_rejected(words, message, data, tmp_path, capsys):
    clinic = write_folder(tmp_path / "clinic", make_rows())
    words = [word.format(folder=data, clinic=clinic) for word in words]
    assert main(["data", "push", *words]) == 2
    assert message in capsys.readouterr().err
