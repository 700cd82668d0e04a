"""`ham-hf push` to a Hub on loopback, with huggingface_hub's own client, and loading what it published."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ham_hf.hub.model_repo import check_that_it_loads, stage
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.reporting.model_card import REPO_ID
from ham_hf.system.errors import InputError
from tests.helpers.hub_client import ROOT, pusher, python
from tests.helpers.hub_server import File, HubServer, Repo
from tests.helpers.publishable_runs import make_image_run, make_patient_run

IMAGE_REPO, PATIENT_REPO = "ada/skin", "ada/skin-and-patient"
LISTED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "report.html",
    "report.json",
    "run.json",
    "arguments.json",
    "recipe.yaml",
    "predictions_validation.csv",
    "SHA256SUMS",
}
PATIENT_LISTED = {"processor_config.json", "tokenizer.json", "ablation/shuffled.csv"}


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    return make_image_run(tmp_path_factory.mktemp("image") / "run")


@pytest.fixture(scope="module")
def patient_run(tmp_path_factory):
    return make_patient_run(tmp_path_factory.mktemp("patient") / "run")


@pytest.fixture
def run(image_run, tmp_path):
    """Return a copy of the image run that a test may change."""
    return Path(shutil.copytree(image_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)).save(path)
    return path


# The Hub


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Return a Hub and a process that pushes to it."""
    with HubServer() as server, pusher(server, tmp_path_factory.mktemp("home")) as process:
        yield server, process


@pytest.fixture
def hub(client):
    """Return the Hub without anything that an earlier test left there."""
    server, _ = client
    for state in (server.repos, server.objects, server.faults, server.requests, server.uploads, server.ranges):
        state.clear()
    return server


@pytest.fixture
def push(client, hub, run):
    """Return a function that runs `ham-hf push` and returns its output, or its error if it must fail."""
    _, process = client

    def push(*flags, repo_id=IMAGE_REPO, folder=run, token="hf_ada", fails=False) -> str:
        process.begin(folder, repo_id, *flags, token=token)
        code, out, err = process.result()
        assert code == (2 if fails else 0), out + err
        return err[err.index("error: ") :] if fails else out

    return push


def repo(hub: HubServer, name: str = IMAGE_REPO) -> Repo:
    return hub.repos["models", name]


@pytest.fixture(scope="module")
def published(image_run, patient_run, tmp_path_factory):
    """Push both runs as users do, and meanwhile another one whose network is lost for good."""
    home = tmp_path_factory.mktemp("home")
    with HubServer() as broken, HubServer() as server, pusher(broken, home) as abandoned:
        broken.cut("PUT /lfs/.*", times=1000)
        abandoned.begin(image_run, IMAGE_REPO)
        for run, name in ((image_run, IMAGE_REPO), (patient_run, PATIENT_REPO)):
            python(server, home, "push_to_hub.py", run, name, cwd=ROOT)
        server.abandoned = (broken, abandoned)
        yield server


# Pushing


def test_only_listed_files_are_published(published, image_run, patient_run):
    plots = {f"plots/{path.name}" for path in (image_run / "plots").glob("*.png")}
    image, patient = repo(published), repo(published, PATIENT_REPO)
    assert plots and image.files.keys() == LISTED | plots | {"preprocessor_config.json", ".gitattributes"}
    assert patient.files.keys() >= LISTED | plots | PATIENT_LISTED
    assert {path for path in patient.files if path.endswith(".py")} == {
        f"{part}_mmbt.py" for part in ("configuration", "modeling", "processing", "pipeline")
    }
    assert b"private" not in b"".join([*image.files.values(), *patient.files.values()])
    assert image.files["model.safetensors"] == (image_run / "model.safetensors").read_bytes()


def test_each_push_is_one_commit_of_what_changed(hub, run, push):
    assert "published: " in push() and len(repo(hub).titles()) == 2  # with the Hub's own first one
    before, uploads, count = repo(hub).refs["main"], list(hub.uploads), len(hub.requests)
    assert "already has these files" in push() and repo(hub).refs["main"] == before
    assert not [request for request in hub.requests[count:] if "/commit/" in request or "PUT" in request]
    recipe = (run / "recipe.yaml").read_text() + "data_seed: 1\n"
    (run / "recipe.yaml").write_text(recipe)
    (run / "plots" / "loss.png").unlink()
    repo(hub).commits[before].files["LICENSE"] = File(b"mine", False)
    assert "published: " in push()
    assert repo(hub).files["recipe.yaml"] == recipe.encode()
    assert "plots/loss.png" not in repo(hub).files and repo(hub).files["LICENSE"] == b"mine"
    assert len(repo(hub).titles()) == 3 and hub.uploads == uploads


def test_a_dry_run_prints_files_and_card_without_the_hub(hub, run, push):
    shown = push("--dry_run", "--eval_results", token=None)
    size = (run / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors\n" in shown and "  .eval_results/ham10000.yaml\n" in shown
    assert "README.md:\n\n" + (run / "README.md").read_text().replace(REPO_ID, IMAGE_REPO) in shown
    assert "photo.jpg\n" not in shown and "patients_" not in shown
    assert hub.requests == []


def test_patient_data_is_published_only_on_request_and_private_means_private(hub, push):
    push("--with_patient_data", "--private")
    assert repo(hub).private and "patients_validation.csv" in repo(hub).files
    push()
    assert "patients_validation.csv" not in repo(hub).files
    push(repo_id="ada/open")
    assert not repo(hub, "ada/open").private
    assert "ada/open exists and is public" in push("--private", repo_id="ada/open", fails=True)


def test_each_pull_request_is_another_one_and_its_revision_updates_it(hub, run, push):
    push()
    before = repo(hub).refs["main"]
    for number in (1, 2):
        (run / "recipe.yaml").write_text(f"seed: 5{number}\n")
        assert f"proposed: {hub.url}/ada/skin/discussions/{number}" in push("--create_pr", token="hf_eve")
    (run / "recipe.yaml").write_text("seed: 43\n")
    assert "published: " in push("--revision", "refs/pr/1", token="hf_eve")
    for number, seed in ((1, 43), (2, 52)):
        head = repo(hub).commits[repo(hub).refs[f"refs/pr/{number}"]]
        assert head.files["recipe.yaml"].data == f"seed: {seed}\n".encode()
    assert repo(hub).refs["main"] == before and len(repo(hub).pulls) == 2


def test_a_revision_is_an_existing_branch(hub, run, push):
    push()
    before = repo(hub).refs["main"]
    (run / "recipe.yaml").write_text("seed: 43\n")
    error = push("--revision", "next", fails=True)
    assert "ada/skin has no branch 'next': `hf repos branch create ada/skin next` creates it" in error
    repo(hub).refs["next"] = before
    push("--revision", "next")
    assert repo(hub).refs["main"] == before and repo(hub).titles("next")[1:] == repo(hub).titles()


# Before anything is sent


def test_an_unfinished_run_is_rejected(hub, run, push, tmp_path):
    (run / "README.md").unlink()
    assert f"has no card (README.md): `ham-hf report {run}` writes it" in push(fails=True)
    (run / "run.json").unlink()
    assert "has no run.json: expected the run folder of a finished" in push(fails=True)
    assert "is not a folder" in push(folder=tmp_path / "nothing", fails=True)
    assert "expected owner/name, such as you/skin" in push(repo_id="skin", fails=True)
    assert hub.requests == []


def test_files_that_predict_otherwise_or_do_not_load_are_rejected(image_run, patient_run, tmp_path):
    stage(image_run, tmp_path / "image" / "staged", repo_id=IMAGE_REPO)
    weights = tmp_path / "image" / "staged" / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(
        InputError, match="gives .*, but ham-hf computes .* differ by more than 1e-05. Nothing was uploaded"
    ):
        check_that_it_loads(image_run, tmp_path / "image" / "staged")
    stage(patient_run, tmp_path / "patient" / "staged", repo_id=IMAGE_REPO)
    (tmp_path / "patient" / "staged" / "processing_mmbt.py").unlink()
    with pytest.raises(InputError, match="refers to the code 'processing_mmbt.SentenceProcessor', which is not among"):
        check_that_it_loads(patient_run, tmp_path / "patient" / "staged")


@pytest.mark.parametrize(
    ("token", "name", "flags", "message"),
    [
        (None, "ada/skin", [], "no token for the Hub: run `hf auth login`"),
        ("hf_wrong", "ada/skin", [], "the Hub does not accept this token: `hf auth login` with another"),
        ("hf_ada_reads", "ada/skin", [], "this token of ada is read-only: create one with write access"),
        ("hf_ada", "eve/skin", [], "ada cannot write to repositories of eve: expected ada or clinic as the owner"),
        ("hf_ada", "museum/skin", [], "ada cannot write to repositories of museum"),
        ("hf_ada", "ada/skin", ["--create_pr"], "no repository ada/skin that this token can read"),
        ("hf_ada", "ada/skin", ["--revision", "next"], "to create it, remove --revision"),
    ],
)
def test_a_push_without_the_rights_is_rejected_before_anything_is_sent(token, name, flags, message, hub, push):
    assert message in push(*flags, repo_id=name, token=token, fails=True)
    assert hub.repos == {} and all(request.startswith("GET ") for request in hub.requests)


def test_the_name_of_a_foreign_model_is_rejected(hub, push):
    push()
    del repo(hub).commits[repo(hub).refs["main"]].files["run.json"]
    files = repo(hub).files
    assert "the name ada/skin is taken by a model that ham_hf did not publish" in push(fails=True)
    assert len(repo(hub).titles()) == 2 and repo(hub).files == files


# The Hub refuses or fails, or the connection breaks

COMMIT = "POST /api/models/ada/skin/commit/main"


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ("POST /api/repos/create", 403, "this token cannot write to ada/skin: create one with write access to it"),
        ("POST /api/repos/create", 409, "the name ada/skin is taken: choose another"),
        (COMMIT, 401, "the Hub does not accept this token"),
        (COMMIT, 429, "too many requests: wait some minutes"),
        (COMMIT, 503, "the Hub has a problem (503: This is a test)"),
        (COMMIT, 400, "the Hub rejects it (the Hub says 400: This is a test)"),
    ],
)
def test_an_error_of_the_hub_makes_no_commit_and_says_what_to_do(request_, status, message, hub, push):
    hub.fail(request_, status)
    error = push(fails=True)
    assert message in error and "No commit was made" in error
    if request_ == COMMIT:
        assert "the new repository ada/skin is empty" in error and repo(hub).titles() == ["initial commit"]
    else:
        assert hub.repos == {}


def test_a_concurrent_commit_is_not_overwritten(hub, run, push):
    push()
    (run / "recipe.yaml").write_text("seed: 43\n")
    head = repo(hub).commits[repo(hub).refs["main"]]
    files = head.files | {"LICENSE": File(b"theirs", False)}
    hub.when(COMMIT, lambda: repo(hub).add_commit("main", "theirs", files, head.oid))
    error = push(fails=True)
    assert "someone else has just committed to ada/skin: look at it on the Hub, then run this again" in error
    assert repo(hub).titles()[0] == "theirs" and repo(hub).files["recipe.yaml"] != b"seed: 43\n"
    push()
    assert repo(hub).files["LICENSE"] == b"theirs" and repo(hub).files["recipe.yaml"] == b"seed: 43\n"


def test_temporary_errors_are_retried(hub, push):
    hub.fail("POST .*/preupload/main", 429, headers={"Retry-After": "0"})
    hub.fail("POST .*/objects/batch", 503)
    hub.cut("PUT /lfs/.*")
    push()
    assert len(repo(hub).titles()) == 2 and repo(hub).files["model.safetensors"]


@pytest.mark.parametrize("where", ["request", "answer"])
def test_a_push_interrupted_at_the_commit_resumes(where, hub, push):
    hub.cut(COMMIT, where)
    error = push(fails=True)
    assert "the connection to the Hub broke" in error and "nothing is uploaded or committed twice" in error
    uploads, is_committed = list(hub.uploads), where == "answer"
    assert len(repo(hub).titles()) == 1 + is_committed
    assert ("already has these files" in push()) == is_committed
    assert len(repo(hub).titles()) == 2 and hub.uploads == uploads


def test_a_lost_network_makes_no_commit(published):
    broken, abandoned = published.abandoned
    code, _, error = abandoned.result()
    assert code == 2 and "the connection to the Hub broke" in error and "Run the same command again" in error
    assert repo(broken).titles() == ["initial commit"]


# Loading back

FRESH = """
import json, sys
sys.modules["ham_hf"] = None  # as if not installed
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoProcessor, pipeline
photo, image_repo, image_commit, patient_repo, patient_commit = sys.argv[1:]

def scores(model, inputs):
    values = model.eval()(**inputs).logits.softmax(dim=1)[0].tolist()
    return {model.config.id2label[i]: value for i, value in enumerate(values)}

def by_label(predictions):
    return {prediction["label"]: prediction["score"] for prediction in predictions}

case = {"image": photo, "age": 45, "sex": "female", "localization": "back"}
image = [by_label(pipeline("image-classification", model=image_repo, top_k=7)(photo))]
image.append(by_label(pipeline("image-classification", model=image_repo, revision=image_commit, top_k=7)(photo)))
model = AutoModelForImageClassification.from_pretrained(image_repo)
processor = AutoImageProcessor.from_pretrained(image_repo)
image.append(scores(model, processor(Image.open(photo), return_tensors="pt")))
source = {"revision": patient_commit, "trust_remote_code": True}
patient = [by_label(pipeline("image-classification", model=patient_repo, **source)(case))]
model = AutoModelForImageClassification.from_pretrained(patient_repo, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(patient_repo, trust_remote_code=True)
patient.append(scores(model, processor(Image.open(photo), age=45, sex="female", localization="back")))
print(json.dumps([image, patient]))
"""


def test_published_models_predict_the_same_without_ham_hf(published, image_run, patient_run, photo, tmp_path):
    sources = []
    for name in (IMAGE_REPO, PATIENT_REPO):
        sources += [name, repo(published, name).refs["main"]]
    image, patient = json.loads(python(published, tmp_path, "-c", FRESH, photo, *sources).splitlines()[-1])
    picture = Image.open(photo)
    [expected] = probabilities(load_classifier(str(image_run)), [picture])
    for scores in image:
        assert [scores[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
    [expected] = probabilities(load_classifier(str(patient_run)), [picture], [(45.0, "female", "back")])
    for scores in patient:
        assert [scores[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_an_interrupted_download_resumes(hub, tmp_path):
    data = np.random.default_rng(0).bytes(22 << 20)  # the client keeps what has come in pieces of 10 MiB
    hub.repos["models", IMAGE_REPO] = Repo(private=True)
    repo(hub).add_commit("main", "first", {"model.safetensors": File(data, True)}, None)
    hub.objects[File(data, True).sha256] = data
    hub.cut("GET /cdn/.*", "answer")
    download = "import huggingface_hub as h; print(h.hf_hub_download('ada/skin', 'model.safetensors'))"
    assert Path(python(hub, tmp_path, "-c", download).strip()).read_bytes() == data
    assert hub.ranges == [f"bytes={10 << 20}-"]


PREDICT = """
import sys
from ham_hf.cli.main import main
photo, image_repo, commit, patient_repo = sys.argv[1:]
main(["predict", image_repo, photo, "--revision", commit])
main(["predict", patient_repo, photo, "--age", "45", "--sex", "female", "--site", "back"])
assert main(["predict", image_repo, photo]) == 2
"""


def test_predict_loads_a_repository_at_a_pinned_revision(published, image_run, patient_run, photo, tmp_path):
    main, commit = repo(published), repo(published).refs["main"]
    broken = main.commits[commit].files | {
        "config.json": File(b'{"model_type": "resnet", "id2label": {"0": "x"}}', False)
    }
    main.add_commit("main", "broken", broken, commit)
    try:
        shown = python(published, tmp_path, "-c", PREDICT, photo, IMAGE_REPO, commit, PATIENT_REPO)
    finally:
        main.refs["main"] = commit
    picture = Image.open(photo)
    rows = [
        *probabilities(load_classifier(str(image_run)), [picture]),
        *probabilities(load_classifier(str(patient_run)), [picture], [(45.0, "female", "back")]),
    ]
    lines = [line.split() for line in shown.splitlines() if line.startswith("  ")]
    printed = [{words[0]: float(words[-1]) for words in lines[at : at + 7]} for at in (0, 7)]
    for row, shown in zip(rows, printed, strict=True):
        assert shown == pytest.approx(dict(zip(LABELS, row.tolist(), strict=True)), abs=6e-5)
