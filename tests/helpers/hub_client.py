"""Processes that use a HubServer as a user's commands do: huggingface_hub reads HF_ENDPOINT when it is imported."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.hub_server import HubServer

ROOT = Path(__file__).parents[2]
# Importing takes seconds, so one process runs many commands. Loading the files takes ten, and is left out
PUSHES = """
import contextlib, io, json, os, sys
from ham_hf.cli.main import main
from ham_hf.hub import model_repo
model_repo.check_that_it_loads = lambda run, staged: None
for line in sys.stdin:
    argv, token = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["push", *argv])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Pusher:
    """A process that runs one `ham-hf push` after another."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def begin(self, *argv, token: str | None = "hf_ada") -> None:
        print(json.dumps([[str(word) for word in argv], token]), file=self.process.stdin, flush=True)

    def result(self) -> tuple[int, str, str]:
        """Wait for the command, and return its exit code, stdout and stderr."""
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out, err


@contextmanager
def pusher(hub: HubServer, home: Path) -> Iterator[Pusher]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", PUSHES]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(hub, home), stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            yield Pusher(process)
        finally:
            process.kill()


def python(hub: HubServer, home: Path, *command, cwd: Path | None = None) -> str:
    """Run a command of Python that must succeed, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd or home,
        env=environment(hub, home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    return ours | {"OMP_NUM_THREADS": "1"} | hub.environment(home)
