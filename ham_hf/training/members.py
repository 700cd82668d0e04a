"""Check what an ensemble is made of, without loading a model."""

from collections.abc import Sequence
from pathlib import Path

from ham_hf.inference.load import find_classifier
from ham_hf.inference.run_files import training_data_of
from ham_hf.system.errors import InputError

CROSS_VALIDATION_SPLIT = "split.csv"  # in the folder of a cross-validation


def is_cross_validation(folder: Path) -> bool:
    """Return whether a folder is that of a cross-validation, whose folds make an ensemble."""
    return (folder / CROSS_VALIDATION_SPLIT).is_file() and not (folder / "run.json").is_file()


def check_ensemble_members(members: Sequence[Path]) -> None:
    """Check the members of an ensemble: the folder of one cross-validation, or several run folders and recipes.

    Raises:
        InputError: there are too few, a folder is not that of a finished run, or two recipes have the same name.
    """
    if len(members) == 1 and is_cross_validation(members[0]):
        return
    if len(members) < 2:
        what = "recipe" if members and members[0].suffix == ".yaml" else "run"
        raise InputError(f"an ensemble requires at least two members, but there is 1 {what}")
    recipes = [member for member in members if member.suffix == ".yaml"]
    if len({recipe.stem for recipe in recipes}) < len(recipes):
        raise InputError("two recipes have the same name, which is that of their run folder: rename one")
    for run in (member for member in members if member not in recipes):
        find_classifier(str(run))
        if (training_data_of(str(run)) or {}).get("train_on_validation"):
            raise InputError(
                f"{run} is a final fit, trained on the validation images, which calibrate an ensemble: expected the "
                "run that chose its recipe"
            )
        if missing := [name for name in ("run.json", "predictions_validation.csv") if not (run / name).is_file()]:
            raise InputError(f"{run} has no {missing[0]}: expected the run folder of a finished `ham-hf train`")
