"""Train for seconds, evaluating and saving within an epoch, and write a run with a correct card."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.evaluation.training_record import TrainingRecord, images_of, write_record
from ham_hf.reporting.report import write_report
from ham_hf.system.environment import weights_sha256
from tests.helpers.fake_runs import change_facts, make_run
from tests.helpers.tiny_checkpoints import make_run_folder

ROOT = Path(__file__).parent.parent.parent


def train_in_two_processes(flags: list[str]) -> None:
    """Train with these options in two gloo processes on the CPU."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "ham_hf.train", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def flags_of(values: Mapping[str, object]) -> list[str]:
    """Return the words of a command line that sets these options."""
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def tiny_flags(checkpoint: Path, data: Path, output: Path, **changes) -> list[str]:
    """Return the options of a run of 22 steps, the hardest to resume, of `checkpoint` on the images in `data`."""
    values = {
        "data_dir": data,
        "split": "grouped",
        "model_name_or_path": checkpoint,
        "normalization": "imagenet",
        "image_size": 32,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 7,
        "save_strategy": "steps",
        "save_steps": 7,
        "bf16": False,
        "output_dir": output,
    }
    return flags_of(values | changes)


def make_true_run(folder: Path, data: Path, same_lesion: str | None = None) -> Path:
    """Write a run with a correct card: a tiny model's own predictions, and the rest of a run's record.

    Of the images in `data`, split by lesion with the seed 3 and a list of duplicates.
    """
    folder = make_run_folder(folder)
    evaluation = folder.with_name("evaluation")
    words = ["--data_dir", str(data), "--split", "grouped", "--split_seed", "3", "--output_dir", str(evaluation)]
    words += [] if same_lesion is None else ["--same_lesion", same_lesion]
    assert main(["evaluate", str(folder), *words]) == 0
    for path in [evaluation / "run.json", *evaluation.glob("*_*.csv")]:
        shutil.copy(path, folder)
    other = make_run(folder.with_name("other"), images=(20, 0))
    shutil.copy(other / "trainer_state.json", folder)
    training = json.loads((other / "run.json").read_text())["training"]
    images = json.loads((folder / "run.json").read_text())["data"]["splits"]["train"]["images"]
    change_facts(
        folder,
        training=training | {"images": images, "best_value": None, "best_step": None},
        model__weights_sha256=weights_sha256(folder),
    )
    (folder / "arguments.json").write_text(json.dumps({"data_dir": str(data), "split": "grouped"}, indent=2) + "\n")
    splits, _, checks = load_checked(
        DataArguments(data_dir=str(data), split="grouped", split_seed=3, same_lesion=same_lesion)
    )
    images = [image for role in ("train", "validation") for image in images_of(splits[role], checks, role)]
    write_record(folder, TrainingRecord(images, complete=True))
    write_report(folder)
    return folder
