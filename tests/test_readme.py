"""What the two READMEs name is there: files, sections, commands."""

import argparse
import re

import pytest

from ham_hf.cli.main import build_parser
from tests.cli.test_main import ROOT

PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md"]


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=["README.md", "recipes"])
def test_every_link_leads_to_a_file_and_a_section(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_file_in_the_table_of_rooms_is_there():
    table = PAGES[0].read_text(encoding="utf-8").partition("| room | holds |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        folder = ROOT
        for name in re.findall(r"`([\w/.]+)`", row.split("|")[1]):
            folder = (ROOT / name).parent if "/" in name else folder  # the others of a row are beside the first
            assert (ROOT / name if "/" in name else folder / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=["README.md", "recipes"])
def test_every_command_is_there(page):
    commands = set(re.findall(r"\bham-hf ([a-z][a-z-]+(?: [a-z]+)?)(?=[ `\n])", page.read_text(encoding="utf-8")))
    assert commands
    [of_ham_hf] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for words in map(str.split, commands):
        assert words[0] in of_ham_hf.choices, words
        own = [a for a in of_ham_hf.choices[words[0]]._actions if isinstance(a, argparse._SubParsersAction)]
        assert not own or words[1] in own[0].choices, words
