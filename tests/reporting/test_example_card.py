"""The card that the README shows as an example is what its run's report makes.

It is of `ham-hf train recipes/quickstart.yaml`. After a change of the template:
python -m tests.reporting.test_example_card
"""

import json
from pathlib import Path

from ham_hf.hub.verify.page_check import check_front_matter, check_page
from ham_hf.reporting.model_card import read_files, render_card

FOLDER = Path(__file__).parent / "example_card"


def rendered() -> str:
    """Without pictures, which would be ten times as large."""
    return render_card(json.loads((FOLDER / "report.json").read_text(encoding="utf-8")), (), read_files(FOLDER))


def test_the_example_card_is_what_its_report_makes():
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == rendered()
    report = json.loads((FOLDER / "report.json").read_text(encoding="utf-8"))
    assert check_page(FOLDER, report) == [] and check_front_matter(FOLDER, report) == []
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60_000


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(rendered(), encoding="utf-8")
