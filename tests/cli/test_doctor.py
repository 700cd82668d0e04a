"""`ham-hf doctor`: what is wrong with a machine is said, with what to do."""

import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub.constants
import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ham_hf.cli import doctor
from ham_hf.cli.main import main
from tests.helpers.small_data import make_rows, write_folder, write_table


def test_a_sound_machine_has_no_problem_and_its_token_is_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecret")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for name in ("Python", "packages", "imports", "extra offline", "CPU", "memory", "GPU", "bfloat16", "disk here"):
        assert f" {name} " in shown
    assert "offline mode is on" in shown and "0 problems" in shown
    assert "there is one in HF_TOKEN" in shown and "secret" not in shown


def test_a_package_that_is_not_installed_ends_the_examination(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PACKAGE", "no-such-package-of-ours")
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.count("problem  packages") == 1


def test_a_broken_installation_ends_the_examination(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "IMPORTED", ("no_such_module_of_ours",))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "No module named 'no_such_module_of_ours'" in shown and "all else" in shown and "disk" not in shown


def test_a_module_that_fails_to_load_is_named_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "broken_of_ours.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_imports(["json", "broken_of_ours"])
    assert check.state == "problem" and check.found == "broken_of_ours: RuntimeError: operator nms does not exist"


def test_versions_are_compared_with_what_is_declared():
    assert doctor.check_python("3.9.1", SpecifierSet(">=3.10")).state == "problem"
    assert doctor.check_python("3.15.0rc1", SpecifierSet(">=3.10")).state == "ok"
    declared = ["torch>=2", "numpy>=99", "no-such-package-of-ours>=1", 'pytest>=99; extra == "dev"']
    checks = list(doctor.check_packages(map(Requirement, declared)))
    assert [check.name for check in checks] == ["numpy", "no-such-package-of-ours"]
    assert "where numpy>=99 is needed" in checks[0].found and "not installed" in checks[1].found
    [check] = doctor.check_packages(map(Requirement, declared[:1]))
    assert check.state == "ok" and f"torch {torch.__version__.partition('+')[0]}" in check.found


def test_an_extra_that_is_not_there_is_a_warning_with_its_command():
    declared = ['pytest>=8; extra == "onnx"', 'no-such-package-of-ours; extra == "sweep"']
    checks = {check.name: check for check in doctor.check_extras(list(map(Requirement, declared)))}
    assert checks["extra onnx"].state == "ok"
    assert checks["extra sweep"].remedy.endswith('pip install "ham-hf[sweep]"')
    assert "extra dev" not in checks


def test_little_memory_is_a_warning_and_a_containers_limit_counts(tmp_path, monkeypatch):
    assert doctor.check_memory((1e9, 8e9)).state == "warning"
    assert doctor.check_memory((6e9, 8e9)).state == "ok"
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("250000\n")
    monkeypatch.setattr(doctor, "MEMORY_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.stat").write_text("anon 150000\nfile 100000\ninactive_file 90000\n")
    assert doctor.free_memory() == (840_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.free_memory()[1] > 1e8


def test_a_disk_is_written_to_and_what_is_free_is_said(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(doctor, "LITTLE_DISK", free / 2)
    check = doctor.check_disk("disk", tmp_path / "not" / "there", "elsewhere")
    assert check.state == "ok" and "GB free" in check.found
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(doctor, "LITTLE_DISK", free * 2)
    assert doctor.check_disk("disk", tmp_path, "elsewhere").state == "warning"
    (tmp_path / "file").write_text("in the way")
    check = doctor.check_disk("disk", tmp_path / "file" / "folder", "elsewhere")
    assert check.state == "problem" and "cannot be written" in check.found


@pytest.mark.skipif(torch.accelerator.is_available(), reason="torch sees a GPU")
def test_a_gpu_that_torch_does_not_see_is_a_warning(tmp_path, monkeypatch):
    assert doctor.check_gpu().state == "ok"
    (tmp_path / "nvidia-smi").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.check_gpu()
    assert check.state == "warning" and "sees no GPU" in check.found


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self):
        self.server.seen.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture()
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def address(server: HTTPServer | socket.socket) -> str:
    name = server.server_address if isinstance(server, HTTPServer) else server.getsockname()
    return f"http://127.0.0.1:{name[1]}"


def test_a_hub_that_answers_is_reached_without_the_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecret")
    assert doctor.check_hub(address(hub), offline=False).state == "ok"
    monkeypatch.setattr(Answer, "status", 503)
    assert "HTTP status 503" in doctor.check_hub(address(hub), offline=False).found
    assert hub.seen == [None, None]


def test_a_hub_that_is_not_reached_or_silent_is_a_warning(hub, monkeypatch):
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        refused = doctor.check_hub(address(silent), offline=False)  # nobody listens
        silent.listen()
        unanswered = doctor.check_hub(address(silent), offline=False)
    assert refused.state == unanswered.state == "warning"
    assert "refused" in refused.found and ("no answer" in unanswered.found or "imeout" in unanswered.found)
    assert "offline mode" in doctor.check_hub(address(hub), offline=True).found and hub.seen == []


def test_the_data_is_audited(tmp_path, capsys):
    folder = write_folder(tmp_path / "data", make_rows(14, 1))
    check = doctor.check_data(str(folder))
    assert check.state == "ok" and "14 rows, 14 lesions; 0 images absent, 0 broken; no leak" in check.found
    (folder / "images" / "IMG_000_0.jpg").unlink()
    (folder / "images" / "IMG_001_0.jpg").write_bytes(b"no image")
    check = doctor.check_data(str(folder))
    assert check.state == "warning" and "1 images absent, 1 broken" in check.found
    rows = make_rows(14, 1)
    write_table(folder / "HAM10000_metadata.csv", [*rows, rows[0]])
    check = doctor.check_data(str(folder))
    assert check.state == "problem" and "it leaks: image ids in several rows: 1 (IMG_000_0)" in check.found
    assert main(["doctor", "--data_dir", str(tmp_path / "nowhere")]) == 1
    assert "problem  data" in capsys.readouterr().out
