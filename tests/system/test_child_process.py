"""A training that another command started ends with that command, however that one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import signal, sys, time
from pathlib import Path
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
from ham_hf.system.child_process import run_child
raise SystemExit(run_child("child", sys.argv[1:]))
"""


@pytest.fixture
def processes(tmp_path):
    """A parent and the child that it waits for."""
    (tmp_path / "child.py").write_text(CHILD)
    words = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"})
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
