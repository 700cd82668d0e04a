"""The pages for readers name only files, sections and commands that exist."""

import argparse
import re

import pytest

from ham_hf.cli.main import build_parser
from tests.cli.test_main import ROOT

PAGES = [
    ROOT / "README.md",
    *(ROOT / folder / "README.md" for folder in ("recipes", "tests")),
    ROOT / ".github/CONTRIBUTING.md",
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_section(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_named_in_code_exists(page):
    names = re.findall(r"`((?:ham_hf|recipes|tests)/[\w./]+)`", page.read_text(encoding="utf-8"))
    missing = [name for name in names if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 220


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_exists(page):
    commands = set(re.findall(r"\bham-hf ([a-z][a-z-]+(?: [a-z]+)?)(?=[ `\n])", page.read_text(encoding="utf-8")))
    assert commands
    for words in map(str.split, commands):
        choices = subcommands(build_parser())
        assert words[0] in choices, words
        own = subcommands(choices[words[0]])
        assert not own or words[1] in own, words


def test_the_table_of_commands_is_complete():
    table = PAGES[0].read_text(encoding="utf-8").partition("| command | purpose |")[2].partition("\n\n")[0]
    for name, parser in subcommands(build_parser()).items():
        for words in (
            [name, *(f"{name} {own}" for own in subcommands(parser))] if name != "export" else ["export onnx"]
        ):
            assert f"`ham-hf {words}" in table or f"`{words}`" in table, words


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0] if found else {}


def test_every_code_block_of_the_readme_names_real_recipes():
    for name in re.findall(r"\b(recipes/[\w/]+\.yaml)", PAGES[0].read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
