"""A training that another command started ends with that command, however that one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
CHILD = """
import signal, sys, time
from pathlib import Path
from ham_hf.child_process import end_with_parent
end_with_parent()
def tidy_up(*_):
    time.sleep(0.3)
    Path(sys.argv[1], "tidied").touch()
    raise SystemExit(3)
signal.signal(signal.SIGTERM, tidy_up)
Path(sys.argv[1], "started").touch()
time.sleep(60)
"""
PARENT = """
import sys
from ham_hf.child_process import run_child
raise SystemExit(run_child([sys.executable, "-c", sys.argv[1], sys.argv[2]]))
"""


@pytest.fixture
def processes(tmp_path):
    """A parent and the child that it waits for."""
    words = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    parent = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / "started").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    [child] = psutil.Process(parent.pid).children()
    yield parent, child
    parent.kill()
    parent.wait()


def test_a_child_ends_when_its_parent_is_killed(processes, tmp_path):
    parent, child = processes
    parent.kill()
    child.wait(timeout=10)
    assert not (tmp_path / "tidied").exists()


def test_a_parent_that_is_terminated_ends_its_child_first_and_waits_for_it(processes, tmp_path):
    parent, child = processes
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=10) == 143
    assert (tmp_path / "tidied").exists() and not child.is_running()


def test_a_parent_returns_its_child_s_exit_code(processes):
    parent, child = processes
    child.terminate()
    assert parent.wait(timeout=10) == 3
