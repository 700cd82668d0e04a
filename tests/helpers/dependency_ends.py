"""Run the tests with the oldest, or the newest, versions of the dependencies that pyproject.toml allows.

    pip install uv
    python -m tests.helpers.dependency_ends oldest
    python -m tests.helpers.dependency_ends newest tests/test_train.py

Each in a virtual environment of its own, of some 6 GB, which is removed again; further words go to pytest. Here and
not in the gate, for it downloads everything anew.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", choices=RESOLUTION)
    args, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix=f"ham_hf-{args.end}-") as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        subprocess.run(["uv", "venv", "--python", sys.executable, python.parent.parent], check=True)
        install = ["uv", "pip", "install", "--python", python, "--resolution", RESOLUTION[args.end]]
        subprocess.run([*install, "-e", f"{ROOT}[offline,dev]"], check=True)
        # Without this environment's own variables, such as PYTHONPATH, no other ham_hf can be imported
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run([python, "-m", "pytest", *words], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
