"""The card that the README shows as an example is what its run's report makes.

It is from `ham-hf train recipes/quickstart.yaml`. After a change of the template:
python -m tests.reporting.test_example_card
"""

import json
import shutil
from pathlib import Path

import pytest

from ham_hf.hub.verify.consistency import CANNOT_TELL
from ham_hf.hub.verify.page_check import check_front_matter, check_page
from ham_hf.reporting.model_card import read_files, render_card

FOLDER = Path(__file__).parent / "example_card"
OLD_CARD = Path(__file__).parent / "card_of_0_1_0.txt"  # of the same run


def report() -> dict:
    return json.loads((FOLDER / "report.json").read_text(encoding="utf-8"))


def rendered() -> str:
    """The card without figures, which would be ten times as large."""
    return render_card(report(), (), read_files(FOLDER))


def test_the_example_card_is_what_its_report_makes():
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == rendered()
    assert check_page(FOLDER, report()) == [] and check_front_matter(FOLDER, report()) == []
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60_000


@pytest.fixture
def old(tmp_path) -> Path:
    """The folder of a card that ham_hf 0.1.0 wrote."""
    folder = shutil.copytree(FOLDER, tmp_path / "old")
    shutil.copyfile(OLD_CARD, folder / "README.md")
    return folder


def check_old(folder: Path) -> list[str]:
    findings = check_page(folder, report() | {"ham_hf": "0.1.0"})
    assert {finding.verdict for finding in findings} == {CANNOT_TELL}
    return [f"{finding.where}: {finding.words}" for finding in findings]


def test_the_figures_of_an_older_card_are_compared(old):
    [said] = check_old(old)
    assert "was written by ham_hf 0.1.0" in said and "its figures were compared, its sentences were not" in said


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text.replace("| balanced accuracy | .", "| balanced accuracy | .9"), "| balanced accuracy | .9"),
        (lambda text: text + "\nBetter than 157 dermatologists.\n", "Better than 157 dermatologists."),
        (lambda text: "\n".join(x for x in text.split("\n") if "| log loss" not in x), "is missing here: | log loss"),
    ],
)
def test_an_edited_figure_of_an_older_card_is_named(old, edit, said):
    card = old / "README.md"
    card.write_text(edit(card.read_text(encoding="utf-8")), encoding="utf-8")
    assert any(said in words for words in check_old(old))


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(rendered(), encoding="utf-8")
