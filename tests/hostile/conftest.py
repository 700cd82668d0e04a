"""No test of hostile input may leave anything where it was not asked to, or run code that it was given."""

import os

import pytest

from tests.hostile.cases import tally


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory):
    """The working directory and the home are empty folders, and stay so."""
    patch = pytest.MonkeyPatch()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    patch.setenv("HOME", str(elsewhere))
    patch.chdir(elsewhere)
    yield elsewhere
    patch.undo()
    left = {path.name for path in elsewhere.iterdir()} - {".cache", ".config"}  # matplotlib's fonts
    assert not left, "something was written where nobody asked for it"


def pytest_sessionfinish(session):
    if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes
        session.config.workeroutput["hostile"] = [[*key, count] for key, count in tally.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for kind, outcome, count in node.workeroutput.get("hostile", []):
        tally[kind, outcome] += count


def pytest_terminal_summary(terminalreporter):
    kinds = sorted({kind for kind, _ in tally})
    if kinds:
        terminalreporter.write_line("")
        for kind in kinds:
            read, refused = tally[kind, "read"], tally[kind, "refused"]
            terminalreporter.write_line(f"{kind}: {read + refused:,} cases, {read:,} read, {refused:,} refused")
        terminalreporter.write_line(f"hostile input: {sum(tally.values()):,} cases")
