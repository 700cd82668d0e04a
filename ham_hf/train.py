"""Train a model as a recipe says, and write its run folder.

accelerate launch -m ham_hf.train recipes/quickstart.yaml
ham-hf train recipes/quickstart.yaml --num_train_epochs 1
"""

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from tqdm.contrib.logging import logging_redirect_tqdm

from ham_hf.config.recipe import Recipe, RunArguments, parse_recipe
from ham_hf.evaluation import calibration, thresholds
from ham_hf.evaluation.contamination import check_start
from ham_hf.evaluation.model_facts import model_facts
from ham_hf.evaluation.predict_splits import predict_splits
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_record import join_records, write_record
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.load import load_classifier
from ham_hf.models.build import count_parameters
from ham_hf.models.multimodal import copy_pipeline
from ham_hf.reporting.report import print_results, strict, write_report
from ham_hf.system.environment import weights_sha256
from ham_hf.system.files import apply_umask, replace_file
from ham_hf.training.build import (
    build_trainer,
    check_validation,
    class_counts,
    find_revisions,
    set_up_process,
    settings_at_fault,
)
from ham_hf.training.checkpointing import checkpoint_to_resume, only_writer
from ham_hf.training.datasets import read_data
from ham_hf.training.final_fit import Choice, StopAfter, check_images, read_choice
from ham_hf.training.resume import resume_settings, settings_of
from ham_hf.training.run_facts import precision_of, run_facts, training_record

logger = logging.getLogger("ham_hf.train")


def main(argv: list[str] | None = None) -> None:
    """Train what `[RECIPE.yaml] [--flag value …]` describes and write its run folder.

    Raises:
        InputError: the recipe, the data or the checkpoint cannot be used; nothing was trained.
        TrainingError: the settings do not work, or the training diverged.
        MachineError: the machine interrupted the run; --resume continues it.
    """
    recipe = parse_recipe(argv)
    set_up_process(recipe.training)
    with logging_redirect_tqdm(), _locked(recipe.training):
        train(recipe)


def _locked(args: RunArguments) -> AbstractContextManager:
    assert args.output_dir is not None  # `parse_recipe` has a default
    return only_writer(Path(args.output_dir)) if args.process_index == 0 else nullcontext()


def train(recipe: Recipe) -> None:
    """Run a recipe from its data to its report, which everything later reads from the run folder."""
    args = recipe.training
    assert args.output_dir is not None and recipe.model.model_name_or_path is not None  # by `parse_recipe`
    folder = Path(args.output_dir)
    # Fail fast: check the folder, the checkpoint's name and the data before loading the weights
    with args.main_process_first(local=False, desc="checking checkpoints"):
        checkpoint = checkpoint_to_resume(folder, args.resume)
    choice = None if args.final_fit is None else read_choice(recipe)
    revisions = find_revisions(recipe.model)
    data = read_data(recipe)
    settings = resume_settings(checkpoint, settings_of(recipe, data))
    seen_before = check_start(recipe.model.model_name_or_path, revisions.image, *data[:3])
    if choice is None:
        check_validation(recipe, data.splits)
    else:
        check_images(choice, data.facts)

    trainer = build_trainer(recipe, data, revisions)
    trainer.add_callback(settings)
    if choice is not None:
        trainer.add_callback(StopAfter(choice.facts["epochs"]))
    parameters = count_parameters(trainer.model)  # now: FSDP and DeepSpeed divide them among processes
    logger.info("computing in %s%s", precision_of(trainer), ", channels_last" if trainer.channels_last else "")
    if trainer.is_world_process_zero():  # before the first checkpoint, which needs it too
        write_record(folder, join_records([seen_before, training_record(recipe, data)]))
    with settings_at_fault():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if args.load_best_model_at_end and trainer.state.best_global_step is None:
        logger.warning("no evaluation defined %s: the model is the last one, not the best", args.metric_for_best_model)

    if trainer.is_world_process_zero():
        (folder / "run.json").unlink(missing_ok=True)  # of a finished run that is now trained further
    trainer.save_model()  # the best checkpoint, which load_best_model_at_end has loaded
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink()  # a pickle; arguments.json says the same
        trainer.save_state()
        saved = _predict(recipe, data.splits, choice)
        model = parameters | {"weights_sha256": weights_sha256(folder)}
        facts = run_facts(recipe, trainer, data, revisions, settings, choice)
        facts["model"] |= saved | model
        _write_facts(folder, recipe, facts)
        print_results(write_report(folder), folder)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _predict(recipe: Recipe, splits: DatasetDict, choice: Choice | None) -> dict:
    """Calibrate the saved model, write its predictions, and return the facts about it."""
    assert recipe.training.output_dir is not None
    folder = Path(recipe.training.output_dir)
    if recipe.model.calibration != "none":
        _calibrate(folder, recipe, splits, choice)
    if recipe.model.fusion != "none":
        copy_pipeline(folder)
    classifier = _load_saved(folder, recipe.training)
    if not recipe.training.do_predict:
        splits = DatasetDict({**splits, "test": splits["test"].select([])})
    predict_splits(folder, classifier, splits)
    if recipe.model.melanoma_sensitivity is not None:
        if choice is None:
            validation = read_predictions(folder / "predictions_validation.csv")
            threshold = thresholds.fit_threshold(validation, recipe.model.melanoma_sensitivity)
        else:
            assert choice.threshold is not None  # that run has the same recipe
            threshold = choice.threshold
        thresholds.keep_threshold(folder, classifier.model, threshold)
    return model_facts(classifier)


def _load_saved(folder: Path, args: RunArguments) -> Classifier:
    """Load the saved model in float32 as its users do, so that the report is about what is published."""
    classifier = load_classifier(str(folder))
    model = classifier.model.to(args.device)  # type: ignore[union-attr]  # a run's model is no ONNX file
    return classifier._replace(model=model)


def _calibrate(folder: Path, recipe: Recipe, splits: DatasetDict, choice: Choice | None) -> None:
    """Replace the saved weights by calibrated ones."""
    classifier = _load_saved(folder, recipe.training)
    counts = np.array(class_counts(splits["train"]))
    prior = counts / counts.sum() if recipe.model.calibration == "temperature_and_prior" else None
    if choice is None:
        metric = recipe.training.metric_for_best_model
        assert metric is not None  # it has a default
        fitted = calibration.calibrate(classifier, splits["validation"], prior, metric)
    else:
        assert choice.calibration is not None  # that run has the same recipe
        fitted = choice.calibration
        calibration.apply(classifier.model, fitted, prior)  # type: ignore[arg-type]  # as below
    logger.info("calibrated: temperature %.3f, prior strength %.2f", fitted.temperature, fitted.prior_strength)
    classifier.model.save_pretrained(folder)  # type: ignore[union-attr]  # no ONNX file
    apply_umask(folder)


def _write_facts(folder: Path, recipe: Recipe, facts: dict) -> None:
    """Write the recipe, its resolved arguments and, last, run.json, which marks the run as finished."""
    if recipe.text is not None:
        replace_file(folder / "recipe.yaml", recipe.text)
    arguments = [asdict(part) for part in (recipe.data, recipe.image, recipe.model, recipe.loss)]
    arguments.append(recipe.training.to_sanitized_dict())
    _write_json(folder / "arguments.json", {name: value for part in arguments for name, value in part.items()})
    _write_json(folder / "run.json", facts)


def _write_json(path: Path, value: dict) -> None:
    replace_file(path, json.dumps(strict(value), indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    from ham_hf.system.command import run_command

    raise SystemExit(run_command(main))
