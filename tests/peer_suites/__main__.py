"""Run transformers' own common tests on our models and processors, before a release.

    python -m tests.peer_suites                   # all; about four minutes on two cores
    python -m tests.peer_suites -k Ensemble       # further words go to pytest

Needs the package index and pytest 9. It downloads the source distribution of the installed transformers, which holds
the tests, and the package `parameterized`, which they import, into a folder outside this repository
(HAM_HF_PEER_SUITES, by default in the machine's temporary folder), and prints how many tests passed, were skipped and
failed, with each reason.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import transformers

NAME = f"transformers-{transformers.__version__}"
SUITES = "transformers_suites"  # the name here for the folder `tests` of the source distribution
COMMON = ("configuration", "modeling", "processing", "image_processing")
# Stubs of what the common tests import and the source distribution omits
ABSENT = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": (
        "config_common_kwargs = {\n"
        '    "return_dict": False, "output_hidden_states": True, "output_attentions": True, "dtype": "float16",\n'
        '    "chunk_size_feed_forward": 5, "architectures": ["A"], "problem_type": "regression",\n'
        '    "id2label": {0: "label"}, "label2id": {"label": 0},\n'
        "}\n"
    ),
    "../fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}
HERE = Path(__file__).parent


def main() -> int:
    folder = Path(os.environ.get("HAM_HF_PEER_SUITES", Path(tempfile.gettempdir()) / "ham_hf-peer-suites"))
    install(folder / NAME)
    sys.path.insert(0, str(folder / NAME))
    outcomes = Outcomes()
    files = [str(HERE / name) for name in ("models.py", "processors.py")]  # not collected by default
    options = ["-o", "addopts=", "-q", "--tb=short", "--no-header", "--no-summary", "-p", "no:warnings"]
    code = pytest.main([*options, *files, *sys.argv[1:]], plugins=[outcomes])
    outcomes.print_table()
    return int(code)


def install(folder: Path) -> None:
    """Download the common tests into `folder`, unless they are there."""
    suites = folder / SUITES
    if (suites / "__init__.py").is_file():  # written last
        return
    suites.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", folder, "parameterized"], check=True)
    subprocess.run(
        [*pip, "download", "--no-deps", "--no-binary", ":all:", "--dest", folder, NAME.replace("-", "==")], check=True
    )
    with tarfile.open(folder / f"{NAME}.tar.gz") as archive:
        for name in COMMON:
            file = f"test_{name}_common.py"
            (suites / file).write_bytes(archive.extractfile(f"{NAME}/tests/{file}").read())
    for name, text in reversed(ABSENT.items()):
        (suites / name).parent.mkdir(parents=True, exist_ok=True)
        (suites / name).write_text(text)


class Outcomes:
    """Collect the outcome of each test by its class."""

    def __init__(self):
        self.counts: dict[str, Counter] = defaultdict(Counter)
        self.reasons: dict[str, dict[str, list[str]]] = {"failed": defaultdict(list), "skipped": defaultdict(list)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if isinstance(report, pytest.SubtestReport) or report.when != "call" and report.passed:  # setup and teardown
            return
        _, suite, test = report.nodeid.split("::")
        if report.when != "call" and report.failed:
            test = f"{test} ({report.when})"
        self.counts[suite][report.outcome] += 1
        if report.skipped:
            self.reasons["skipped"][report.longrepr[2].removeprefix("Skipped: ")].append(f"{suite}.{test}")
        if report.failed:
            self.reasons["failed"][report.longrepr.reprcrash.message.splitlines()[0]].append(f"{suite}.{test}")

    def print_table(self) -> None:
        print(f"\n{NAME}'s common tests\n\n| model or processor | passed | skipped | failed |\n|---|---|---|---|")
        total = Counter()
        for suite, counts in self.counts.items():
            total += counts
            print(f"| {suite} | {counts['passed']} | {counts['skipped']} | {counts['failed']} |")
        print(f"| all | {total['passed']} | {total['skipped']} | {total['failed']} |")
        for outcome, reasons in self.reasons.items():
            print(f"\n{outcome.capitalize()}, by reason:\n")
            for reason, tests in sorted(reasons.items(), key=lambda item: -len(item[1])):
                shown = ", ".join(sorted({test.partition(".")[2] for test in tests})[:4])
                print(f"- {len(tests)} x {reason[:200]} ({shown})")


if __name__ == "__main__":
    raise SystemExit(main())
