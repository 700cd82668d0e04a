"""Time an epoch of a classifier on a frozen ViT-B/16, from the second on: cached features against the live backbone.

python -m tests.benchmarks.frozen

6,022 training images, batches of 32. The live side trains on a part of them, which is scaled up; its images are noise
that is there already, so that nothing is loaded.
"""

import argparse

import torch
from torch.utils.data import Subset
from transformers import ViTConfig, ViTForImageClassification

from ham_hf.models.build import freeze_parts
from ham_hf.system.hardware import keep_freed_memory, use_all_cores
from ham_hf.training.frozen_features import Features, answer_from_features, collate_features
from ham_hf.training.transforms import Collator
from tests.benchmarks import compare, header
from tests.benchmarks.epoch import Noise, epoch

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
        lambda: epoch(kept, features, collate_features, 32),
        {
            "the live backbone": lambda: (
                epoch(live, Subset(Noise(IMAGES), range(PART)), Collator(False), 32) * IMAGES / PART
            )
        },
        args.rounds,
    )


def frozen_vit() -> ViTForImageClassification:
    model = ViTForImageClassification(ViTConfig(num_labels=7))
    freeze_parts(model, "backbone")
    return model


if __name__ == "__main__":
    main()
