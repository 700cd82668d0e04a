"""Make runs in tests faster: in the test's own process, which has imported torch, or without a report."""

import pytest

from ham_hf import train
from ham_hf.system.command import run_command
from ham_hf.training import child_run


@pytest.fixture(scope="module")
def in_this_process():
    """Train the runs of a sweep, a cross-validation or an ensemble in the test's own process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_run, "run_child", lambda module, words: run_command(train.main, words))
        yield


@pytest.fixture(scope="module")
def without_report():
    """Let runs end with run.json: their reports have tests of their own, and take as long as the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_report", lambda folder: {"results": {}})
        yield
