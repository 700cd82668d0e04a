"""Train a run of a sweep, a cross-validation or an ensemble in a child process, once."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ham_hf.reporting.report import write_report
from ham_hf.system.child_process import run_child
from ham_hf.system.errors import InputError, MachineError, TrainingError, cannot_write
from ham_hf.system.files import replace_file
from ham_hf.system.serialization import read_json, read_text
from ham_hf.training.checkpointing import CLAIM, has_checkpoint

logger = logging.getLogger("ham_hf.training.child_run")


def train_in_child(run: Path, recipe: Path | None, words: Sequence[str]) -> None:
    """Train with the command line `words` in a child process, unless the run is finished.

    Args:
        run: the run folder, which `words` name.
        recipe: the recipe file, if `words` name one.

    Raises:
        InputError: the folder holds a run with another recipe or command line, or cannot be written, or the run
            failed.
        TrainingError: the settings do not work.
        MachineError: the machine interrupted the run, or the process was killed.
    """
    asked = {"recipe": None if recipe is None else read_text(recipe), "argv": list(words)}
    finished = (run / "run.json").exists()
    if (finished or has_checkpoint(run)) and _trained_with(run, finished) != asked:
        raise InputError(
            f"{run} was trained with another recipe or other flags, or does not record them: remove it, or choose "
            "another --output_dir"
        )
    if not finished:
        try:
            run.mkdir(parents=True, exist_ok=True)
            replace_file(run / CLAIM, json.dumps(asked, indent=2) + "\n")
        except OSError as error:
            raise cannot_write(run, error, "choose another --output_dir") from error
        if code := run_child("ham_hf.train", words):
            raise _error_of(run, code)
    elif not (run / "report.json").exists():  # the process was killed between the two
        write_report(run)
    (run / CLAIM).unlink(missing_ok=True)  # run.json and recipe.yaml say the same
    logger.info("%s is trained", run)


def _trained_with(run: Path, finished: bool) -> dict | None:
    """Return the recipe and the command line of a run; None if they are not known."""
    if not finished:
        return read_json(run / CLAIM) if (run / CLAIM).exists() else None
    facts, recipe = read_json(run / "run.json"), run / "recipe.yaml"
    if not isinstance(facts, dict) or "argv" not in facts:
        raise InputError(f"{run / 'run.json'} has no argv: expected the file of a finished `ham-hf train`")
    return {"recipe": read_text(recipe) if recipe.exists() else None, "argv": facts["argv"]}


def _error_of(run: Path, code: int) -> InputError:
    """Return the error for a child's exit code; the child itself has printed the reason."""
    if code == TrainingError.exit_code:
        return TrainingError(f"the settings of {run} do not work: see the error above")
    if code == InputError.exit_code:
        return InputError(f"{run} failed with the error above; run the same command again to retry")
    if code == 1:
        return InputError(
            f"{run} failed with the traceback above, an error that ham-hf does not know; run the same command again "
            "to retry"
        )
    return MachineError(f"{run} ended with exit code {code}; run the same command again to resume")
