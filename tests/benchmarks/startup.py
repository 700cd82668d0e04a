"""Time the start of each `ham-hf` command in its own process, against Python and its slow imports.

python -m tests.benchmarks.startup
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import Side, compare, header
from tests.helpers.fake_runs import make_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    header("torch", "transformers", "datasets")
    with tempfile.TemporaryDirectory() as folder:
        run, other = (str(make_run(Path(folder) / name, images=(200, 200))) for name in ("run", "other"))
        gone = str(Path(folder) / "gone.jpg")
        peers = {
            "python -c pass": python("-c", "pass"),
            "import torch": python("-c", "import torch"),
            "from transformers import Trainer": python("-c", "from transformers import Trainer"),
        }
        compare("ham-hf --help", python("-m", "ham_hf", "--help"), peers, rounds)
        for question, words, code in (
            ("predict, of a photograph that is not there", ["predict", run, gone], 2),
            ("evaluate, of a model that is not there", ["evaluate", gone, "--data_dir", run, "--output_dir", gone], 2),
            ("compare", ["compare", run, "--with", other], 0),
            ("report", ["report", run], 0),
            ("train --help", ["train", "--help"], 0),
        ):
            compare(f"ham-hf {question}", python("-m", "ham_hf", *words, code=code), {}, rounds)


def python(*words: str, code: int = 0) -> Side:
    def run() -> None:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        if done.returncode != code:
            raise RuntimeError(f"{words} gave {done.returncode}, expected {code}: {done.stderr}")

    return run


if __name__ == "__main__":
    main()
