"""The checkpoints of a run that was broken off: which of them are whole, and that one process writes at a time."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ham_hf.system.errors import cannot_write
from ham_hf.system.files import file_digest, one_alone, replace_file

logger = logging.getLogger(__name__)

# The last file of a checkpoint: the SHA-256 of all others. One without it was not finished
CHECKSUMS = "checksums.json"
LOCK = ".lock"
_STATE = "trainer_state.json"


def write_checksums(checkpoint: Path) -> None:
    """Seal a checkpoint that is written."""
    replace_file(checkpoint / CHECKSUMS, json.dumps(_checksums(checkpoint), indent=2) + "\n")


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is as it was written."""
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
        return f"{changed[0]} is not as it was written"
    try:
        _best_of(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_STATE} is not as the Trainer writes it"
    return None


def _best_of(checkpoint: Path) -> str | None:
    """The name of the best checkpoint when this one was written."""
    best = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
    return None if best is None else Path(best).name


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint in a run folder that a training can go on from; None where there is none.

    Damaged ones are named and removed: the training comes to their steps again. One whose best checkpoint so far is
    damaged is of no use either, for the training ends with the best one.
    """
    whole = {}
    for checkpoint in _checkpoints(folder):
        damage = find_damage(checkpoint)
        if damage is None:
            whole[checkpoint.name] = checkpoint
        else:
            logger.warning("%s: %s; it is removed", checkpoint, damage)
            shutil.rmtree(checkpoint)
    for checkpoint in reversed(whole.values()):
        best = _best_of(checkpoint)
        if best is None or best in whole:
            return checkpoint
        logger.warning("%s: the best checkpoint so far, %s, is gone; it is removed", checkpoint, best)
        shutil.rmtree(checkpoint)
    return None


def has_checkpoint(folder: Path) -> bool:
    return bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> list[Path]:
    """In the order of their steps."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    steps = {path: path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def _checksums(checkpoint: Path) -> dict[str, str]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(checkpoint).as_posix(): file_digest(path) for path in files}


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a run folder against other processes; one that is made for it and stays empty is removed again.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    made = not folder.exists()
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(one_alone(folder / LOCK, f"in {folder}"))
            except OSError as error:
                raise cannot_write(folder, error, "choose another --output_dir") from error
            yield
    finally:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
