"""Cross-validate a recipe: every training and validation lesion is predicted by a model that never saw it.

ham-hf cross-validate recipes/x.yaml --folds 5 [--output_dir FOLDER] [--flag value …]

The training and validation lesions of the recipe's split are divided into folds, stratified by diagnosis; each fold is
predicted by a model trained on all others. Test lesions are not used. With --training_lesions_only, validation lesions
are not used either, and the pooled predictions can be the soft labels of a run: no model has seen a lesion that it
predicts, nor one that the run evaluates. If interrupted, run the same command again to resume.
"""

import io
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import concatenate_datasets
from sklearn.model_selection import StratifiedGroupKFold

from ham_hf.config.metric_names import HEADLINE
from ham_hf.config.recipe import Recipe, parse_recipe
from ham_hf.data.dataset import load_checked
from ham_hf.data.pixel_cache import build_cache
from ham_hf.data.same_lesion import group_lesions, read_same_lesion
from ham_hf.data.source import read_source
from ham_hf.data.split_names import SHIPPED_LIST
from ham_hf.data.splits import EVALUATION_SPLITS, UNUSED
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.evaluation.patients import Patients, read_patients, write_patients
from ham_hf.evaluation.predictions import Predictions, check_rows, read_predictions, write_predictions
from ham_hf.inference.run_files import is_trained_on_synthetic_images, training_data_of
from ham_hf.labels import DISCLAIMER
from ham_hf.reporting.formats import SYNTHETIC_WARNING, headline_line, number, table
from ham_hf.reporting.rendering import render_section
from ham_hf.reporting.report import split_results, strict
from ham_hf.system.errors import InputError
from ham_hf.system.files import replace_file
from ham_hf.training.checkpointing import only_writer
from ham_hf.training.child_run import train_in_child
from ham_hf.training.members import CROSS_VALIDATION_SPLIT

logger = logging.getLogger("ham_hf.training.cross_validation")


def cross_validate(
    words: Sequence[str], folds: int, output_dir: Path | None = None, *, training_lesions_only: bool = False
) -> None:
    """Cross-validate a recipe.

    Args:
        words: the recipe and its options, as on a command line.
        folds: number of folds.
        output_dir: the folder, by default that of the recipe and -cross-validation.
        training_lesions_only: divide only the lesions of the training split.

    Raises:
        InputError: the recipe or the data cannot be used, or the folder holds another cross-validation.
        TrainingError: the settings of the recipe do not work.
        MachineError: another process writes in the folder, or the machine interrupted a run.
    """
    recipe = parse_recipe(list(words))
    folder = output_dir or Path(f"{recipe.training.output_dir}-cross-validation")
    with only_writer(folder):
        assigned, outside = assign_folds(recipe, folds, training_lesions_only)
        _write_folds(folder, assigned, outside)
        for fold in range(1, folds + 1):
            logger.info("fold %d of %d", fold, folds)
            _train_fold(folder, recipe, words, assigned, fold)
        write_summary(folder, folds, training_lesions_only)


def assign_folds(
    recipe: Recipe, folds: int, training_lesions_only: bool = False
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return columns image_id and fold (1 to `folds`, 0 for none), and the split of evaluation images in no fold.

    Folds have whole lesions, also those of known duplicates, and are stratified by diagnosis; they depend only on the
    ids and the seed.

    Raises:
        InputError: the recipe or its split does not fit; or a diagnosis has fewer lesions than there are folds.
    """
    _check_recipe(recipe)
    splits, facts, checks = load_checked(recipe.data)
    parts = ("train",) if training_lesions_only else ("train", "validation")
    if not any(len(splits[part]) for part in parts):
        wanted = "training image" if training_lesions_only else "training or validation image"
        raise InputError(f"the split {facts['split']!r} has no {wanted}: choose another --split")
    if unknown := sum(facts["splits"][part]["unknown_lesions"] for part in parts):
        raise InputError(
            f"the lesions of {unknown:,} images are unknown, so a model could be evaluated on a lesion that it was "
            "trained on: add a column lesion_id to the table"
        )
    twins = sum(map(len, facts["same_lesion"]["images"].values()))
    if training_lesions_only and twins:
        raise InputError(
            f"the lesions of {twins:,} validation and test images are also in the training split, under other ids "
            f"(list {facts['same_lesion']['list']}), so the folds would be trained on them: add "
            "--drop_hidden_duplicates"
        )
    used = concatenate_datasets([splits[part] for part in parts])
    if recipe.data.pixel_cache and recipe.image.augment:
        build_cache(used, checks)  # one for all folds, which would otherwise each build their own
    rows = pd.DataFrame({name: used[name][:] for name in ("image_id", "lesion_id", "label")}).sort_values("image_id")
    rows["lesion_id"] = rows["lesion_id"].map(group_lesions(rows, read_same_lesion(recipe.data.same_lesion).pairs))
    fold_of = _divide(rows, folds, recipe.training.seed, splits["train"].features["label"].names)
    image_ids = read_source(recipe.data).table["image_id"]
    table = pd.DataFrame({"image_id": image_ids, "fold": [fold_of.get(image_id, 0) for image_id in image_ids]})
    outside = [part for part in EVALUATION_SPLITS if part not in parts]
    return table, {image_id: part for part in outside for image_id in splits[part]["image_id"][:]}


def _check_recipe(recipe: Recipe) -> None:
    for name, is_set in {
        "early_stopping_patience": recipe.training.early_stopping_patience is not None,
        "stop_on_collapse": recipe.training.stop_on_collapse,
        "lr_scheduler_type: reduce_lr_on_plateau": recipe.training.lr_scheduler_type == "reduce_lr_on_plateau",
        "lr_scheduler_type: greedy": recipe.training.lr_scheduler_type == "greedy",
    }.items():
        if is_set:
            raise InputError(f"{name} watches the validation images, which are the fold to be evaluated: remove it")
    if recipe.loss.soft_labels is not None:
        raise InputError("soft_labels come from models that have seen the fold to be evaluated: remove it")
    if recipe.training.final_fit is not None:
        raise InputError("final_fit trains on the validation images, which are the fold to be evaluated: remove it")


def _divide(rows: pd.DataFrame, folds: int, seed: int, names: Sequence[str]) -> dict[str, int]:
    """Return image_id → fold of `rows` (image_id, lesion_id, label); `names` are those of the labels."""
    lesions = Counter(rows.drop_duplicates("lesion_id")["label"])
    rarest = min(lesions, key=lesions.__getitem__)
    if lesions[rarest] < folds:
        raise InputError(
            f"--folds is {folds}, but {names[rarest]} has {lesions[rarest]} lesions: choose at most that many"
        )
    fold_of: dict[str, int] = {}
    divide = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(divide.split(rows, rows["label"], rows["lesion_id"]), start=1):
        fold_of |= dict.fromkeys(rows["image_id"].iloc[held_out], fold)
    return fold_of


def _write_folds(folder: Path, folds: pd.DataFrame, outside: Mapping[str, str]) -> None:
    path, text = folder / "folds.csv", folds.to_csv(index=False, lineterminator="\n")
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} has the folds of another recipe, seed or data: choose another --output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, text)
    # The split for all models together, as in `ham-hf ensemble`: they have seen every image that is in a fold
    of_all = [outside.get(image_id, seen) for image_id, seen in zip(folds["image_id"], _seen(folds), strict=True)]
    _write_split(folder / CROSS_VALIDATION_SPLIT, folds, pd.Series(of_all))


def _seen(folds: pd.DataFrame) -> pd.Series:
    return folds["fold"].map(lambda fold: "train" if fold else UNUSED)


def _write_split(path: Path, folds: pd.DataFrame, split: pd.Series) -> None:
    replace_file(path, folds[["image_id"]].assign(split=split).to_csv(index=False, lineterminator="\n"))


def _train_fold(folder: Path, recipe: Recipe, flags: Sequence[str], folds: pd.DataFrame, fold: int) -> None:
    """Train without fold `fold` in a child process, unless that is done."""
    csv = folder / f"split_{fold}.csv"
    _write_split(csv, folds, _seen(folds).mask(folds["fold"] == fold, "validation"))
    run = folder / f"fold_{fold}"
    # The last checkpoint, not calibrated: one chosen or calibrated on its fold would look better there than it is
    # With a list of duplicates, whose lesions are in one fold, the intervals count them as one lesion
    ours = [
        "--same_lesion",
        recipe.data.same_lesion or SHIPPED_LIST,
        "--split",
        str(csv),
        "--load_best_model_at_end",
        "false",
        "--calibration",
        "none",
    ]
    ours += ["--output_dir", str(run), "--resume"]
    train_in_child(run, recipe.path, [*flags, *ours])


def write_summary(folder: Path, folds: int, training_lesions_only: bool = False) -> dict:
    """Pool the predictions of the folds, write cross_validation.json and .md, and return the content of the former.

    The pooled predictions are predictions_validation.csv, or predictions_train.csv if no image is a validation image.
    """
    runs = [folder / f"fold_{fold}" for fold in range(1, folds + 1)]
    parts = _read_folds(runs)
    ids, lesions, labels, probabilities, names = zip(*parts, strict=True)
    pooled = Predictions(
        sum(ids, []), sum(lesions, []), np.concatenate(labels), np.concatenate(probabilities), names[0]
    )
    of_parts = [read_patients(run / "patients_validation.csv", of) for run, of in zip(runs, ids, strict=True)]
    patients = Patients(*(sum(column, []) for column in zip(*of_parts, strict=True)))
    part = "train" if training_lesions_only else "validation"
    write_predictions(folder / f"predictions_{part}.csv", pooled)
    write_patients(folder / f"patients_{part}.csv", pooled.image_ids, patients)
    summary = strict(
        {
            "synthetic": is_trained_on_synthetic_images(str(runs[0])),
            "training_lesions_only": training_lesions_only,
            "folds": [compute_scores(part.probabilities, part.labels, part.names) for part in parts],
            "pooled": split_results(pooled, patients),
            "disclaimer": DISCLAIMER,
        }
    )
    replace_file(folder / "cross_validation.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    replace_file(folder / "cross_validation.md", render_summary(summary, pooled.names))
    logger.info("all folds together: %s", headline_line(summary["pooled"]))
    logger.info("report: %s", folder / "cross_validation.md")
    return summary


def _read_folds(runs: Sequence[Path]) -> list[Predictions]:
    """Return the predictions of the folds.

    Raises:
        InputError: they do not belong to the runs, or the runs had different images.
    """
    parts, images = [], set()
    for run in runs:
        path = run / "predictions_validation.csv"
        parts.append(read_predictions(path))
        data = training_data_of(str(run))
        assert data is not None  # the run is finished
        check_rows(parts[-1], data, "validation", path)
        images.add(data["images_sha256"])
        if len(images) > 1:
            raise InputError(
                f"{run} was trained on other images than {runs[0]}: the data has changed since. Remove the folders of "
                "the folds with the old images, and run the same command again"
            )
    return parts


def render_summary(summary: dict, names: Sequence[str]) -> str:
    """Return the content of cross_validation.json as a Markdown page."""
    folds, pooled = summary["folds"], summary["pooled"]
    numbered = [f"fold {fold}" for fold in range(1, len(folds) + 1)]
    header = ["", "all folds together", "mean of the folds", "standard deviation", *numbered]
    rows = []
    for name, words in HEADLINE.items():
        if name not in pooled["metrics"]:
            continue
        values = [fold[name] for fold in folds]
        defined = None not in values
        entry = pooled["metrics"][name]
        mean, deviation = (np.mean(values), np.std(values, ddof=1)) if defined else (None, None)
        rows.append([words, number(entry["value"], entry["interval"]), *map(number, (mean, deviation, *values))])
    constant = pooled["always_nv"]
    text = io.StringIO()
    only_training = summary["training_lesions_only"]
    of = " of the training lesions" if only_training else ""
    print(f"# Cross-validation{of}, {len(folds)} folds\n\n*{summary['disclaimer']}*\n", file=text)
    if summary["synthetic"]:
        print(f"{SYNTHETIC_WARNING}\n", file=text)
    print("\n".join(table(header, rows)), file=text)
    if constant is not None:
        print(
            f"\nA model that always predicts nv: accuracy {number(constant['accuracy'])}, balanced accuracy "
            f"{number(constant['balanced_accuracy'])}.",
            file=text,
        )
    print(
        f"\n{pooled['images']:,} images of {pooled['lesions']:,} lesions, each predicted by the model that was not "
        "trained on its fold: the last checkpoint, not calibrated, so that nothing was chosen on the reported images. "
        "In brackets: 95 % intervals of a bootstrap over lesions.\n",
        file=text,
    )
    if only_training:
        print(
            "All of them are training images of the split: its validation and test images were used neither for "
            "training nor for evaluation.\n",
            file=text,
        )
    print(render_section("by_diagnosis", pooled, names, "all folds together"), file=text)
    return text.getvalue()
