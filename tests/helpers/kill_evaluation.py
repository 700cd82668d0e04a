"""Kill `ham-hf evaluate` and `ham-hf report` repeatedly, at random moments, on the quick start's run.

    accelerate launch -m ham_hf.train recipes/quickstart.yaml
    python -m tests.helpers.kill_evaluation runs/quickstart --kills 30

Half of the kills each. After every kill an evaluation's folder must not be there, and every file of a report be the
old one or the new one; the same command must then end as it does without a kill. Exit code 1 if it does not.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.helpers.kill_training import finish, kill

HAM_HF = [sys.executable, "-m", "ham_hf"]
REPORT = ("README.md", "report.html", "report.json")
OLD = b"of a report before"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="ham_hf-kills-") as temporary:
        run = Path(temporary) / "run"
        shutil.copytree(args.run, run, ignore=shutil.ignore_patterns("checkpoint-*"))
        found = _kill_reports(run, args.kills // 2, rng)
        found |= _kill_evaluations(run, Path(temporary) / "evaluation", args.kills - args.kills // 2, rng)
    for what, count in sorted(found.items()):
        print(f"{what}: {count}")
    return 1 if any("WRONG" in what for what in found) else 0


def _kill_reports(run: Path, kills: int, rng: random.Random) -> Counter[str]:
    command = [*HAM_HF, "report", str(run)]
    seconds = finish(command)
    files = [run / name for name in REPORT] + sorted((run / "plots").glob("*.png"))
    new = {file: file.read_bytes() for file in files}
    found: Counter[str] = Counter()
    while found.total() < kills:
        for file in files:
            file.write_bytes(OLD)
        if kill(command, rng.uniform(0, seconds), rng) is None:
            continue
        now = {file: file.read_bytes() for file in files}
        whole = all(content in (OLD, new[file]) for file, content in now.items())
        kinds = {content == OLD for content in now.values()}
        state = "some files old, some new" if len(kinds) == 2 else "all old" if kinds == {True} else "all new"
        finish(command)
        same = all(file.read_bytes() == new[file] for file in files)
        found[f"report: {state}, then the new one" if whole and same else "report: WRONG"] += 1
    return found


def _kill_evaluations(run: Path, folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    command = [*HAM_HF, "evaluate", str(run), "--data_dir", "synthetic", "--output_dir", str(folder)]
    seconds = finish(command)
    expected = _contents(folder)
    found: Counter[str] = Counter()
    while found.total() < kills:
        shutil.rmtree(folder)
        killed = kill(command, rng.uniform(0, seconds), rng) is not None
        absent = not folder.exists()
        if absent:
            finish(command)
        if killed:
            right = _contents(folder) == expected
            state = "no folder" if absent else "the whole folder"
            found[f"evaluation: {state}, then the same predictions" if right else "evaluation: WRONG"] += 1
    return found


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file of an evaluation, with the contents of those without timestamps."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() if file.suffix == ".csv" else None for file in files}


if __name__ == "__main__":
    raise SystemExit(main())
