"""The page of `ham-hf demo`, asked over HTTP as a browser does; and the Space that is made of it."""

import base64
import gc
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")
import httpx  # noqa: E402
from gradio.state_holder import StateHolder  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from huggingface_hub import RepoCard  # noqa: E402

from ham_hf.cli.main import main as ham_hf  # noqa: E402
from ham_hf.data.image_io import read_photo  # noqa: E402
from ham_hf.evaluation.thresholds import keep_threshold
from ham_hf.inference import demo  # noqa: E402
from ham_hf.inference.classifier import suspicion
from ham_hf.inference.demo import prediction_html, running_demo  # noqa: E402
from ham_hf.inference.engine import probabilities  # noqa: E402
from ham_hf.inference.load import load_classifier  # noqa: E402
from ham_hf.inference.predict import SYNTHETIC_ALONE  # noqa: E402
from ham_hf.labels import DISCLAIMER, FULL_NAMES, LABELS  # noqa: E402
from ham_hf.models.build import classifier_of  # noqa: E402
from ham_hf.system.errors import InputError  # noqa: E402
from tests.helpers.fake_runs import change_json, make_run
from tests.helpers.hub_server import File, HubServer, Repo  # noqa: E402
from tests.helpers.patient_models import SITES, save  # noqa: E402
from tests.helpers.small_data import noise  # noqa: E402
from tests.helpers.tiny_checkpoints import make_run_folder  # noqa: E402

ROOT = Path(__file__).parents[2]
# Runs in every new Python that finds it: which machines are talked to, and whose ham_hf it was, said at the end
WATCH = """
import atexit, json, sys
asked = set()
def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        asked.add(args[1][0])
sys.addaudithook(watch)
atexit.register(lambda: print(json.dumps([sorted(asked), sys.modules["ham_hf"].__file__])))
"""


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """The only place for temporary files."""
    folder, before = tmp_path_factory.mktemp("tmp"), tempfile.tempdir
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def image_run(tmp_path_factory) -> Path:
    """A model trained on synthetic images, with a threshold and four views."""
    run = make_run_folder(tmp_path_factory.mktemp("runs") / "my <run>")
    keep_threshold(run, load_classifier(str(run)).model, 0.1)
    change_json(run / "config.json", test_time_augmentation="flips")
    (run / "run.json").write_text(json.dumps({"data": {"synthetic": True}}))
    return run


@pytest.fixture(scope="module")
def patient_run(patient_model, tmp_path_factory) -> Path:
    model, processor = patient_model("mlp")
    for module in classifier_of(model):  # fresh heads are nearly flat
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
    return save((model, processor), tmp_path_factory.mktemp("runs") / "patient")


@pytest.fixture(scope="module")
def url(image_run, uploads):
    with running_demo(str(image_run), port=0) as url:
        yield url
    assert list(uploads.glob("ham_hf-demo-*")) == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "lesion of Ada.jpg"
    noise(90, 60).save(path)
    return path


def ask(url: str, photo: Path | None, *fields):
    """Return the prediction."""
    client = Client(url, verbose=False, download_files=False, analytics_enabled=False)
    return client.predict(photo and handle_file(photo), *fields, api_name="/predict")


def upload(url: str, photo: Path) -> str:
    """Where the server keeps it."""
    with photo.open("rb") as file:
        return httpx.post(f"{url}gradio_api/upload", files={"files": file}).json()[0]


def answer_about(url: str, path: str) -> str:
    photograph = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = f"{url}gradio_api/call/predict"
    event = httpx.post(call, json={"data": [photograph]}).json()["event_id"]
    return json.loads(httpx.get(f"{call}/{event}", timeout=60).text.rpartition("data: ")[2])[0]


def rows(response: str) -> list[tuple[str, str]]:
    """(diagnosis, probability) in the order of the table."""
    return re.findall(r'<th scope="row">([^<]+)<span.*?<td>([^<]+)</td>', response.replace("&#x27;", "'"))


def expected_rows(run: Path, photo: Path, patients=None) -> list[tuple[str, str]]:
    [row] = probabilities(load_classifier(str(run)), [read_photo(photo)], patients)
    return [(f"{FULL_NAMES[LABELS[i]]} ({LABELS[i]})", f"{row[i]:.4f}") for i in np.argsort(-row)]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_page_predicts_what_ham_hf_predict_predicts(url, image_run, photo):
    response = ask(url, photo)
    assert rows(response) == expected_rows(image_run, photo)
    assert suspicion(0.1) in response and DISCLAIMER in response and photo.is_file()
    pictures = [base64.b64decode(data) for data in re.findall('image/png;base64,([^"]+)', response)]
    crop, heat = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
    assert crop.shape == heat.shape == (32, 32, 3) and np.abs(crop.astype(int) - heat).max() > 50


def test_a_photograph_stays_until_it_is_removed_after_ten_minutes(url, image_run, photo):
    path = upload(url, photo)
    for _ in range(2):
        assert rows(answer_about(url, path)) == expected_rows(image_run, photo)
    config = json.load(urllib.request.urlopen(f"{url}config"))
    [image] = [part["id"] for part in config["components"] if part["type"] == "image"]
    assert all(image not in event["outputs"] for event in config["dependencies"])
    assert demo.DELETE_CACHE == (60, 600)
    Path(path).unlink()
    assert "choose it again" in answer_about(url, path)


def test_invalid_photographs_get_one_sentence_without_a_path(url, tmp_path, uploads):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    noise(300, 200).save(tmp_path / "cut <b>.png")
    os.truncate(tmp_path / "cut <b>.png", 10_000)
    for name, reason in {
        "text.jpg": "not an image in a supported format",
        "empty.jpg": "the file is empty",
        "cut <b>.png": "",
    }.items():
        response = ask(url, tmp_path / name)
        assert response.startswith('<p class="error" role="alert">cannot use ') and reason in response
        assert "Traceback" not in response and str(uploads) not in response and "<b>" not in response
    assert "choose a photograph first" in ask(url, None)


@pytest.mark.parametrize("words", [{"path": "SECRET"}, {"path": "SECRET", "meta": None}, {"path": 3}, {}, "SECRET"])
def test_no_file_but_an_upload_is_read_or_removed(words, url, photo, tmp_path):
    secret = shutil.copy(photo, tmp_path / "secret.jpg")
    sent = json.dumps({"data": [words]}).replace("SECRET", str(secret)).encode()
    request = urllib.request.Request(f"{url}gradio_api/call/predict", sent, {"Content-Type": "application/json"})
    with suppress(urllib.error.HTTPError):  # Gradio itself refuses some
        with urllib.request.urlopen(request) as answered:
            event = json.load(answered)["event_id"]
        with urllib.request.urlopen(f"{url}gradio_api/call/predict/{event}") as answered:
            response = answered.read().decode()
        assert "image/png" not in response and "<table" not in response
    assert Path(secret).is_file()


def test_the_page_warns_and_asks_no_other_machine(url):
    page = urllib.request.urlopen(url).read().decode()
    config = json.load(urllib.request.urlopen(f"{url}config"))
    html = [part["props"]["value"] for part in config["components"] if part["type"] == "html"]
    assert "<h1>my &lt;run&gt;</h1>" in html[0] and "stays on this machine" in html[0]
    assert DISCLAIMER in html[1] and SYNTHETIC_ALONE in html[1] and "This model uses only the image" in html[2]
    style = urllib.request.urlopen(f"{url}theme.css").read().decode()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page) and config["stylesheets"] == []
    assert "system-ui" in style and not re.search(r"""@import|url\(["']?(?:https?:)?//""", style)
    assert not config["analytics_enabled"] and not config["run_history"]


def test_only_this_machine_reaches_the_page_and_only_the_page(url, image_run, tmp_path):
    port = int(url.rstrip("/").rpartition(":")[2])
    listening = [one.laddr for one in psutil.Process().net_connections() if one.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{url}gradio_api/file={image_run / 'config.json'}".replace(" ", "%20"))
    with pytest.raises(InputError, match=f"--port {port} .*in use.*choose another port"):
        running_demo(str(image_run), port=port).__enter__()


def test_a_model_that_reads_the_patient_asks_about_one(patient_run, photo, uploads, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SESSIONS", 2)
    others = set(uploads.iterdir())
    with running_demo(str(patient_run), port=0) as url:
        config = json.load(urllib.request.urlopen(f"{url}config"))
        fields = {part["props"]["label"]: part["props"] for part in config["components"] if "label" in part["props"]}
        assert [value for _, value in fields["Body site"]["choices"]] == ["unknown", *SITES]
        assert [value for _, value in fields["Sex"]["choices"]] == ["unknown", "female", "male"]
        response = ask(url, photo, "45", "female", "back")
        assert rows(response) == expected_rows(patient_run, photo, [(45.0, "female", "back")])
        assert "<p>Age: 45 years. Sex: female. Body site: back.</p>" in response
        assert "only if it uses the image alone" in response and "base64" not in response
        unknown = ask(url, photo, "", "unknown", "unknown")
        assert rows(unknown) == expected_rows(patient_run, photo) != rows(response)
        assert "<p>Age: unknown. Sex: unknown. Body site: unknown.</p>" in unknown
        for age, site in (("old", "back"), ("300", "back"), ("", "elbow")):
            error = ask(url, photo, age, "male", site)
            assert 'role="alert"' in error and ("expected one of back, face" if site == "elbow" else "age is") in error
        # However many visitors there were, the answers of the last two alone are in memory
        [holder] = [of for of in gc.get_objects() if type(of) is StateHolder and of.capacity == 2]
        assert len(holder.session_data) == 2
    assert set(uploads.iterdir()) == others


def test_what_is_missing_is_said_with_what_to_install(image_run, photo, monkeypatch, capsys):
    classifier = load_classifier(str(image_run))
    monkeypatch.setitem(sys.modules, "captum", None)
    response = prediction_html(classifier, read_photo(photo), None)
    assert "[explain]&quot;</code>" in response and "base64" not in response and DISCLAIMER in response
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert ham_hf(["demo", str(image_run)]) == 2
    assert 'ham-hf demo requires gradio, which is not installed: pip install -e ".[demo]"' in capsys.readouterr().err


# The Space

SPACE, TAKEN, MODEL = "ada/page", "ada/taken", "ada/skin"


@pytest.fixture(scope="module")
def pushed(image_run, tmp_path_factory):
    """A Hub with the model, and what `ham-hf push` printed about several Spaces of it, in one process."""
    folder = tmp_path_factory.mktemp("push")
    run, changed = (Path(shutil.copytree(image_run, folder / name)) for name in ("run", "changed"))
    facts = make_run(folder / "reported", synthetic=True) / "run.json"
    for copy in (run, changed):  # with what `ham-hf push` requires, and a photograph
        shutil.copyfile(facts, copy / "run.json")
        for name in ("report.json", "README.md", "predictions_validation.csv", "photo.jpg"):
            (copy / name).write_text("{}")
    with (changed / "model.safetensors").open("ab") as file:
        file.write(b" ")
    commands = {
        "dry": [run, SPACE, "--space", "--model", MODEL, "--dry_run"],
        "no model": [run, SPACE, "--space", "--model", "ada/nothing"],
        "other weights": [changed, SPACE, "--space", "--model", MODEL],
        "taken": [run, TAKEN, "--space", "--model", MODEL],
        "published": [run, SPACE, "--space", "--model", MODEL],
    }
    code = "\n".join(
        f"print({name!r}, main({list(map(str, ['push', *words]))}), flush=True)" for name, words in commands.items()
    )
    with HubServer() as hub:
        model, taken = Repo(private=False), Repo(private=False)
        hub.repos |= {("models", MODEL): model, ("spaces", TAKEN): taken}
        contents = {path.name: path.read_bytes() for path in run.iterdir()}
        files = {name: File(data, name.endswith(".safetensors")) for name, data in contents.items()}
        model.add_commit("main", "a model", files, None)
        taken.add_commit("main", "theirs", {"app.py": File(b"theirs", False)}, None)
        hub.objects |= {file.sha256: file.data for file in files.values()}
        hub.said = subprocess.run(
            [sys.executable, "-c", f"from ham_hf.cli.main import main\n{code}"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | hub.environment(folder / "home"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout
        yield hub


def test_a_space_goes_to_the_hub_with_the_package_and_nothing_of_the_run(pushed):
    dry, rest = pushed.said.split("dry 0\n")
    assert "  app.py\n" in dry and "photo.jpg" not in dry
    assert "Without --dry_run, this goes to the space ada/page" in dry
    assert f"published: {pushed.url}/spaces/ada/page/commit/" in rest and rest.endswith("published 0\n")
    published = pushed.repos["spaces", SPACE].files
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ham_hf").rglob("*.py")}
    assert package <= published.keys() and published["LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert {Path(name).suffix for name in published} == {
        *("", ".md", ".py", ".jinja", ".css", ".js", ".txt", ".typed")
    }
    page = published["README.md"].decode()
    front = RepoCard(page).data.to_dict()
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and front["models"] == [MODEL]
    assert front["sdk_version"] == metadata.version("gradio") and front["license"] == "apache-2.0"
    assert f"> **{DISCLAIMER}**" in page and f"> **{SYNTHETIC_ALONE}**" in page
    needed = published["requirements.txt"].decode().splitlines()
    assert {re.split("[><=]", line)[0] for line in needed} >= {"torch", "transformers", "gradio", "captum"}
    assert not any(";" in line or "pytest" in line for line in needed)


def test_a_space_of_no_model_of_another_one_or_over_somebody_elses_is_refused(pushed):
    errors = re.findall("error: (.*)\n(.*) 2\n", pushed.said)
    assert [name for _, name in errors] == ["no model", "other weights", "taken"]
    (nothing, _), (other, _), (taken, _) = errors
    assert "no model ada/nothing that this token can read: push the run there first" in nothing
    assert "the weights of ada/skin are not those of the run (model.safetensors)" in other
    assert "the name ada/taken is taken by a space that ham_hf did not publish" in taken
    assert pushed.repos["spaces", TAKEN].titles() == ["theirs"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space"], "--space and --model go together"),
        (["--model", MODEL], "--space and --model go together"),
        (["--space", "--model", "skin"], "--model is 'skin': expected owner/name"),
        (["--space", "--model", MODEL, "--eval_results"], "remove them, or remove --space"),
    ],
)
def test_options_that_make_no_space_are_refused(words, message, tmp_path, capsys):
    assert ham_hf(["push", str(tmp_path), SPACE, *words]) == 2
    assert message in capsys.readouterr().err


def test_the_app_of_a_space_answers_with_the_model_of_the_hub(pushed, image_run, photo, tmp_path):
    for name, data in pushed.repos["spaces", SPACE].files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(data)
    with running_app(pushed, tmp_path) as url:
        assert rows(ask(url, photo)) == expected_rows(image_run, photo)
        config = json.load(urllib.request.urlopen(f"{url}config"))
        html = [part["props"]["value"] for part in config["components"] if part["type"] == "html"]
        assert "do not upload photographs of people without their consent" in html[0] and SYNTHETIC_ALONE in html[1]


@contextmanager
def running_app(hub: HubServer, folder: Path):
    """`python app.py` of the Space in `folder`, as a Space starts it; then that it left nothing, and met nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    (folder / "tmp").mkdir()
    told = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    places = {"PYTHONPATH": str(folder / "watch"), "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder / "space",
        env=os.environ | told | places | hub.environment(folder / "home", token=None),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = [process.stdout.readline() for _ in range(3)]
        assert said[0] == f"{DISCLAIMER}\n" and "it has no password" in said[1] and str(port) in said[2]
        yield f"http://127.0.0.1:{port}/"
        process.terminate()
        asked, package = json.loads(process.communicate()[0])
    finally:
        process.kill()
    assert process.returncode == 0 and files(folder / "tmp") == [] and not list((folder / "tmp").glob("ham_hf*"))
    assert Path(package) == folder / "space" / "ham_hf" / "__init__.py"
    assert set(asked) <= {"127.0.0.1", "::1", "localhost"}
