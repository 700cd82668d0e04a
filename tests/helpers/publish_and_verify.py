"""Train → push → load without ham_hf → verify, for an image model and for MMBT, through a loopback Hub; then the data.

    python -m tests.helpers.publish_and_verify path/to/HAM10000

Prints the commands and what they print, and what verify says of falsified copies. The loading is in a new virtual
environment with --fresh_environment (minutes: it installs torch, transformers, timm and Pillow there), else in a new
process that cannot import ham_hf.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.helpers.hub_server import HubServer

DATASET = "ada/ham10000"
ROOT = Path(__file__).parents[2]
RUNS = {"image": "recipes/offline/efficientnet_lite0.yaml", "patient": "recipes/offline/mmbt_fields.yaml"}
SMALL = "--image_size 96 --train_size 96 --eval_resize 110 --max_train_samples 1024 --num_train_epochs 2"
SMALL += " --test_time_augmentation none --disable_tqdm true"  # as the pipeline does
LOAD = """
import json, sys
sys.modules["ham_hf"] = None
from transformers import pipeline
repo, photo = sys.argv[1:]
classify = pipeline("image-classification", model=repo, trust_remote_code="patient" in repo, device="cpu")
asked = {"image": photo, "age": 45, "sex": "female", "localization": "back"} if "patient" in repo else photo
print(json.dumps({result["label"]: result["score"] for result in classify(asked, top_k=7)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--fresh_environment", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, HubServer() as hub:
        folder = Path(temporary)
        environment = os.environ | hub.environment(folder / "home") | {"PYTHONPATH": str(ROOT)}
        python = fresh_python(folder / "venv") if args.fresh_environment else sys.executable
        photo = next(path for path in sorted(args.data_dir.rglob("*.jpg")))
        push = f"{sys.executable} -m ham_hf data push {args.data_dir} {DATASET} --allow_missing_images"
        call(push, environment, expected=2)  # nothing is uploaded without --accept_license
        call(f"{push} --accept_license --private", environment)
        for kind, recipe in RUNS.items():
            publish_and_verify(kind, recipe, args.data_dir, photo, folder, environment, python)
        falsify(folder / "image", args.data_dir, environment)


def publish_and_verify(
    kind: str, recipe: str, data_dir: Path, photo: Path, folder: Path, environment: dict[str, str], python: str
) -> None:
    run, repo = folder / kind, f"ada/{kind}"
    data = f"--data_dir {data_dir} --allow_missing_images"
    call(f"{sys.executable} -m ham_hf train {recipe} {data} {SMALL} --output_dir {run}", environment)
    call(f"{sys.executable} push_to_hub.py {run} {repo} --eval_results", environment)
    call(
        f"{sys.executable} push_to_hub.py {run} {repo} --eval_results", environment
    )  # a second push without changes: no commit
    without_us = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    loaded = json.loads(call([python, "-c", LOAD, repo, str(photo)], without_us).splitlines()[-1])
    patient = " --age 45 --sex female --site back" if kind == "patient" else ""
    call(f"{sys.executable} -m ham_hf predict {repo} {photo} --csv {folder / 'out.csv'}{patient}", environment)
    header, row = (line.split(",") for line in (folder / "out.csv").read_text().splitlines())
    ours = dict(zip(header[2:], map(float, row[2:]), strict=True))
    difference = max(abs(loaded[label] - ours[label]) for label in ours)
    print(f"largest difference between the two probabilities: {difference:.2g}\n", flush=True)
    assert difference <= 1e-5
    call(f"{sys.executable} -m ham_hf verify {repo} {data}", environment)
    call(f"{sys.executable} -m ham_hf verify {repo} --data_dir {DATASET}", environment)


def falsify(run: Path, data_dir: Path, environment: dict[str, str]) -> None:
    """Check what verify says about a card with an edited claim or table, and about other weights."""
    verify = f"{sys.executable} -m ham_hf verify {{}} --data_dir {data_dir} --allow_missing_images"
    for name, falsified in (("claim", edit_claim), ("table", edit_table), ("weights", edit_weights)):
        copy = Path(
            shutil.copytree(run, run.with_name(f"false_{name}"), ignore=shutil.ignore_patterns("checkpoint-*"))
        )
        falsified(copy)
        call(verify.format(copy), environment, expected=1)


def edit_claim(run: Path) -> None:
    text = (run / "README.md").read_text()
    true = re.search(r"type: balanced_accuracy\n *value: (\S+)", text)
    (run / "README.md").write_text(text[: true.start(1)] + "0.912" + text[true.end(1) :])


def edit_table(run: Path) -> None:
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(re.sub(r"\| balanced accuracy \| \S+", "| balanced accuracy | .912", text, count=1))


def edit_weights(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    name = next(name for name in weights if name.endswith("classifier.weight"))
    save_file(weights | {name: weights[name].flip(0).contiguous()}, run / "model.safetensors", {"format": "pt"})


def fresh_python(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    packages = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "transformers", "timm", "pillow")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def call(command: str | list[str], environment: dict[str, str], expected: int = 0) -> str:
    words = shlex.split(command) if isinstance(command, str) else command
    print("$ " + (command if isinstance(command, str) else f"{words[0]} -c … {' '.join(words[3:])}"), flush=True)
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = done.stdout + "".join(
        line for line in done.stderr.splitlines(True) if line.startswith(("epoch", "validation", "error"))
    )
    print(said, flush=True)
    assert done.returncode == expected, done.stderr[-2000:]
    return done.stdout


if __name__ == "__main__":
    main()
