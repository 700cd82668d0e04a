"""The story of a run, top to bottom.

accelerate launch -m ham_hf.train recipes/quickstart.yaml
ham-hf train recipes/quickstart.yaml --num_train_epochs 1
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import (
    BaseImageProcessor,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from ham_hf.config.arguments import BY_RESULT, ModelArguments
from ham_hf.config.option_errors import explained, options_of
from ham_hf.config.recipe import Recipe, RunArguments, parse_recipe
from ham_hf.data.dataset import load_checked
from ham_hf.data.image_hashes import ImageCheck
from ham_hf.evaluate import model_facts, write_answers
from ham_hf.evaluation import calibration, thresholds
from ham_hf.evaluation.contamination import check_start
from ham_hf.evaluation.hf_metric import HamMetrics
from ham_hf.evaluation.metrics import compute_scores, prediction_spread
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.evaluation.training_record import TrainingRecord, images_of, join_records, write_record
from ham_hf.inference.classifier import load_classifier
from ham_hf.inference.tta import set_test_time_augmentation, which_views
from ham_hf.labels import LABELS
from ham_hf.models.build import (
    build_model,
    build_processor,
    count_parameters,
    find_checkpoint,
    freeze_parts,
    name_processor,
)
from ham_hf.models.check import check_training
from ham_hf.models.depthwise import use_fast_gradients
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.models.multimodal import build_patient_model, build_patient_processor, copy_pipeline, find_text_encoder
from ham_hf.models.pointwise import take_strides_first
from ham_hf.reporting.report import headline_line, strict, write_report
from ham_hf.system.environment import hardware, hindrances, versions, weights_sha256
from ham_hf.system.errors import InputError, MachineError, TrainingError
from ham_hf.system.files import replace_file
from ham_hf.system.hardware import keep_freed_memory, prefers_channels_last, use_all_cores
from ham_hf.system.hub_access import HubUnreachable
from ham_hf.training.callbacks import CollapseGuard, EarlyStopping, EpochLine, QuietProgress, TellEpoch
from ham_hf.training.checkpointing import has_checkpoint, last_whole_checkpoint, only_writer
from ham_hf.training.datasets import Inputs, build_inputs
from ham_hf.training.losses import POWER, ClassificationLoss, class_weights
from ham_hf.training.optimization import optimizer_class
from ham_hf.training.resume import settings_of, went_on
from ham_hf.training.sampler import WeightedSampler
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
    _set_up(recipe.training)
    with logging_redirect_tqdm(), _held(recipe.training):
        train(recipe)


@contextmanager
def settings_at_fault() -> Iterator[None]:
    """Turn an InputError into a TrainingError: by now the data and the checkpoint have been found."""
    try:
        yield
    except (MachineError, HubUnreachable):
        raise
    except InputError as error:
        raise TrainingError(str(error)) from error


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
    text_revision = _text_revision(recipe.model)
    splits, data_facts, checks = _read_data(recipe)
    kept = went_on(checkpoint, settings_of(recipe, splits, data_facts))
    before = check_start(recipe.model.model_name_or_path, revision, splits, data_facts, checks)
    if recipe.model.melanoma_sensitivity is not None and LABELS.index("mel") not in splits["validation"]["label"][:]:
        raise TrainingError("melanoma_sensitivity: no melanoma among the validation images, to fit a threshold on")

    _check_metric_is_defined(args, splits["validation"]["label"][:], _labels(splits))

    set_seed(args.seed)  # before the new head is drawn
    with explained("The model could not be set up", options_of(*recipe[:5])):
        model, processor = _build(recipe, splits, revision, text_revision)
        parameters = count_parameters(model)  # now: later they may be shared out among processes
        channels_last = _wants_channels_last(args, model)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        use_fast_gradients(model)
        take_strides_first(model)
        inputs = build_inputs(recipe, model, processor, splits, checks, channels_last)
    trainer = _build_trainer(recipe, model, processor, splits, inputs)
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
        bf16_difference = write_answers(folder, *saved, splits)
        if recipe.model.melanoma_sensitivity is not None:
            _fit_threshold(folder, saved[0], recipe.model.melanoma_sensitivity)
        facts = _facts(
            recipe,
            trainer,
            data=data_facts,
            revision=revision,
            text_revision=text_revision,
            saved=model_facts(*saved, bf16_difference) | parameters | {"weights_sha256": weights_sha256(folder)},
            channels_last=channels_last,
            changes=kept.changes,
            seconds=seconds,
        )
        _write_facts(folder, recipe, facts)
        _log_headlines(write_report(folder), folder)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def build_for_search(recipe: Recipe) -> HamTrainer:
    """The trainer of `ham-hf sweep`: of a recipe's run up to its training, with a new model for every trial."""
    _set_up(recipe.training)
    if recipe.training.ema_decay or recipe.model.freeze == "backbone":
        raise InputError("ema_decay and freeze: backbone are set up once, before the first trial: sweep with greedy")
    revision = find_checkpoint(recipe.model.model_name_or_path, recipe.model.model_revision).revision
    text_revision = _text_revision(recipe.model)
    splits, facts, checks = _read_data(recipe)
    check_start(recipe.model.model_name_or_path, revision, splits, facts, checks)

    def new_model() -> PreTrainedModel:
        model, _ = _build(recipe, splits, revision, text_revision)
        if _wants_channels_last(recipe.training, model):
            model.to(memory_format=torch.channels_last)
        use_fast_gradients(model)
        take_strides_first(model)
        return model

    _check_metric_is_defined(recipe.training, splits["validation"]["label"][:], _labels(splits))
    set_seed(recipe.training.seed)
    with explained("The model could not be set up", options_of(*recipe[:5])):
        model, processor = _build(recipe, splits, revision, text_revision)
        channels_last = _wants_channels_last(recipe.training, model)
        inputs = build_inputs(recipe, model, processor, splits, checks, channels_last)
    trainer = _build_trainer(recipe, model, processor, splits, inputs)
    trainer.model_init = new_model
    return trainer


def _text_revision(model: ModelArguments) -> str | None:
    if model.fusion != "mmbt":
        return None
    return find_text_encoder(model.text_model_name_or_path, model.text_model_revision).revision


@settings_at_fault()
def _build(
    recipe: Recipe, splits: DatasetDict, revision: str | None, text_revision: str | None
) -> tuple[PreTrainedModel, BaseImageProcessor | PatientProcessor]:
    """The model of the recipe with a new head, and the processor that is saved with it."""
    args = recipe.model
    processor = build_processor(
        args.model_name_or_path,
        revision=revision,
        image_size=recipe.image.image_size,
        eval_resize=recipe.image.eval_resize,
        normalization=recipe.image.normalization,
        color_constancy=recipe.image.color_constancy,
    )
    images = processor
    if args.fusion == "none":
        model = build_model(
            args.model_name_or_path, revision=revision, labels=_labels(splits), config_overrides=args.config_overrides
        )
    else:
        sites = _known_sites(splits)
        model = build_patient_model(
            args,
            revision=revision,
            text_revision=text_revision,
            labels=_labels(splits),
            sites=sites,
            image_size=recipe.image.image_size,
        )
        processor = build_patient_processor(args, processor, text_revision=text_revision, sites=sites)
    name_processor(model.config, images)
    if args.test_time_augmentation != which_views(model):  # the checkpoint may ask for some of its own
        set_test_time_augmentation(model, args.test_time_augmentation)
    for fitted in (calibration.KEY, thresholds.KEY):  # to the checkpoint's old weights
        if fitted in model.config.to_dict():
            setattr(model.config, fitted, None)
    if args.calibration != "none":
        calibration.last_linear(model)  # raises now where there is none, and not after the training
    if args.freeze != "none":
        freeze_parts(model, args.freeze)
    image = recipe.image
    check_training(
        model,
        processor,
        args.model_name_or_path,
        train_size=image.train_size or image.image_size if image.augment else image.image_size,
        eval_size=image.image_size,
        checkpointing=recipe.training.gradient_checkpointing,
    )
    return model, processor


def _labels(splits: DatasetDict) -> tuple[str, ...]:
    return tuple(splits["train"].features["label"].names)


def _known_sites(splits: DatasetDict) -> list[str]:
    return sorted({site for split in splits.values() for site in split["localization"][:]} - {"unknown"})


@settings_at_fault()
def _build_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    processor: BaseImageProcessor | PatientProcessor,
    splits: DatasetDict,
    inputs: Inputs,
) -> HamTrainer:
    args = recipe.training
    counts = _class_counts(splits["train"])
    loss = ClassificationLoss(counts, recipe.loss, args.label_smoothing_factor)
    trainer = HamTrainer(
        model=model,
        args=args,
        train_dataset=inputs.train,
        eval_dataset=inputs.validation,
        processor=processor,
        finish_batch=inputs.finish_batch,
        options=options_of(*recipe[:5]),
        data_collator=inputs.collate,
        train_sampler=_sampler(recipe, splits["train"], counts),
        compute_loss_func=loss,
        compute_metrics=partial(_compute_metrics, names=_labels(splits)),
        optimizer_cls_and_kwargs=optimizer_class(args),
        callbacks=[*inputs.callbacks, TellEpoch(loss), EpochLine(), CollapseGuard()],
    )
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(args.early_stopping_patience))
    trainer.remove_callback(PrinterCallback)  # what stands in for the bars where tqdm is disabled
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(QuietProgress)
    return trainer


def _set_up(args: RunArguments) -> None:
    main_process = args.process_index == 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ham_hf").setLevel(logging.INFO if main_process else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading weights; the training bars are the Trainer's own
    where = args.device.type
    if where == "cpu":
        keep_freed_memory()
        where += f" ({use_all_cores(int(os.environ.get('LOCAL_WORLD_SIZE', 1)))} threads each)"
    logger.info("%d process(es) on %s; run folder %s", args.world_size, where, args.output_dir)


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
        logger.info("no checkpoint in %s to go on from: starting afresh", folder)
        return None
    logger.info("resuming from %s", last)
    return last


def _read_data(recipe: Recipe) -> tuple[DatasetDict, dict, Mapping[str, ImageCheck]]:
    """What `load_checked` gives, with as many training images as the recipe asks for."""
    with recipe.training.main_process_first(desc="reading the data"):
        splits, facts, checks = load_checked(recipe.data)
    splits["train"] = _first_samples(splits["train"], recipe.data.max_train_samples, recipe.training.seed)
    _log_data(splits, facts)
    return splits, facts, checks


def _first_samples(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    if count is None or count >= len(dataset):
        return dataset
    return dataset.shuffle(seed=seed).select(range(count))


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


def _log_data(splits: DatasetDict, facts: dict) -> None:
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    absent = sum(split["absent_images"] for split in facts["splits"].values())
    logger.info(
        "%s, split %s: %s images%s", facts["source"], facts["split"], sizes, f", {absent} absent" if absent else ""
    )
    for name in ("train", "validation"):
        if len(splits[name]) == 0:
            raise InputError(f"the {name} split has no image: training needs both training and validation images")


def _check_metric_is_defined(args: RunArguments, labels: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a metric_for_best_model that no predictions for these validation images could define."""
    metric = args.metric_for_best_model.removeprefix("eval_")
    decides = args.load_best_model_at_end or args.save_strategy == "best" or args.lr_scheduler_type in BY_RESULT
    if metric == "loss" or not decides:
        return
    of_perfect_predictions = compute_scores(np.eye(len(names))[labels], np.array(labels), names)
    if np.isnan(of_perfect_predictions[metric]):
        counts = ", ".join(f"{count} {names[label]}" for label, count in sorted(Counter(labels).items()))
        raise TrainingError(
            f"metric_for_best_model is {metric!r}, which is not defined for these validation images ({counts}): "
            "choose another metric, or another split"
        )


def _wants_channels_last(args: RunArguments, model: nn.Module) -> bool:
    """Where more than a patch embedding is convolutional: it makes these faster and does nothing for attention."""
    if args.channels_last is not None:
        return args.channels_last
    return prefers_channels_last(args.device) and sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def _class_counts(dataset: Dataset) -> list[int]:
    counts = Counter(dataset["label"][:])
    return [counts[i] for i in range(dataset.features["label"].num_classes)]


def _sampler(recipe: Recipe, train: Dataset, counts: list[int]) -> WeightedSampler | None:
    if recipe.loss.sampling == "none":
        return None
    weights = class_weights(counts, POWER[recipe.loss.sampling])
    seed = recipe.training.seed if recipe.training.data_seed is None else recipe.training.data_seed
    return WeightedSampler(weights[train["label"][:]], seed, number_repeats=recipe.image.augment)


def _compute_metrics(prediction: EvalPrediction, names: tuple[str, ...]) -> dict:
    logits = prediction.predictions.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    metrics = HamMetrics(names).compute(predictions=softmax, references=prediction.label_ids)
    metrics |= prediction_spread(softmax)
    return {name: value for name, value in metrics.items() if name != "confusion_matrix"}


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
        "recipe": str(recipe.path) if recipe.path else None,
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


def _as_saved(folder: Path, args: RunArguments) -> tuple[PreTrainedModel, BaseImageProcessor | PatientProcessor]:
    """The saved folder, loaded as its users load it, in float32: the report is true of what is published."""
    model, processor = load_classifier(str(folder))
    return model.to(args.device), processor


def _calibrate(folder: Path, recipe: Recipe, splits: DatasetDict) -> None:
    """Once more from the saved folder, whose weights it replaces."""
    model, processor = _as_saved(folder, recipe.training)
    counts = np.array(_class_counts(splits["train"]))
    prior = counts / counts.sum() if recipe.model.calibration == "temperature_and_prior" else None
    metric = recipe.training.metric_for_best_model
    fitted = calibration.calibrate(model, processor, splits["validation"], prior, metric)
    logger.info("calibrated: temperature %.3f, prior strength %.2f", fitted.temperature, fitted.prior_strength)
    model.save_pretrained(folder)


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


def _log_headlines(report: dict, folder: Path) -> None:
    for name, result in report["results"].items():
        logger.info("%s: %s", name, "not evaluated" if result is None else headline_line(result))
    logger.info("report: %s, or as text %s", folder / "report.html", folder / "report.md")


if __name__ == "__main__":
    from ham_hf.cli.main import run_command

    raise SystemExit(run_command(main))
