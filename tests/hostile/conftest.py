"""No test of hostile input may leave anything where it was not asked to, or run code that it was given."""

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


def pytest_terminal_summary(terminalreporter):
    kinds = sorted({kind for kind, _ in tally})
    if kinds:
        terminalreporter.write_line("")
        for kind in kinds:
            read, refused = tally[kind, "read"], tally[kind, "refused"]
            terminalreporter.write_line(f"{kind}: {read + refused:,} cases, {read:,} read, {refused:,} refused")
        terminalreporter.write_line(f"hostile input: {sum(tally.values()):,} cases")
