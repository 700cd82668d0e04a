"""Find the complete checkpoints of an interrupted run, and let one process at a time write a run folder."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ham_hf.system.errors import InputError, cannot_write
from ham_hf.system.files import file_digest, one_alone, replace_file

logger = logging.getLogger(__name__)

# The last file of a checkpoint, with the SHA-256 of all others. A checkpoint without it was not finished
CHECKSUMS = "checksums.json"
# In an unfinished run folder of a sweep, a cross-validation or an ensemble: its recipe and command line
CLAIM = "training.json"
LOCK = ".lock"
_STATE = "trainer_state.json"


def write_checksums(checkpoint: Path) -> None:
    """Write the checksums of a complete checkpoint."""
    replace_file(checkpoint / CHECKSUMS, json.dumps(_checksums(checkpoint), indent=2) + "\n")


def find_damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint; None if it is complete and unchanged."""
    try:
        written = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it was not finished ({CHECKSUMS} is missing)"
    except ValueError:
        written = None
    if not isinstance(written, dict) or _STATE not in written:
        return f"{CHECKSUMS} is damaged"
    there = _checksums(checkpoint)
    if missing := sorted(set(written) - set(there)):
        return f"{missing[0]} is missing"
    if changed := [name for name, sha256 in sorted(written.items()) if there[name] != sha256]:
        return f"{changed[0]} has changed since it was written"
    try:
        _best_of(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_STATE} is not as the Trainer writes it"
    return None


def _best_of(checkpoint: Path) -> str | None:
    """Return the name of the best checkpoint at the time when this one was written."""
    best = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
    return None if best is None else Path(best).name


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint in a run folder that a run can resume from; None if there is none.

    Damaged checkpoints are removed with a warning, because the run trains their steps again. So are those whose best
    checkpoint so far is damaged, because the run ends with the best one.
    """
    whole = {}
    for checkpoint in _checkpoints(folder):
        damage = find_damage(checkpoint)
        if damage is None:
            whole[checkpoint.name] = checkpoint
        else:
            logger.warning("removing %s: %s", checkpoint, damage)
            shutil.rmtree(checkpoint)
    for checkpoint in reversed(whole.values()):
        best = _best_of(checkpoint)
        if best is None or best in whole:
            return checkpoint
        logger.warning("removing %s: the best checkpoint so far, %s, is missing", checkpoint, best)
        shutil.rmtree(checkpoint)
    return None


def checkpoint_to_resume(folder: Path, resume: bool) -> Path | None:
    """Return the last complete checkpoint in a run folder; None without `resume`, or if there is no checkpoint.

    Raises:
        InputError: without `resume`, the folder already holds a run.
    """
    if not resume:
        if has_checkpoint(folder) or (folder / "run.json").exists():
            raise InputError(
                f"{folder} already holds a run: add --resume to continue it, or choose another --output_dir"
            )
        return None
    last = last_whole_checkpoint(folder)
    if last is None:
        if not (folder / CLAIM).exists():
            logger.info("no checkpoint in %s to resume from: starting from the beginning", folder)
        return None
    logger.info("resuming from %s", last)
    return last


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run folder holds a checkpoint, complete or not."""
    return bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in the order of their steps."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    steps = {path: path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def _checksums(checkpoint: Path) -> dict[str, str]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(checkpoint).as_posix(): file_digest(path) for path in files}


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a run folder against other processes; folders that are made for it and stay empty are removed again.

    Raises:
        InputError: the folder cannot be written.
        MachineError: another process has locked it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(one_alone(folder / LOCK, f"in {folder}"))
            except OSError as error:
                raise cannot_write(folder, error, "choose another --output_dir") from error
            yield
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
