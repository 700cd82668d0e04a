"""`ham-hf push` against a Hub on loopback, by huggingface_hub's own client; and loading what it published."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from safetensors.torch import load_file, save_file

from ham_hf.config.arguments import ModelArguments
from ham_hf.hub.model_repo import check_that_it_loads, stage
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.models.build import Revisions, build_model, build_processor
from ham_hf.models.multimodal import build_patient_model, build_patient_processor, copy_pipeline
from ham_hf.reporting.model_card import REPO_ID
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from tests.helpers.hub_server import File, HubServer, Repo
from tests.helpers.tiny_checkpoints import IMAGE_SIZE, make_tiny_checkpoint
from tests.reporting.test_report import change_facts, make_run

ROOT = Path(__file__).parents[2]
SITES = ["back", "face"]
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
CARD = "---\nlicense: cc-by-nc-4.0\nlibrary_name: transformers\npipeline_tag: image-classification\n---\n\n# Skin\n"
# Loading the files in a new process takes ten seconds, and is tested in the first pushes
WITHOUT_LOADING = """
import sys
from ham_hf.cli.main import main
from ham_hf.hub import model_repo
model_repo.check_that_it_loads = lambda run, staged: None
raise SystemExit(main(["push", *sys.argv[1:]]))
"""


# Run folders


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A function from a checkpoint's name to the folder of a tiny one."""

    def make(name: str) -> str:
        return str(make_tiny_checkpoint(name, tmp_path_factory.mktemp("tiny")))

    return make


def finish_run(run: Path, *parts) -> Path:
    """Model and processor into a run folder, a report, and much that is nobody else's business."""
    torch.manual_seed(0)
    for part in parts:
        part.save_pretrained(run)
    write_report(run)
    (run / "arguments.json").write_text(json.dumps({"data_dir": "my images", "output_dir": str(run)}, indent=2) + "\n")
    (run / "recipe.yaml").write_text("seed: 42\n")
    (run / "patients_validation.csv").write_text("image_id,age,sex,localization,dx_type\n")
    (run / "checkpoint-7").mkdir()
    for name in ("training_args.bin", "optimizer.pt", "trained_weights.safetensors", "train.log", "photo.jpg"):
        (run / name).write_bytes(b"private")
        (run / "checkpoint-7" / name).write_bytes(b"private")
    shutil.copy(run / "model.safetensors", run / "checkpoint-7")
    return run


@pytest.fixture(scope="module")
def image_run(checkpoint, tmp_path_factory):
    name = checkpoint("microsoft/resnet-50")
    settings = {"image_size": IMAGE_SIZE, "eval_resize": 36, "normalization": "checkpoint"}
    torch.manual_seed(0)
    run = make_run(tmp_path_factory.mktemp("runs") / "image", images=(40, 0))
    return finish_run(run, build_model(name), build_processor(name, revision=None, **settings))


@pytest.fixture(scope="module")
def patient_run(checkpoint, tmp_path_factory):
    args = ModelArguments(
        model_name_or_path=checkpoint("microsoft/resnet-50"),
        fusion="mmbt",
        text_model_name_or_path=checkpoint("google-bert/bert-base-uncased"),
        patient_encoding="sentence",
    )
    images = build_processor(
        args.model_name_or_path, revision=None, image_size=IMAGE_SIZE, eval_resize=36, normalization="checkpoint"
    )
    torch.manual_seed(0)
    model = build_patient_model(args, Revisions(), labels=LABELS, sites=SITES, image_size=IMAGE_SIZE)
    processor = build_patient_processor(args, images, text_revision=None, sites=SITES)
    run = finish_run(make_run(tmp_path_factory.mktemp("runs") / "patient", images=(40, 0)), model, processor)
    copy_pipeline(run)
    (run / "ablation").mkdir()
    (run / "ablation" / "shuffled.csv").write_text("image_id\n")
    return run


@pytest.fixture
def run(image_run, tmp_path):
    """A copy of the image run that a test may change."""
    return Path(shutil.copytree(image_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)).save(path)
    return path


# Processes


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


def environment(hub: HubServer, home: Path, token: str | None = "hf_ada") -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    return ours | {"OMP_NUM_THREADS": "1"} | hub.environment(home, token)


def push(hub: HubServer, home: Path, *arguments, token: str | None = "hf_ada", loads: bool = False):
    """Run push_to_hub.py, which is `ham-hf push`; without `loads`, without the check that the files load."""
    command = ["push_to_hub.py"] if loads else ["-c", WITHOUT_LOADING]
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        cwd=ROOT,
        env=environment(hub, home, token),
        capture_output=True,
        text=True,
    )


def pushed(*arguments, **options) -> str:
    done = push(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments, **options) -> str:
    """The error's text, on one line as it was typed."""
    done = push(*arguments, **options)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr[done.stderr.index("error: ") :]


def repo(hub: HubServer, name: str = IMAGE_REPO):
    return hub.repos["models", name]


@pytest.fixture(scope="module")
def published(image_run, patient_run, tmp_path_factory):
    """Both runs, pushed as users push them; and a push during which the network goes for good, while these go on."""
    home = tmp_path_factory.mktemp("home")
    with HubServer() as broken, HubServer() as server:
        broken.cut("PUT /lfs/.*", times=1000)
        abandoned = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_LOADING, str(image_run), IMAGE_REPO],
            cwd=ROOT,
            env=environment(broken, home),
            stderr=subprocess.PIPE,
            text=True,
        )
        for run, name in ((image_run, IMAGE_REPO), (patient_run, PATIENT_REPO)):
            pushed(server, home, run, name, loads=True)
        server.abandoned = (broken, abandoned)
        yield server
        abandoned.kill()
        abandoned.communicate()


# Pushing


def test_only_what_is_on_the_list_is_published(published, image_run, patient_run):
    plots = {f"plots/{path.name}" for path in (image_run / "plots").glob("*.png")}
    image, patient = repo(published), repo(published, PATIENT_REPO)
    assert plots and image.files.keys() == LISTED | plots | {"preprocessor_config.json", ".gitattributes"}
    assert patient.files.keys() >= LISTED | plots | {
        "processor_config.json",
        "tokenizer.json",
        "ablation/shuffled.csv",
    }
    assert {path for path in patient.files if path.endswith(".py")} == {
        f"{part}_mmbt.py" for part in ("configuration", "modeling", "processing", "pipeline")
    }
    assert b"private" not in b"".join([*image.files.values(), *patient.files.values()])
    assert image.files["model.safetensors"] == (image_run / "model.safetensors").read_bytes()


def test_a_push_is_one_commit_and_a_second_without_change_none(published, image_run, tmp_path):
    before, count = repo(published).refs["main"], len(published.requests)
    assert len(repo(published).titles()) == 2  # with the Hub's own first one
    assert "already has these files" in pushed(published, tmp_path, image_run, IMAGE_REPO)
    assert repo(published).refs["main"] == before
    assert not [request for request in published.requests[count:] if "/commit/" in request or "PUT" in request]


def test_a_change_is_one_more_commit_of_what_changed(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO)
    uploads = list(hub.uploads)
    recipe = (run / "recipe.yaml").read_text() + "data_seed: 1\n"
    (run / "recipe.yaml").write_text(recipe)
    (run / "plots" / "loss.png").unlink()
    repo(hub).commits[repo(hub).refs["main"]].files["LICENSE"] = File(b"mine", False)
    assert "published: " in pushed(hub, tmp_path, run, IMAGE_REPO)
    assert repo(hub).files["recipe.yaml"] == recipe.encode()
    assert "plots/loss.png" not in repo(hub).files and repo(hub).files["LICENSE"] == b"mine"
    assert len(repo(hub).titles()) == 3 and hub.uploads == uploads


def test_only_pictures_that_the_report_draws_are_published(run, tmp_path):
    plots = run / "plots"
    drawn = {path.name for path in plots.iterdir()}
    for name in ("preview.png", "loss_copy.png", "roc_test.png"):  # the run has no test predictions
        (plots / name).write_bytes(b"a photograph")
    stage(run, tmp_path / "staged", repo_id=IMAGE_REPO)
    assert {path.name for path in (tmp_path / "staged" / "plots").iterdir()} == drawn
    (run / "report.json").unlink()
    stage(run, tmp_path / "again", repo_id=IMAGE_REPO)
    assert not (tmp_path / "again" / "plots").exists()


def test_a_dry_run_shows_files_and_card_and_needs_no_hub(hub, run, tmp_path):
    shown = pushed(hub, tmp_path, run, IMAGE_REPO, "--dry_run", "--eval_results", token=None)
    size = (run / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors\n" in shown and "  .eval_results/ham10000.yaml\n" in shown
    assert "README.md:\n\n" + (run / "README.md").read_text().replace(REPO_ID, IMAGE_REPO) in shown
    assert "photo.jpg\n" not in shown and "patients_" not in shown
    assert hub.requests == []


def test_patient_data_goes_when_asked_and_only_then(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO, "--with_patient_data")
    assert "patients_validation.csv" in repo(hub).files
    pushed(hub, tmp_path, run, IMAGE_REPO)
    assert "patients_validation.csv" not in repo(hub).files


def test_paths_of_this_machine_and_tokens_are_not_published(run, tmp_path):
    data, token = "/home/ada lovelace/März_1/HAM10000", "hf_" + "x" * 34
    change_facts(run, argv=["/srv/r.yaml", f"--data_dir={data}/", "--hub_token", token, "--output_dir", "/srv/r"])
    change_facts(run, data__source=data, recipe="/srv/r.yaml")
    (run / "patients_validation.csv").unlink()
    write_report(run)
    arguments = {"data_dir": data, "model_name_or_path": "C:\\Users\\ada\\net", "split": "~/splits/s.csv"}
    (run / "arguments.json").write_text(json.dumps(arguments | {"output_dir": "runs/r", "image_size": 32}))
    (run / "recipe.yaml").write_text(f"data_dir: {data}  # and/or another\nsplit: /mnt/nfs/other.csv\n")
    (run / "README.md").write_text(f"{CARD}{data}/a.jpg, {Path.home()}/secret/b.csv, https://host/srv/r\n")
    notes = stage(run, tmp_path / "staged", repo_id=IMAGE_REPO)
    texts = {
        path.name: path.read_text()
        for path in (tmp_path / "staged").iterdir()
        if path.suffix != ".safetensors" and path.is_file()
    }
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
    stage(run, tmp_path / "staged", repo_id=IMAGE_REPO)
    page = (tmp_path / "staged" / "report.html").read_text()
    assert "d&#39;arc" not in page and "sons" not in page and page.startswith("<p>HAM10000</p>")
    assert "--output_dir r</code>" in page and f'src="{picture}"' in page


def test_a_private_repository_is_private(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO, "--private")
    assert repo(hub).private
    pushed(hub, tmp_path, run, "ada/open")
    assert "ada/open exists and is public" in refused(hub, tmp_path, run, "ada/open", "--private")


def test_a_pull_request_leaves_main_as_it_was(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO)
    before = repo(hub).refs["main"]
    (run / "recipe.yaml").write_text("seed: 43\n")
    proposed = pushed(hub, tmp_path, run, IMAGE_REPO, "--create_pr", token="hf_eve")
    assert f"proposed: {hub.url}/ada/skin/discussions/1" in proposed
    assert repo(hub).refs["main"] == before
    assert repo(hub).commits[repo(hub).refs["refs/pr/1"]].files["recipe.yaml"].data == b"seed: 43\n"


def test_a_revision_is_a_branch_that_is_there(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO)
    before = repo(hub).refs["main"]
    (run / "recipe.yaml").write_text("seed: 43\n")
    error = refused(hub, tmp_path, run, IMAGE_REPO, "--revision", "next")
    assert "ada/skin has no branch 'next': `hf repos branch create ada/skin next` creates it" in error
    repo(hub).refs["next"] = before
    pushed(hub, tmp_path, run, IMAGE_REPO, "--revision", "next")
    assert repo(hub).refs["main"] == before and repo(hub).titles("next")[1:] == repo(hub).titles()


# Before anything is sent


def test_a_run_without_its_card_is_refused(hub, run, tmp_path):
    (run / "README.md").unlink()
    assert f"has no card (README.md): `ham-hf report {run}` writes it" in refused(hub, tmp_path, run, IMAGE_REPO)
    (run / "run.json").unlink()
    assert "has no run.json: expected the run folder of a finished" in refused(hub, tmp_path, run, IMAGE_REPO)
    assert "is not a folder" in refused(hub, tmp_path, tmp_path / "nothing", IMAGE_REPO)
    assert "expected owner/name, such as you/skin" in refused(hub, tmp_path, run, "skin")
    assert hub.requests == []


def test_files_that_answer_otherwise_or_do_not_load_are_refused(image_run, patient_run, tmp_path):
    stage(image_run, tmp_path / "image" / "staged", repo_id=IMAGE_REPO)
    weights = tmp_path / "image" / "staged" / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(
        InputError, match="gives .*, but ham-hf computes .* differ by more than 1e-05. Nothing was uploaded"
    ):
        check_that_it_loads(image_run, tmp_path / "image" / "staged")
    stage(patient_run, tmp_path / "patient" / "staged", repo_id=IMAGE_REPO)
    (tmp_path / "patient" / "staged" / "processing_mmbt.py").unlink()
    with pytest.raises(InputError, match="refers to the code 'processing_mmbt.SentenceProcessor', which is not in"):
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
def test_a_push_that_cannot_be_is_refused_before_anything_is_sent(token, name, flags, message, hub, run, tmp_path):
    assert message in refused(hub, tmp_path, run, name, *flags, token=token)
    assert hub.repos == {} and all(request.startswith("GET ") for request in hub.requests)


def test_a_name_taken_by_another_model_is_refused(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO)
    before = dict(repo(hub).commits[repo(hub).refs["main"]].files)
    del repo(hub).commits[repo(hub).refs["main"]].files["run.json"]
    assert "the name ada/skin is taken by a model that ham_hf did not publish" in refused(
        hub, tmp_path, run, IMAGE_REPO
    )
    assert len(repo(hub).titles()) == 2 and before.keys() - repo(hub).files.keys() == {"run.json"}


# The Hub refuses, is in trouble, or is cut off

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
def test_a_refusal_leaves_no_commit_and_says_what_to_do(request_, status, message, hub, run, tmp_path):
    hub.fail(request_, status)
    error = refused(hub, tmp_path, run, IMAGE_REPO)
    assert message in error and "No commit was made" in error
    if request_ == COMMIT:
        assert "the new repository ada/skin is empty" in error and repo(hub).titles() == ["initial commit"]
    else:
        assert hub.repos == {}


def test_what_somebody_else_commits_meanwhile_is_not_written_over(hub, run, tmp_path):
    pushed(hub, tmp_path, run, IMAGE_REPO)
    (run / "recipe.yaml").write_text("seed: 43\n")
    head = repo(hub).commits[repo(hub).refs["main"]]
    files = head.files | {"LICENSE": File(b"theirs", False)}
    hub.when(COMMIT, lambda: repo(hub).add_commit("main", "theirs", files, head.oid))
    error = refused(hub, tmp_path, run, IMAGE_REPO)
    assert "someone else has just committed to ada/skin: look at it on the Hub, then run this again" in error
    assert repo(hub).titles()[0] == "theirs" and repo(hub).files["recipe.yaml"] != b"seed: 43\n"
    pushed(hub, tmp_path, run, IMAGE_REPO)
    assert repo(hub).files["LICENSE"] == b"theirs" and repo(hub).files["recipe.yaml"] == b"seed: 43\n"


def test_trouble_that_passes_is_waited_for(hub, run, tmp_path):
    hub.fail("POST .*/preupload/main", 429, headers={"Retry-After": "0"})
    hub.fail("POST .*/objects/batch", 503)
    hub.cut("PUT /lfs/.*")
    pushed(hub, tmp_path, run, IMAGE_REPO)
    assert len(repo(hub).titles()) == 2 and repo(hub).files["model.safetensors"]


def test_a_push_cut_at_the_commit_goes_on_where_it_stopped(hub, run, tmp_path):
    hub.cut(COMMIT)
    error = refused(hub, tmp_path, run, IMAGE_REPO)
    assert "the connection to the Hub broke" in error and "nothing is uploaded or committed twice" in error
    assert repo(hub).titles() == ["initial commit"]
    uploads = list(hub.uploads)
    pushed(hub, tmp_path, run, IMAGE_REPO)
    assert len(repo(hub).titles()) == 2 and hub.uploads == uploads


def test_a_commit_whose_reply_is_lost_is_not_made_twice(hub, run, tmp_path):
    hub.cut(COMMIT, "answer")
    assert "the connection to the Hub broke" in refused(hub, tmp_path, run, IMAGE_REPO)
    assert "already has these files" in pushed(hub, tmp_path, run, IMAGE_REPO)
    assert len(repo(hub).titles()) == 2


# Loading back

FRESH = """
import json, sys
sys.modules["ham_hf"] = None  # as on a machine that has never heard of it
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoProcessor, pipeline
photo, image_repo, image_commit, patient_repo, patient_commit = sys.argv[1:]

def scores(model, inputs):
    values = model.eval()(**inputs).logits.softmax(dim=1)[0].tolist()
    return {model.config.id2label[i]: value for i, value in enumerate(values)}

def by_label(answers):
    return {answer["label"]: answer["score"] for answer in answers}

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


def python(hub: HubServer, home: Path, *command) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=home, env=environment(hub, home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_published_answers_the_same_where_ham_hf_is_not_installed(
    published, image_run, patient_run, photo, tmp_path
):
    sources = []
    for name in (IMAGE_REPO, PATIENT_REPO):
        sources += [name, repo(published, name).refs["main"]]
    image, patient = json.loads(python(published, tmp_path, "-c", FRESH, photo, *sources).splitlines()[-1])
    picture = Image.open(photo)
    [expected] = probabilities(load_classifier(str(image_run)), [picture])
    for answers in image:
        assert [answers[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
    [expected] = probabilities(load_classifier(str(patient_run)), [picture], [(45.0, "female", "back")])
    for answers in patient:
        assert [answers[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_download_that_breaks_goes_on_with_the_rest(hub, tmp_path):
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


def test_ham_hf_predict_takes_a_repository_and_a_pinned_revision(published, image_run, patient_run, photo, tmp_path):
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
    for row, answers in zip(rows, printed, strict=True):
        assert answers == pytest.approx(dict(zip(LABELS, row.tolist(), strict=True)), abs=6e-5)


def test_a_network_that_goes_for_good_leaves_no_commit(published):
    broken, abandoned = published.abandoned
    _, error = abandoned.communicate(timeout=120)
    assert abandoned.returncode == 2
    assert "the connection to the Hub broke" in error
    assert "Run the same command again" in error
    assert repo(broken).titles() == ["initial commit"]
