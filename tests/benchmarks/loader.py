"""Compare our loading of training and evaluation images, from files and from the cache, with common loaders.

python -m tests.benchmarks.loader --data_dir path/to/HAM10000

All sides give the same images as normalized float32 batches of 32, crops of 20 to 100 % of the area at 224 pixels,
flipped. The peers are written as their documentation has them.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import datasets
import PIL.Image
import torch
from timm.data import ImageDataset, create_loader
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from transformers import BitImageProcessor

from ham_hf.config.arguments import DataArguments, ImageArguments
from ham_hf.data.crops import eval_crops
from ham_hf.data.dataset import load_checked
from ham_hf.data.pixel_cache import build_cache
from ham_hf.labels import LABELS
from ham_hf.models.build import IMAGENET_MEAN, IMAGENET_STD
from ham_hf.system.hardware import keep_freed_memory
from ham_hf.training.transforms import CachedImages, Collator, EvalTransform, FinishBatch, TrainTransform
from tests.benchmarks import compare, cores, header

BATCH, SIZE = 32, 224
NORMALIZE = Normalize(IMAGENET_MEAN, IMAGENET_STD)
TRAIN = [RandomResizedCrop(SIZE, scale=(0.2, 1.0)), RandomHorizontalFlip(), ToTensor(), NORMALIZE]
EVALUATION = [Resize(256), CenterCrop(SIZE), ToTensor(), NORMALIZE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="a folder of HAM10000 whose images are files")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()  # as a run does; it helps all sides
    header("torch", "torchvision", "datasets", "timm", "pillow")
    splits, _, checks = load_checked(DataArguments(data_dir=args.data_dir, allow_missing_images=True))
    images = splits["train"].shuffle(seed=0).select(range(args.images))
    encoded = images.cast_column("image", datasets.Image(decode=False))
    files = [Path(cell["path"]) for cell in encoded["image"][:]]
    print(f"{len(files)} images, {sum(file.stat().st_size for file in files) / len(files) / 1000:.1f} kB a file")
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": SIZE, "width": SIZE},
        resample=2,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    finish = FinishBatch(processor, ImageArguments(), len(LABELS))
    sha256s = {image_id: check.sha256 for image_id, check in checks.items()}

    def ours(transform, workers: int = 0):
        return lambda: exhaust(
            map(
                finish,
                DataLoader(
                    encoded.with_transform(transform), BATCH, True, num_workers=workers, collate_fn=Collator(True)
                ),
            )
        )

    decoded = ours(TrainTransform(ImageArguments(), processor, 0))
    with tempfile.TemporaryDirectory() as folder:
        peers = {
            "the transformers example": huggingface(images, TRAIN),
            "torchvision ImageFolder": image_folder(files, Path(folder)),
            "timm": timm_loader(Path(folder)),
            "decode alone (libjpeg-turbo, one thread)": lambda: decode_all(files),
        }
        one = compare("training images, one process", decoded, peers, args.rounds)
        several = {
            f"the transformers example, {workers} workers": huggingface(images, TRAIN, workers)
            for workers in range(1, cores() + 1)
        }
        compare("training images, the peer with worker processes", decoded, several, args.rounds)
    cached = CachedImages(build_cache(images, checks), sha256s)
    compare(
        "training images, cached pixels",
        ours(TrainTransform(ImageArguments(), processor, 0, cached)),
        {"the transformers example": huggingface(images, TRAIN)},
        args.rounds,
    )
    crops = CachedImages(eval_crops(images, checks, processor), sha256s)
    compare(
        "evaluation images, second pass",
        ours(EvalTransform(processor, crops)),
        {"the transformers example": huggingface(images, EVALUATION)},
        args.rounds,
    )
    share = one["decode alone (libjpeg-turbo, one thread)"]
    print(f"\nrelative to the speed of decoding alone: {share}")


def exhaust(batches: Iterable) -> None:
    for _ in batches:
        pass


def decode_all(files: list[Path]) -> None:
    for file in files:
        with PIL.Image.open(file) as image:
            image.load()


def huggingface(images: datasets.Dataset, steps: list, workers: int = 0):
    """examples/pytorch/image-classification/run_image_classification.py"""
    transform = Compose(steps)

    def transforms(batch: dict) -> dict:
        return {
            "pixel_values": [transform(image.convert("RGB")) for image in batch["image"]],
            "labels": batch["label"],
        }

    def collate(rows: list[dict]) -> dict:
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    loader = DataLoader(images.with_transform(transforms), BATCH, True, num_workers=workers, collate_fn=collate)
    return lambda: exhaust(loader)


def image_folder(files: list[Path], folder: Path):
    """https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html; links to the files."""
    (folder / "images").mkdir()
    for file in files:
        os.symlink(file, folder / "images" / file.name)
    loader = DataLoader(ImageFolder(folder, Compose(TRAIN)), BATCH, True)
    return lambda: exhaust(loader)


def timm_loader(folder: Path):
    """timm's train.py, its loader with plain crops and flips."""
    loader = create_loader(
        ImageDataset(str(folder)),
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        scale=(0.2, 1.0),
        num_workers=0,
        use_prefetcher=False,
        interpolation="bilinear",
        color_jitter=None,
        persistent_workers=False,
    )
    return lambda: exhaust(loader)


if __name__ == "__main__":
    main()
