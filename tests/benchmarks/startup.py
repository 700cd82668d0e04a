"""How long until `ham-hf` says something? Each command in a process of its own, beside Python and its slow imports.

python -m tests.benchmarks.startup
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import Side, compare, header
from tests.test_report import make_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    header("torch", "transformers", "datasets")
    with tempfile.TemporaryDirectory() as folder:
        run = str(make_run(Path(folder) / "run", images=(200, 200)))
        gone = str(Path(folder) / "gone.jpg")
        commands = {
            "ham-hf --help": ["--help"],
            "ham-hf predict, of a photograph that is not there": ["predict", run, gone],
            "ham-hf evaluate, of a model that is not there": ["evaluate", gone, "--data_dir", folder]
            + ["--output_dir", gone],
            "ham-hf compare": ["compare", run, "--with", run],
            "ham-hf report": ["report", run],
            "ham-hf train --help": ["train", "--help"],
        }
        peers = {
            "python -c pass": python("-c", "pass"),
            "import torch": python("-c", "import torch"),
            "from transformers import Trainer": python("-c", "from transformers import Trainer"),
        }
        for words, command in commands.items():
            compare(words, python("-m", "ham_hf", *command), peers if command == ["--help"] else {}, rounds)


def python(*words: str) -> Side:
    def run() -> None:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        if done.returncode not in (0, 2):
            raise RuntimeError(f"{words}: {done.stderr}")

    return run


if __name__ == "__main__":
    main()
