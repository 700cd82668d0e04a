"""The stock Trainer, subclassed where it has no hook: a schedule by epochs, and checkpoints by from_pretrained."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer

from ham_hf.optimization import decay_by_epoch


class HamTrainer(Trainer):
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

    # save_pretrained writes ViT and BEiT under older names than the modules bear; from_pretrained renames them back.
    # The stock Trainer (transformers 5.23) reads a checkpoint without renaming and without being strict: the encoder's
    # weights stay as they are, with a warning. Sharded checkpoints (FSDP, DeepSpeed) have the modules' own names.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_pretrained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_pretrained(self.state.best_model_checkpoint)

    def _load_pretrained(self, folder: str) -> None:
        saved = type(self.model).from_pretrained(folder, dtype=self.model.dtype, use_safetensors=True)
        self.model.load_state_dict(saved.state_dict())
