"""Optimisers and schedules that TrainingArguments has no name for, through the Trainer's own hooks."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer

from ham_hf.recipe import RunArguments


def optimizer_class(args: RunArguments) -> tuple[type[torch.optim.Optimizer], dict] | None:
    """For `Trainer(optimizer_cls_and_kwargs=…)`; None leaves AdamW to the Trainer."""
    match args.optimizer:
        case "adamw":
            return None
        case "adam":
            betas = (args.adam_beta1, args.adam_beta2)
            return torch.optim.Adam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        case "sgd":
            return torch.optim.SGD, {"lr": args.learning_rate, "momentum": args.sgd_momentum}


def decay_by_epoch(epoch: int, fraction: float, args: RunArguments) -> float:
    """What the learning rate is multiplied with: linear warm-up by step, then a decay by whole epochs.

    Args:
        epoch: whole epochs done.
        fraction: share of the present epoch that will be done after this step, in (0, 1].
    """
    if epoch < args.warmup_epochs:
        return (epoch + fraction) / args.warmup_epochs
    return args.lr_decay_factor ** ((epoch - args.warmup_epochs) // args.lr_decay_epochs)


class HamTrainer(Trainer):
    """The stock Trainer with a schedule by epochs, for which it has no hook."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.args.lr_decay_factor is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            steps = self._steps_per_epoch()
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                lambda step: decay_by_epoch(step // steps, (step % steps + 1) / steps, self.args),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _steps_per_epoch(self) -> int:
        args = self.args
        images = args.train_batch_size * args.world_size
        whole = math.floor if args.dataloader_drop_last else math.ceil
        return math.ceil(whole(len(self.train_dataset) / images) / args.gradient_accumulation_steps)
