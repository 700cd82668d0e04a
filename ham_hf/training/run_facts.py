"""Collect what a run records about its training: run.json, and the images that the model has seen."""

from pathlib import Path

from ham_hf.config.arguments import BY_RESULT
from ham_hf.config.recipe import Recipe
from ham_hf.evaluation.training_record import TrainingRecord, images_of, join_records
from ham_hf.models.build import Revisions
from ham_hf.system.environment import hardware, hindrances, versions
from ham_hf.training.datasets import Data
from ham_hf.training.final_fit import Choice
from ham_hf.training.resume import KeepSettings
from ham_hf.training.trainer import HamTrainer


def run_facts(
    recipe: Recipe,
    trainer: HamTrainer,
    data: Data,
    revisions: Revisions,
    settings: KeepSettings,
    choice: Choice | None,
) -> dict:
    """Return the content of run.json after the training, without the facts about the saved model.

    `revisions` are those of the checkpoints that the run started from, and `choice` is that of a final fit.
    """
    args, state = recipe.training, trainer.state
    # Without a best checkpoint the model is the last one
    chosen = args.load_best_model_at_end and state.best_global_step is not None
    return {
        "recipe": str(Path(recipe.argv[0])) if recipe.path else None,
        "argv": recipe.argv,
        "seed": args.seed,
        "versions": versions(),
        "hardware": hardware(args.device),
        "data": data.facts,
        "model": {
            "name": recipe.model.model_name_or_path,
            "revision": revisions.image,
            "text_name": recipe.model.text_model_name_or_path,
            "text_revision": revisions.text,
            "fusion": recipe.model.fusion,
            "patient_encoding": recipe.model.patient_encoding if recipe.model.fusion != "none" else None,
        },
        "training": {
            "images": len(trainer.train_dataset),
            **({} if data.soft_labels is None else {"soft_labels": data.soft_labels.facts}),
            "train_size": recipe.image.train_size,
            "do_predict": args.do_predict,
            "final_fit": None if choice is None else choice.facts,
            "best_metric": args.metric_for_best_model if chosen else None,
            "best_value": state.best_metric if chosen else None,
            "best_step": state.best_global_step if chosen else None,
            "epochs": state.epoch,
            "steps": state.global_step,
            "learning_rate": args.learning_rate,
            "processes": args.world_size,
            "precision": precision_of(trainer),
            "channels_last": trainer.channels_last,
            "hindrances": hindrances(args.device, args.full_determinism) + settings.changes,
            "seconds": round(settings.seconds, 1),
        },
    }


def precision_of(trainer: HamTrainer) -> str:
    """Return the precision that was used: `accelerate launch --mixed_precision` overrides the recipe."""
    mixed = trainer.accelerator.mixed_precision
    return "fp32" if mixed == "no" else mixed


def training_record(recipe: Recipe, data: Data) -> TrainingRecord:
    """Return the training images, the validation images if anything about the model is chosen on them, and what its
    teachers have seen.
    """
    args, model = recipe.training, recipe.model
    images = images_of(data.splits["train"], data.checks, "train")
    if (
        args.load_best_model_at_end
        or model.calibration != "none"
        or model.melanoma_sensitivity is not None
        or args.early_stopping_patience is not None
        or args.lr_scheduler_type in BY_RESULT
    ):
        images += images_of(data.splits["validation"], data.checks, "validation")
    own = TrainingRecord(images, complete=True)
    return own if data.soft_labels is None else join_records([own, data.soft_labels.record])
