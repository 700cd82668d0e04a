"""An interrupted run resumes from a complete checkpoint and ends the same. More: tests/README.md."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ham_hf.reporting.report import write_report
from ham_hf.system.command import run_command
from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training.checkpointing import CHECKSUMS, find_damage, last_whole_checkpoint, only_writer
from tests.helpers.tiny_runs import tiny_flags

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FAILS_ON_THE_SECOND_PROCESS = """
import os, sys
from ham_hf import train
from ham_hf.training import build
class Failing(build.EpochLine):
    def on_step_end(self, args, state, control, **kwargs):
        if os.environ["RANK"] == "1" and state.global_step == 3:
            raise MemoryError("of the second process alone")
build.EpochLine = Failing
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def flags(tiny, synthetic_dir):
    return partial(tiny_flags, tiny, synthetic_dir, save_total_limit=5)


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    main(flags(folder))
    return folder


@pytest.fixture
def broken(unbroken, tmp_path):
    """A run folder as a kill at the last moment leaves it, moved elsewhere: every checkpoint, and no run.json."""
    folder = shutil.copytree(unbroken, tmp_path / "broken")
    (folder / "run.json").unlink()
    return folder


def seal_again(file: Path, text: str) -> None:
    from ham_hf.training.checkpointing import write_checksums

    file.write_text(text)
    write_checksums(file.parent)


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def same_end(folder: Path, unbroken: Path) -> bool:
    return all(
        (folder / name).read_bytes() == (unbroken / name).read_bytes()
        for name in ("model.safetensors", "predictions_validation.csv", "predictions_test.csv")
    )


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


# Damaged checkpoints


def test_every_checkpoint_has_checksums(unbroken):
    assert checkpoints(unbroken) == [7, 14, 21, 22]
    for checkpoint in unbroken.glob("checkpoint-*"):
        assert find_damage(checkpoint) is None
        sealed = json.loads((checkpoint / CHECKSUMS).read_text())
        assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= sealed.keys()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: flip_a_bit(folder / "optimizer.pt"), "optimizer.pt has changed since it was written"),
        (
            lambda folder: os.truncate(folder / "model.safetensors", 100),
            "model.safetensors has changed since it was written",
        ),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda folder: (folder / CHECKSUMS).unlink(), "it was not finished (checksums.json is missing)"),
        (lambda folder: os.truncate(folder / CHECKSUMS, 10), f"{CHECKSUMS} is damaged"),
        (lambda folder: (folder / CHECKSUMS).write_text("[]"), f"{CHECKSUMS} is damaged"),
        (lambda folder: (folder / CHECKSUMS).write_text("{}"), f"{CHECKSUMS} is damaged"),
        (
            lambda folder: seal_again(folder / "trainer_state.json", "[]"),
            "trainer_state.json is not as the Trainer writes it",
        ),
    ],
)
def test_a_damaged_checkpoint_is_removed_and_the_previous_one_used(spoil, words, broken, caplog):
    spoil(broken / "checkpoint-22")
    with caplog.at_level("WARNING"):
        assert last_whole_checkpoint(broken) == broken / "checkpoint-21"
    assert f"removing {broken / 'checkpoint-22'}: {words}" in caplog.text
    assert checkpoints(broken) == [7, 14, 21]


def test_a_checkpoint_whose_best_one_is_damaged_is_not_used(broken):
    state = json.loads((broken / "checkpoint-22" / "trainer_state.json").read_text())
    best = broken / Path(state["best_model_checkpoint"]).name
    flip_a_bit(best / "model.safetensors")
    last = last_whole_checkpoint(broken)
    assert last is None or int(last.name.split("-")[1]) < int(best.name.split("-")[1])


def test_a_run_resumed_from_before_the_damage_ends_the_same(broken, unbroken, flags):
    flip_a_bit(broken / "checkpoint-22" / "model.safetensors")
    shutil.rmtree(broken / "checkpoint-21")
    main([*flags(broken), "--resume"])
    assert same_end(broken, unbroken)


def test_a_run_that_was_moved_ends_with_its_best_checkpoint_too(broken, flags):
    first, *_, last = checkpoints(broken)
    state = broken / f"checkpoint-{last}" / "trainer_state.json"
    values = json.loads(state.read_text())
    values |= {"best_global_step": first, "best_model_checkpoint": f"where/it/was/checkpoint-{first}"}
    seal_again(state, json.dumps(values))
    main([*flags(broken), "--resume"])
    ended, best = (load_file(folder / "model.safetensors") for folder in (broken, broken / f"checkpoint-{first}"))
    assert all(torch.equal(ended[name], best[name]) for name in best)
    assert json.loads((broken / "run.json").read_text())["training"]["best_step"] == first


def test_a_finished_run_that_cannot_be_continued_stays_unchanged(unbroken, flags, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    with disk_of(folder, free=200_000), pytest.raises(InputError, match="could not be written"):
        main([*flags(folder, num_train_epochs=3), "--resume"])
    assert (folder / "run.json").exists() and same_end(folder, unbroken)


# Several writers


def test_a_second_process_is_refused_while_a_first_one_writes(flags, unbroken, tmp_path):
    with only_writer(tmp_path / "run"), pytest.raises(InputError, match="another process is writing in .*run: wait"):
        main(flags(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert not (unbroken / ".lock").exists()


# A full disk


@contextlib.contextmanager
def disk_of(folder: Path, free: int):
    """`folder` on a disk of its own, a small tmpfs with this many bytes free."""
    kept = folder.with_name(f"{folder.name}-kept")
    folder.rename(kept) if folder.exists() else kept.mkdir()
    folder.mkdir()
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in kept.rglob("*") if path.is_file())
    size = f"size={used + free}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield
        shutil.rmtree(kept)
        shutil.copytree(folder, kept)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
        kept.rename(folder)


def test_a_full_disk_leaves_the_previous_checkpoint_and_the_run_resumes_from_it(flags, unbroken, tmp_path):
    folder = tmp_path / "run"
    one = sum(path.stat().st_size for path in (unbroken / "checkpoint-7").iterdir())
    with disk_of(folder, free=int(1.7 * one)):
        with pytest.raises(InputError, match=r"checkpoint-14 could not be written .* free some space, then --resume"):
            main(flags(folder))
        assert last_whole_checkpoint(folder).name == "checkpoint-7" and checkpoints(folder) == [7]
    main([*flags(folder), "--resume"])
    assert same_end(folder, unbroken)


def test_a_full_disk_at_the_end_of_a_training_is_reported_in_a_sentence(broken, flags, unbroken, capsys):
    with disk_of(broken, free=10_000):
        assert run_command(main, [*flags(broken), "--resume"]) == 3
        assert "No space left on device: free some space, then run the same command again" in capsys.readouterr().err
        assert not (broken / "run.json").exists()
    main([*flags(broken), "--resume"])
    assert same_end(broken, unbroken)


def test_a_full_disk_leaves_the_previous_report(unbroken, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    report = [run / name for name in ("README.md", "report.html", "report.json", "plots/loss.png")]
    for file in report:
        file.write_bytes(b"the report before")
    files = sorted(run.rglob("*"))
    with disk_of(run, free=200_000):
        with pytest.raises(InputError, match="No space left on device.*free some space"):
            write_report(run)
        assert sorted(run.rglob("*")) == files
    assert all(file.read_bytes() == b"the report before" for file in report)


# Several processes


def test_a_killed_process_ends_the_others_and_the_run_resumes(flags, unbroken, tmp_path):
    words = [*TWO_PROCESSES, "-m", "ham_hf.train", *flags(tmp_path / "two", per_device_train_batch_size=4)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "two" / "checkpoint-7" / CHECKSUMS).exists():
        assert launcher.poll() is None
        time.sleep(0.05)
    ranks = psutil.Process(launcher.pid).children()
    os.kill(ranks[1].pid, signal.SIGKILL)
    killed = time.monotonic()
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and time.monotonic() - killed < 60
    assert "SIGKILL" in err and not any(rank.is_running() for rank in ranks)
    assert not (tmp_path / "two" / "run.json").exists()
    subprocess.run([*words, "--resume"], cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True)
    assert (tmp_path / "two" / "run.json").exists()


def test_an_error_on_one_process_ends_all(flags, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILS_ON_THE_SECOND_PROCESS)
    words = [*TWO_PROCESSES, str(script), *flags(tmp_path / "two", per_device_train_batch_size=4)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "of the second process alone" in done.stderr
