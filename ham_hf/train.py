"""The story of a run, top to bottom.

accelerate launch -m ham_hf.train recipes/quickstart.yaml
ham-hf train recipes/quickstart.yaml --num_train_epochs 1
"""

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import (
    PreTrainedModel,
    set_seed,
)

from ham_hf.config.arguments import BY_RESULT
from ham_hf.config.option_errors import explained, options_of
from ham_hf.config.recipe import Recipe, RunArguments, parse_recipe
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.evaluation import calibration, thresholds
from ham_hf.evaluation.contamination import check_start
from ham_hf.evaluation.model_facts import model_facts
from ham_hf.evaluation.predict_splits import write_answers
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_record import TrainingRecord, images_of, join_records, write_record
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.models.build import (
    count_parameters,
    find_checkpoint,
)
from ham_hf.models.depthwise import use_fast_gradients
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.multimodal import copy_pipeline
from ham_hf.models.pointwise import take_strides_first
from ham_hf.reporting.console import print_results
from ham_hf.reporting.report import strict, write_report
from ham_hf.system.environment import hardware, hindrances, versions, weights_sha256
from ham_hf.system.errors import InputError, TrainingError
from ham_hf.system.files import apply_umask, replace_file
from ham_hf.training.build import (
    build_model_and_processor,
    build_trainer,
    check_metric_is_defined,
    class_counts,
    labels_in,
    read_data,
    set_up_process,
    settings_at_fault,
    text_revision_of,
    wants_channels_last,
)
from ham_hf.training.checkpointing import has_checkpoint, last_whole_checkpoint, only_writer
from ham_hf.training.datasets import build_inputs
from ham_hf.training.resume import settings_of, went_on
from ham_hf.training.subprocess_run import CLAIM
from ham_hf.training.trainer import HamTrainer

logger = logging.getLogger("ham_hf.train")


def main(argv: list[str] | None = None) -> None:
    """Train what `[RECIPE.yaml] [--flag value …]` describes and write its run folder.

    Raises:
        InputError: the recipe, the data or the checkpoint cannot be used; nothing was trained.
        TrainingError: the settings do not work, or the training diverged.
        MachineError: the machine is in the way; --resume continues the run.
    """
    recipe = parse_recipe(argv)
    set_up_process(recipe.training)
    with logging_redirect_tqdm(), _held(recipe.training):
        train(recipe)


def _held(args: RunArguments) -> AbstractContextManager:
    return only_writer(Path(args.output_dir)) if args.process_index == 0 else nullcontext()


def train(recipe: Recipe) -> None:
    """A run from its recipe to its report; the run folder is the contract with everything that comes later."""
    args = recipe.training
    folder = Path(args.output_dir)
    # What fails fast comes first: the folder, the checkpoint's name, the data, and only then the weights
    with args.main_process_first(local=False, desc="checking checkpoints"):
        checkpoint = _checkpoint_to_resume(folder, args.resume)
    revision = find_checkpoint(recipe.model.model_name_or_path, recipe.model.model_revision).revision
    text_revision = text_revision_of(recipe.model)
    splits, data_facts, checks = read_data(recipe)
    kept = went_on(checkpoint, settings_of(recipe, splits, data_facts))
    before = check_start(recipe.model.model_name_or_path, revision, splits, data_facts, checks)
    if recipe.model.melanoma_sensitivity is not None and LABELS.index("mel") not in splits["validation"]["label"][:]:
        raise TrainingError("melanoma_sensitivity: no melanoma among the validation images, to fit a threshold on")

    check_metric_is_defined(args, splits["validation"]["label"][:], labels_in(splits))

    set_seed(args.seed)  # before the new head is drawn
    with explained("The model could not be set up", options_of(*recipe[:5])):
        model, processor = build_model_and_processor(recipe, splits, revision, text_revision)
        parameters = count_parameters(model)  # now: later they may be shared out among processes
        channels_last = wants_channels_last(args, model)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        use_fast_gradients(model)
        take_strides_first(model)
        inputs = build_inputs(recipe, model, processor, splits, checks, channels_last)
    trainer = build_trainer(recipe, model, processor, splits, inputs)
    trainer.add_callback(kept)
    logger.info("computing in %s%s", _precision(trainer), ", channels_last" if channels_last else "")

    if trainer.is_world_process_zero():  # before the first checkpoint, which needs it too
        write_record(folder, join_records([before, _training_record(recipe, splits, checks)]))
    with settings_at_fault():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = kept.seconds
    if args.load_best_model_at_end and trainer.state.best_global_step is None:
        logger.warning("no evaluation defined %s: the model is the last one, not the best", args.metric_for_best_model)
    if trainer.is_world_process_zero():
        (folder / "run.json").unlink(missing_ok=True)  # of a run that was whole, and is now trained further
    trainer.save_model()  # the best checkpoint, which load_best_model_at_end put back
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink()  # a pickle; arguments.json says the same
        trainer.save_state()
        if recipe.model.calibration != "none":
            _calibrate(folder, recipe, splits)
        if isinstance(model, PatientModel):
            copy_pipeline(folder)
        saved = _as_saved(folder, args)
        if not args.do_predict:
            splits["test"] = splits["test"].select([])
        write_answers(folder, saved, splits)
        if recipe.model.melanoma_sensitivity is not None:
            _fit_threshold(folder, saved.model, recipe.model.melanoma_sensitivity)
        facts = _facts(
            recipe,
            trainer,
            data=data_facts,
            revision=revision,
            text_revision=text_revision,
            saved=model_facts(saved) | parameters | {"weights_sha256": weights_sha256(folder)},
            channels_last=channels_last,
            changes=kept.changes,
            seconds=seconds,
        )
        _write_facts(folder, recipe, facts)
        print_results(write_report(folder), folder)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _checkpoint_to_resume(folder: Path, resume: bool) -> Path | None:
    """The last whole checkpoint in the run folder when asked to resume; otherwise the folder must not hold a run."""
    if not resume:
        if has_checkpoint(folder) or (folder / "run.json").exists():
            raise InputError(
                f"{folder} already holds a run: add --resume to go on with it, or choose another --output_dir"
            )
        return None
    last = last_whole_checkpoint(folder)
    if last is None:
        if not (folder / CLAIM).exists():  # a command that trains several models always passes --resume
            logger.info("no checkpoint in %s to resume from: starting from the beginning", folder)
        return None
    logger.info("resuming from %s", last)
    return last


def _training_record(recipe: Recipe, splits: DatasetDict, checks: Mapping[str, ImageCheck]) -> TrainingRecord:
    """The training images, and the validation images where something of the model is chosen on them."""
    args, model = recipe.training, recipe.model
    images = images_of(splits["train"], checks, "train")
    if (
        args.load_best_model_at_end
        or model.calibration != "none"
        or model.melanoma_sensitivity is not None
        or args.early_stopping_patience is not None
        or args.lr_scheduler_type in BY_RESULT
    ):
        images += images_of(splits["validation"], checks, "validation")
    return TrainingRecord(images, complete=True)


def _precision(trainer: HamTrainer) -> str:
    """As it really was: `accelerate launch --mixed_precision` overrules the recipe."""
    mixed = trainer.accelerator.mixed_precision
    return "fp32" if mixed == "no" else mixed


def _facts(
    recipe: Recipe,
    trainer: HamTrainer,
    *,
    data: dict,
    revision: str | None,
    text_revision: str | None,
    saved: dict,
    channels_last: bool,
    changes: list[str],
    seconds: float,
) -> dict:
    args, state = recipe.training, trainer.state
    # Without a best checkpoint the model is the last one
    chosen = args.load_best_model_at_end and state.best_global_step is not None
    return {
        "recipe": str(Path(recipe.argv[0])) if recipe.path else None,
        "argv": recipe.argv,
        "seed": args.seed,
        "versions": versions(),
        "hardware": hardware(args.device),
        "data": data,
        "model": {
            "name": recipe.model.model_name_or_path,
            "revision": revision,
            "text_name": recipe.model.text_model_name_or_path,
            "text_revision": text_revision,
            "fusion": recipe.model.fusion,
            "patient_encoding": recipe.model.patient_encoding if recipe.model.fusion != "none" else None,
            **saved,
        },
        "training": {
            "images": len(trainer.train_dataset),
            "do_predict": args.do_predict,
            "best_metric": args.metric_for_best_model if chosen else None,
            "best_value": state.best_metric if chosen else None,
            "best_step": state.best_global_step if chosen else None,
            "epochs": state.epoch,
            "steps": state.global_step,
            "learning_rate": args.learning_rate,
            "processes": args.world_size,
            "precision": _precision(trainer),
            "channels_last": channels_last,
            "hindrances": hindrances(args.device, args.full_determinism) + changes,
            "seconds": round(seconds, 1),
        },
    }


def _resolved_arguments(recipe: Recipe) -> dict:
    return {
        **asdict(recipe.data),
        **asdict(recipe.image),
        **asdict(recipe.model),
        **asdict(recipe.loss),
        **recipe.training.to_sanitized_dict(),
    }


def _as_saved(folder: Path, args: RunArguments) -> Classifier:
    """The saved folder, loaded as its users load it, in float32: the report is true of what is published."""
    classifier = load_classifier(str(folder))
    return classifier._replace(model=classifier.model.to(args.device))


def _calibrate(folder: Path, recipe: Recipe, splits: DatasetDict) -> None:
    """Once more from the saved folder, whose weights it replaces."""
    classifier = _as_saved(folder, recipe.training)
    counts = np.array(class_counts(splits["train"]))
    prior = counts / counts.sum() if recipe.model.calibration == "temperature_and_prior" else None
    metric = recipe.training.metric_for_best_model
    fitted = calibration.calibrate(classifier, splits["validation"], prior, metric)
    logger.info("calibrated: temperature %.3f, prior strength %.2f", fitted.temperature, fitted.prior_strength)
    classifier.model.save_pretrained(folder)
    apply_umask(folder)


def _fit_threshold(folder: Path, model: PreTrainedModel, sensitivity: float) -> None:
    validation = read_predictions(folder / "predictions_validation.csv")
    thresholds.keep_threshold(folder, model, thresholds.fit_threshold(validation, sensitivity))


def _write_facts(folder: Path, recipe: Recipe, facts: dict) -> None:
    """run.json comes last: where it is, the run is whole."""
    if recipe.text is not None:
        replace_file(folder / "recipe.yaml", recipe.text)
    _write_json(folder / "arguments.json", _resolved_arguments(recipe))
    _write_json(folder / "run.json", facts)


def _write_json(path: Path, value: dict) -> None:
    replace_file(path, json.dumps(strict(value), indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    from ham_hf.system.command import run_command

    raise SystemExit(run_command(main))
