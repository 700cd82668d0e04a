"""Print the results of a run on standard output."""

from pathlib import Path

from ham_hf.reporting.formats import headline_line


def print_results(report: dict, folder: Path) -> None:
    """Print the headline metrics of each split, and where the report is."""
    for name, result in report["results"].items():
        if result is not None:
            print(f"{name}: {headline_line(result)}")
    print(f"report: {folder / 'report.html'}")
