"""Time an epoch of a classifier on a frozen ViT-B/16, from the second on: cached features against the live backbone.

python -m tests.benchmarks.frozen

6,022 training images, batches of 32. The live side trains on a part of them, which is scaled up; its images are noise
that is there already, so that nothing is loaded.
"""

import argparse
import tempfile
import time

import torch
from torch.utils.data import Dataset, Subset
from transformers import BitImageProcessor, PrinterCallback, ViTConfig, ViTForImageClassification

from ham_hf.config.recipe import RunArguments
from ham_hf.models.build import freeze_parts
from ham_hf.system.hardware import keep_freed_memory, supports_bf16, use_all_cores
from ham_hf.training.frozen_features import Features, answer_from_features, collate_features
from ham_hf.training.losses import ClassificationLoss
from ham_hf.training.trainer import HamTrainer
from ham_hf.training.transforms import Collator
from tests.benchmarks import compare, header

IMAGES, PART = 6022, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    use_all_cores(1)
    keep_freed_memory()
    header("torch", "transformers", "accelerate")
    live, kept = frozen_vit(), frozen_vit()
    answer_from_features(kept)
    features = Features(torch.randn(IMAGES, kept.config.hidden_size), torch.arange(IMAGES) % 7)
    compare(
        "an epoch on features",
        lambda: epoch(kept, features, collate_features),
        {"the live backbone": lambda: epoch(live, Subset(Noise(), range(PART)), Collator(False)) * IMAGES / PART},
        args.rounds,
    )


def frozen_vit() -> ViTForImageClassification:
    model = ViTForImageClassification(ViTConfig(num_labels=7))
    freeze_parts(model, "backbone")
    return model


class Noise(Dataset):
    pixels = torch.randn(3, 224, 224)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, row: int) -> dict:
        return {"pixel_values": self.pixels, "labels": row % 7}


def epoch(model: ViTForImageClassification, images: Dataset, collate) -> float:
    with tempfile.TemporaryDirectory() as folder:
        args = RunArguments(
            output_dir=folder,
            per_device_train_batch_size=32,
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


if __name__ == "__main__":
    main()
