"""A training of a command that needs several: in a process of its own, and done once."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ham_hf.reporting.report import write_report
from ham_hf.system.child_process import run_child
from ham_hf.system.errors import InputError, MachineError, TrainingError, cannot_write
from ham_hf.system.files import replace_file
from ham_hf.system.serialization import read_json, read_text
from ham_hf.training.checkpointing import has_checkpoint

logger = logging.getLogger("ham_hf.training.subprocess_run")

CLAIM = "training.json"  # in the folder of a run that is not finished: what its checkpoints are trained with


def train_once(run: Path, recipe: Path | None, words: Sequence[str]) -> None:
    """Train with the command line `words` in a process of its own, unless that is done.

    Args:
        run: the run folder, which `words` name.
        recipe: the recipe's file, where `words` name one.

    Raises:
        InputError: what is in `run`, finished or not, was trained with another recipe or other words; or it cannot
            be written; or the training ended with an error.
        TrainingError: its settings do not work.
        MachineError: the machine was in the way of the training, or the process was killed.
    """
    asked = {"recipe": None if recipe is None else read_text(recipe), "argv": list(words)}
    finished = (run / "run.json").exists()
    if (finished or has_checkpoint(run)) and _trained_with(run, finished) != asked:
        raise InputError(
            f"{run} was trained with another recipe or other flags, or does not say with which: remove it, or choose "
            "another --output_dir"
        )
    if not finished:
        try:
            run.mkdir(parents=True, exist_ok=True)
            replace_file(run / CLAIM, json.dumps(asked, indent=2) + "\n")
        except OSError as error:
            raise cannot_write(run, error, "choose another --output_dir") from error
        if code := run_child("ham_hf.train", words):
            raise _ended_with(run, code)
    elif not (run / "report.json").exists():  # the training was killed between the two
        write_report(run)
    (run / CLAIM).unlink(missing_ok=True)  # run.json and recipe.yaml say the same
    logger.info("%s is trained", run)


def _trained_with(run: Path, finished: bool) -> dict | None:
    """The recipe and the words; None where it is not known."""
    if not finished:
        return read_json(run / CLAIM) if (run / CLAIM).exists() else None
    facts, recipe = read_json(run / "run.json"), run / "recipe.yaml"
    if not isinstance(facts, dict) or "argv" not in facts:
        raise InputError(f"{run / 'run.json'} has no argv: expected that of a finished `ham-hf train`")
    return {"recipe": read_text(recipe) if recipe.exists() else None, "argv": facts["argv"]}


def _ended_with(run: Path, code: int) -> InputError:
    """Return the error that stands for a training's exit code; the training itself has printed the reason."""
    if code == TrainingError.exit_code:
        return TrainingError(f"the settings of {run} do not work: see the error above")
    if code == InputError.exit_code:
        return InputError(f"the training of {run} ended with the error above: the same command tries it again")
    if code == 1:
        return InputError(
            f"the training of {run} ended with the traceback above, an error that ham-hf does not know: the same "
            "command tries it again"
        )
    return MachineError(f"the training of {run} ended with exit code {code}: the same command resumes it")
