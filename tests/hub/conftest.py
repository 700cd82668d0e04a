"""A run with a correct card, and what is published of it, for the tests of `ham-hf verify`."""

import shutil
from pathlib import Path

import pytest

from ham_hf.hub.model_repo import add_eval_results, stage
from tests.helpers.small_data import ham10000_rows, write_folder
from tests.helpers.tiny_runs import make_true_run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("my data") / "it's images_1", ham10000_rows())


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data) -> Path:
    """Return a run with a correct card, which no test may change."""
    return make_true_run(tmp_path_factory.mktemp("runs") / "vit", data)


@pytest.fixture(scope="session")
def staged(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "model"
    stage(finished, folder, repo_id="ada/skin")
    add_eval_results(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """Return a copy of the run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def copy(staged, tmp_path) -> Path:
    """Return a copy of what is published of the run."""
    return Path(shutil.copytree(staged, tmp_path / "copy"))
