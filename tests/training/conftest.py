"""Train the runs of a sweep, a cross-validation or an ensemble in the test's own process, which has imported torch."""

import pytest

from ham_hf.system.command import run_command
from ham_hf.train import main as train
from ham_hf.training import child_run


@pytest.fixture(scope="module")
def in_this_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_run, "run_child", lambda module, words: run_command(train, words))
        yield
