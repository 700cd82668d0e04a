"""Time an epoch of our Trainer on images that are already in memory."""

import tempfile
import time
from collections.abc import Callable

import torch
from torch.utils.data import Dataset
from transformers import BitImageProcessor, PreTrainedModel, PrinterCallback

from ham_hf.config.recipe import RunArguments
from ham_hf.system.hardware import supports_bf16
from ham_hf.training.losses import ClassificationLoss
from ham_hf.training.trainer import HamTrainer


class Noise(Dataset):
    """Repeat one image `images` times: loading is not measured."""

    def __init__(self, images: int):
        self.images, self.pixels = images, torch.randn(3, 224, 224)

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, row: int) -> dict:
        return {"pixel_values": self.pixels, "labels": row % 7}


def epoch(model: PreTrainedModel, images: Dataset, collate: Callable, batch: int) -> float:
    """Return the seconds of one epoch, without an evaluation or a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        args = RunArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
            disable_tqdm=True,
            bf16=supports_bf16(use_cpu=True),
        )
        trainer = HamTrainer(
            model=model,
            args=args,
            train_dataset=images,
            processor=BitImageProcessor(),
            finish_batch=lambda batch: batch,
            data_collator=collate,
            compute_loss_func=ClassificationLoss([1] * 7),
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started
