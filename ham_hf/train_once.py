"""A training of a command that needs several: in a process of its own, and done once."""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ham_hf.checkpoints import has_checkpoint
from ham_hf.errors import InputError, cannot_write
from ham_hf.files import replace_file
from ham_hf.reading import read_json, read_text
from ham_hf.report import write_report

logger = logging.getLogger("ham_hf.train_once")

CLAIM = "training.json"  # in the folder of a run that is not finished: what its checkpoints are trained with


def train_once(run: Path, recipe: Path | None, words: Sequence[str]) -> int:
    """`ham-hf train` with `words` in a process of its own, unless that is done; returns its exit code.

    Args:
        run: the run folder, which `words` name.
        recipe: the recipe's file, where `words` name one.

    Raises:
        InputError: what is in `run`, finished or not, was trained with another recipe or other words; or it cannot
            be written.
    """
    asked = {"recipe": None if recipe is None else read_text(recipe), "argv": list(words)}
    finished = (run / "run.json").exists()
    if (finished or has_checkpoint(run)) and _trained_with(run, finished) != asked:
        raise InputError(
            f"{run} was trained with another recipe or other flags, or does not say with which: remove it, or choose "
            "another --output_dir"
        )
    if finished:
        if not (run / "report.json").exists():  # the training was killed between the two
            write_report(run)
        logger.info("%s is trained", run)
        return 0
    try:
        run.mkdir(parents=True, exist_ok=True)
        replace_file(run / CLAIM, json.dumps(asked, indent=2) + "\n")
    except OSError as error:
        raise cannot_write(run, error, "choose another --output_dir") from error
    code = subprocess.run([sys.executable, "-m", "ham_hf.train", *words]).returncode
    if code == 0:
        (run / CLAIM).unlink()  # run.json and recipe.yaml say the same
    return code


def _trained_with(run: Path, finished: bool) -> dict | None:
    """The recipe and the words; None where it is not known."""
    if not finished:
        return read_json(run / CLAIM) if (run / CLAIM).exists() else None
    facts, recipe = read_json(run / "run.json"), run / "recipe.yaml"
    if not isinstance(facts, dict) or "argv" not in facts:
        raise InputError(f"{run / 'run.json'} has no argv: expected that of a finished `ham-hf train`")
    return {"recipe": read_text(recipe) if recipe.exists() else None, "argv": facts["argv"]}
