"""Extend the stock Trainer where it has no hook: rates by part, averaged weights, checkpoints, checks of the loss."""

import logging
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import BaseImageProcessor, ProcessorMixin, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from ham_hf.config.option_errors import explained, options_of
from ham_hf.system.errors import InputError, MachineError, TrainingError
from ham_hf.system.files import apply_umask
from ham_hf.training.checkpointing import find_damage, write_checksums
from ham_hf.training.ema import AveragedWeights
from ham_hf.training.last_batch import last_batch, starved_norm
from ham_hf.training.optimization import decay_by_epoch, give_own_rate, set_rates_by_block, unfreeze_gradually

logger = logging.getLogger("ham_hf.train")

# The options that building these can fail because of
OF_OPTIMIZER = (
    *("optimizer", "optim", "optim_args", "optim_target_modules", "learning_rate", "base_learning_rate"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "sgd_momentum", "sgd_nesterov", "freeze"),
)
OF_SCHEDULE = (
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "learning_rate", "base_learning_rate"),
    *("num_train_epochs", "max_steps", "optimizer", "optim", "metric_for_best_model"),
)
READ_BY_LOSS = ("image_weights", "soft_labels")  # columns of a batch, in addition to the labels


class HamTrainer(Trainer):
    """The Trainer of every run. With `ema_decay` it evaluates, saves and publishes the averaged weights.

    Args:
        processor: saved with every model. The stock Trainer's `processing_class` (transformers 5.23) would require a
            tokenizer in one that is made of parts.
        finish_batch: called with each batch once that is on the model's device.
        train_sampler: chooses the images of an epoch; by default the stock Trainer's.
        smallest_crop: side of the smallest training images of all epochs, in pixels, of which batch norm gets the
            fewest values; by default they keep the size of the first epoch.
        options: the options given by the user, which a TrainingError names if the Trainer cannot be set up or fails
            before the end of the first step; by default those of `args`.
        kwargs: of the stock Trainer.
    """

    # The stock Trainer's
    compute_loss_func: Any
    lr_scheduler: Any

    def __init__(
        self,
        *,
        processor: BaseImageProcessor | ProcessorMixin,
        finish_batch: Callable[[dict], dict],
        train_sampler: Sampler[int] | None = None,
        smallest_crop: int | None = None,
        options: dict[str, Any] | None = None,
        **kwargs,
    ):
        self._options = options_of(kwargs["args"]) if options is None else options
        with explained("The trainer could not be set up", options_of(kwargs["args"])):
            super().__init__(**kwargs, preprocess_logits_for_metrics=_logits_alone)
        self.label_names = ["labels"]  # also of a model that takes none itself (DeiT with a teacher)
        self._stepped = False  # since the call of `train`
        self._drops_last = self.args.dataloader_drop_last
        self._train_sampler = train_sampler
        self._smallest_crop = smallest_crop
        self._processor = processor
        self._finish_batch = finish_batch
        self.channels_last = False  # whether the model was put into that memory format, for the record
        self._average: AveragedWeights | None = None
        self._image_ids: list[str] = []
        self._unchecked: list[tuple[int, torch.Tensor, list[str]]] = []
        self.add_callback(_CheckLosses(self))
        self.add_callback(_FindBest())
        if self.args.ema_decay:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise InputError(
                    "ema_decay does not support FSDP or DeepSpeed, which divide the weights: leave it out"
                )
            self._average = AveragedWeights(self.model, self.args.ema_decay)
            self.add_callback(self._average)

    def train(self, *args, **kwargs) -> TrainOutput:
        self._stepped = False
        with explained("The training failed in its first step", self._options, until=lambda: self._stepped):
            return super().train(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._image_ids = inputs.pop("image_ids", [])
        return self._finish_batch(super()._prepare_inputs(inputs))  # on the device, for the whole batch

    def _run_epoch(self, **kwargs) -> None:
        """Run an epoch, unless the resumed run had ended: the stock Trainer (5.24) takes a step before it checks."""
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if not self.control.should_training_stop:
            super()._run_epoch(**kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Return the stock loader, which drops a last batch of one image if batch norm cannot learn from it.

        Raises:
            InputError: an epoch would have no other batch.
        """
        self.args.dataloader_drop_last = self._drops_last or self._must_drop_last()
        images, step = len(self.train_dataset), self._train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and images < step:
            raise InputError(
                f"dataloader_drop_last is true, and {images} training images are fewer than a batch of {step}: "
                "expected a smaller per_device_train_batch_size"
            )
        return super().get_train_dataloader()

    def _must_drop_last(self) -> bool:
        images, batch, devices = len(self.train_dataset), self._train_batch_size, max(1, self.args.n_gpu)
        if last_batch(images, batch, self.args.world_size, devices) > 1 or not self.place_model_on_device:
            return False
        example = self._prepare_inputs(self.data_collator(self.train_dataset.__getitems__([0])))
        if self._smallest_crop is not None:
            example["pixel_values"] = F.interpolate(example["pixel_values"], self._smallest_crop)
        read_by_loss = ("labels", *READ_BY_LOSS)
        norm = starved_norm(self.model, {name: of for name, of in example.items() if name not in read_by_loss})
        if norm is None:
            return False
        if batch <= devices or images <= devices:
            which = f"per_device_train_batch_size is {batch}" if batch <= devices else f"training images: {images}"
            raise InputError(
                f"{which}, but batch norm ({norm}) cannot learn from one image at a time: expected at least 2"
            )
        logger.warning(
            "The last batch of an epoch (%d images in batches of %d) would have one image, which batch norm (%s) "
            "cannot learn from: it is dropped, as with dataloader_drop_last. Another per_device_train_batch_size "
            "avoids that.",
            images,
            batch,
            norm,
        )
        return True

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Never drop the last evaluation batch, unlike the stock Trainer with `dataloader_drop_last`."""
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._unchecked.append((self.state.global_step, loss, self._image_ids))
        if loss.device.type == "cpu":
            self.check_losses()
        return loss

    def check_losses(self) -> None:
        """Raise a TrainingError if a loss since the last call is not finite. Waits for the device."""
        if not self._unchecked:
            return
        unchecked, self._unchecked = self._unchecked, []
        finite = torch.stack([loss for _, loss, _ in unchecked]).isfinite().tolist()
        if all(finite):
            return
        step, loss, image_ids = unchecked[finite.index(False)]
        raise TrainingError(
            f"the loss of step {step + 1} is {loss.item()}; its images: {', '.join(image_ids) or 'unknown'}. The "
            "training diverged, or a weight of the checkpoint is damaged: try a lower learning_rate, or "
            "warmup_steps; --resume continues from the last checkpoint"
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        return self._train_sampler or super()._get_train_sampler(train_dataset)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ):
        """Pass the loss what only it reads, and in training alone the count, unlike the stock Trainer (5.24)."""
        loss = self.compute_loss_func
        self.compute_loss_func = partial(loss, **{name: inputs.pop(name, None) for name in READ_BY_LOSS})
        try:
            count = num_items_in_batch if model.training else None
            return super().compute_loss(model, inputs, return_outputs, count)
        finally:
            self.compute_loss_func = loss

    # Optimizer and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        new = self.optimizer is None
        with explained("The optimizer could not be built", self._options, OF_OPTIMIZER):
            optimizer = super().create_optimizer(model)
        if new and self.args.image_learning_rate is not None:
            named = (model or self.model).named_parameters()
            image = {weight for name, weight in named if "image_encoder." in name}
            give_own_rate(optimizer, image, self.args.image_learning_rate)
        args = self.args
        if new and (args.head_learning_rate is not None or args.layer_decay is not None or args.gradual_unfreezing):
            set_rates_by_block(optimizer, self.accelerator.unwrap_model(model or self.model), args)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        steps = self._steps_per_epoch()
        if self.args.lr_decay_factor is None:
            with explained("The schedule could not be built", self._options, OF_SCHEDULE):
                super().create_scheduler(num_training_steps, optimizer)
        else:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                lambda step: decay_by_epoch(step // steps, (step % steps + 1) / steps, self.args),
            )
            self._created_lr_scheduler = True
        schedule: Any = self.lr_scheduler  # set by now
        if self.args.gradual_unfreezing:
            unfreeze_gradually(schedule, round(self.args.gradual_unfreezing * steps))
        return schedule

    def _steps_per_epoch(self) -> int:
        args = self.args
        images = self._train_batch_size * args.world_size
        whole = math.floor if args.dataloader_drop_last else math.ceil
        return math.ceil(whole(len(self.train_dataset) / images) / args.gradient_accumulation_steps)

    # Averaged weights

    def _averaged_weights(self) -> AbstractContextManager:
        return nullcontext() if self._average is None else self._average.in_model()

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self._averaged_weights():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self._averaged_weights():
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self._processor.save_pretrained(folder)
            if self._average is not None and _internal_call:  # in a checkpoint
                self._average.save_trained(folder)
            apply_umask(folder)

    # A checkpoint gets its checksums before an older one is removed, so that one is always complete

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        run = Path(self._get_output_dir(trial=trial))
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if self.args.should_save:
                write_checksums(checkpoint)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk may be any of these
            shutil.rmtree(checkpoint, ignore_errors=True)
            free = shutil.disk_usage(run).free
            raise MachineError(
                f"{checkpoint} could not be written ({error}); {free:,} bytes are free there now: free some space, "
                "then --resume continues from the checkpoint before it"
            ) from error
        finally:
            self.args.save_total_limit = keep
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(run), save_total_limit=keep, best_model_checkpoint=best)

    # save_pretrained writes the weights of ViT and BEiT under older names than their modules have, and from_pretrained
    # renames them. The stock Trainer (transformers 5.23) loads a checkpoint without renaming and without being strict,
    # so that the encoder keeps its weights, with a warning. Sharded checkpoints (FSDP, DeepSpeed) have the new names.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder = Path(resume_from_checkpoint)
        self._load_pretrained(folder)
        if self._average is not None:
            self._average.resume(folder)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        best = Path(self.state.best_model_checkpoint)
        if damage := find_damage(best):
            raise MachineError(f"the best checkpoint is damaged: {best}: {damage}; --resume trains it again")
        self._load_pretrained(best)
        self._average = None  # the loaded weights are the average already

    def _load_pretrained(self, folder: Path) -> None:
        saved = type(self.model).from_pretrained(folder, dtype=self.model.dtype, use_safetensors=True)
        self.model.load_state_dict(saved.state_dict())


def _logits_alone(outputs: torch.Tensor | tuple[torch.Tensor, ...], _labels: torch.Tensor) -> torch.Tensor:
    """Return the first output of a model that has others, such as the logits of two classifiers."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


class _CheckLosses(TrainerCallback):
    """Check the losses whenever the log reads them anyway, and at every hundredth step."""

    def __init__(self, trainer: HamTrainer):
        self._trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self._trainer._stepped = True  # from now on the options no longer explain an exception
        if control.should_log or control.should_evaluate or control.should_save or state.global_step % 100 == 0:
            self._trainer.check_losses()


class _FindBest(TrainerCallback):
    """Find the best checkpoint in a run folder that was moved.

    A checkpoint records the path of the best one; the stock Trainer (5.24) would not find it and end with the last.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:
            best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else None
