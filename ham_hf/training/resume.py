"""Record in each checkpoint what it was trained with, and resume only with the same settings."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from datasets import DatasetDict
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ham_hf.config.recipe import Recipe
from ham_hf.inference.batches import PATIENT
from ham_hf.models.safe_loading import COLOR_CONSTANCY
from ham_hf.system.environment import hardware, versions
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json
from ham_hf.training.datasets import Data

logger = logging.getLogger("ham_hf.train")

# The training arguments that a step depends on, apart from the seeds
OPTIMIZATION = (
    *("learning_rate", "image_learning_rate", "head_learning_rate", "layer_decay", "gradual_unfreezing"),
    *("optimizer", "optim", "optim_args", "sgd_momentum", "sgd_nesterov", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "ema_decay"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "lr_decay_factor", "lr_decay_epochs", "warmup_steps"),
    *("warmup_epochs", "dataloader_drop_last", "train_sampling_strategy", "neftune_noise_alpha"),
)
# And those that determine the weights. Another value would take effect only partly, because rates and schedules are in
# the checkpoint too
_OF_TRAINING = (
    *(*OPTIMIZATION, "seed", "data_seed", "final_fit"),
    *("eval_strategy", "eval_steps", "eval_delay", "save_strategy", "save_steps", "save_only_model"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
)
_AFTER_TRAINING = ("test_time_augmentation", "calibration", "melanoma_sensitivity")  # arguments of the model
_IMAGES = {"the training images": "train", "the validation images": "validation"}
_PATIENTS, _SOFT_LABELS = "the patients' data", "the soft labels"
_KEPT = {"fixed": dict, "noted": dict, "changes": list, "seconds": float}  # in a checkpoint
# These may change when a run resumes, though its result is then not that of an uninterrupted run
_MAY_CHANGE = (
    *("num_train_epochs", "max_steps", "early_stopping_patience", "stop_on_collapse"),
    *("bf16", "fp16", "tf32", "channels_last", "torch_compile", "gradient_checkpointing", "full_determinism"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "auto_find_batch_size", "ignore_data_skip"),
)


class Settings(NamedTuple):
    """Names and plain values: `fixed` must stay the same when a run resumes, `noted` may change."""

    fixed: dict[str, Any]
    noted: dict[str, Any]


def settings_of(recipe: Recipe, data: Data) -> Settings:
    """Return the settings of a run on these images."""
    args = recipe.training
    model = {name: value for name, value in asdict(recipe.model).items() if name not in _AFTER_TRAINING}
    images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    fixed = {
        **{name: data.facts["splits"][split]["sha256"] for name, split in _IMAGES.items()},
        "classes": recipe.data.classes,
        "max_train_samples": recipe.data.max_train_samples,
        **asdict(recipe.image),
        **model,
        **{name: value for name, value in asdict(recipe.loss).items() if name != "soft_labels"},
        _SOFT_LABELS: None if data.soft_labels is None else data.soft_labels.facts["sha256"],
        **{name: getattr(args, name) for name in _OF_TRAINING},
        "images a step": images,
    }
    if recipe.model.fusion != "none" or recipe.loss.dx_type_weights:
        fixed[_PATIENTS] = _patients_sha256(data.splits)
    noted = {name: getattr(args, name) for name in _MAY_CHANGE} | {"processes": args.world_size}
    noted |= {f"{name} (hardware)": value for name, value in hardware(args.device).items()} | versions()
    return Settings(*json.loads(json.dumps((fixed, noted))))  # as a checkpoint stores them


def _patients_sha256(splits: DatasetDict) -> str:
    """Return the SHA-256 of the patients' data, which that of the images does not cover."""
    columns = [splits[split][name][:] for split in _IMAGES.values() for name in (*PATIENT, "dx_type")]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()


class KeepSettings(TrainerCallback, ExportableState):
    """Keep in the trainer_state.json of every checkpoint what it was trained with.

    `changes` says what changed each time that the run was resumed, `seconds` how long it trained before.
    """

    def __init__(self, settings: Settings, changes: list[str], seconds: float):
        self._attributes = {**settings._asdict(), "changes": changes}
        self._seconds, self._started, self._ended = seconds, time.monotonic(), None

    @property
    def changes(self) -> list[str]:
        return self._attributes["changes"]

    @property
    def seconds(self) -> float:
        """Return the seconds of training so far, of all parts of an interrupted run."""
        return self._seconds + (self._ended or time.monotonic()) - self._started

    def on_train_begin(self, args, state, control, **kwargs):
        self._started = time.monotonic()  # excludes the set-up, such as loading weights
        state.stateful_callbacks[type(self).__name__] = self.state()  # the checkpoint may have no such entry

    def on_train_end(self, args, state, control, **kwargs):
        self._ended = time.monotonic()

    def state(self) -> dict:
        return {"args": {}, "attributes": self._attributes | {"seconds": self.seconds}}


def resume_settings(checkpoint: Path | None, settings: Settings) -> KeepSettings:
    """Return the callback that keeps `settings` in the checkpoints to come, with their changes since `checkpoint`.

    Raises:
        InputError: a setting changed that must not.
    """
    if checkpoint is None:
        return KeepSettings(settings, [], 0)
    before = settings_in(checkpoint)
    if before is None:
        return KeepSettings(settings, [f"{checkpoint.name} does not record what it was trained with"], 0)
    return KeepSettings(settings, _changes(checkpoint, before, settings), before["seconds"])


def settings_in(checkpoint: Path) -> dict | None:
    """Return what `KeepSettings` kept in a checkpoint; None if there is nothing.

    Raises:
        InputError: its trainer_state.json does not have the Trainer's format.
    """
    state = read_json(checkpoint / "trainer_state.json")
    try:
        kept = state["stateful_callbacks"].get(KeepSettings.__name__)
        if kept is None:
            return None
        return {name: kind(kept["attributes"][name]) for name, kind in _KEPT.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{checkpoint / 'trainer_state.json'} does not have the expected format "
            f"({type(error).__name__}: {error}): remove {checkpoint}"
        ) from error


def _changes(checkpoint: Path, before: Mapping, settings: Settings) -> list[str]:
    if before["fixed"].get("color_constancy"):
        raise InputError(f"{checkpoint} {COLOR_CONSTANCY}")
    if changed := _changed(before["fixed"], settings.fixed):
        raise InputError(
            f"Cannot resume from {checkpoint}: these settings changed: {'; '.join(changed)}. Restore them, or choose "
            "another --output_dir"
        )
    if settings.fixed["save_only_model"]:
        raise InputError(f"Cannot resume from {checkpoint}: it has only the weights, because save_only_model is true")
    changed = _changed(before["noted"], settings.noted)
    if settings.noted["ignore_data_skip"]:
        changed.append("ignore_data_skip, so that the first images of the epoch were seen again")
    changed = [f"resumed from {checkpoint.name} with {change}" for change in changed]
    for change in changed:
        logger.warning("%s: the result may differ from that of an uninterrupted run", change)
    return [*before["changes"], *changed]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the changes in words. A newer version may know more names than are in `before`, and skips them."""
    names = [name for name in now if name in before and now[name] != before[name]]
    hashes = (*_IMAGES, _PATIENTS, _SOFT_LABELS)
    return [name if name in hashes else f"{name} from {before[name]!r} to {now[name]!r}" for name in names]
