"""Prepare encoded images: at random for training, with the saved processor for everything else.

Training images are decoded, cropped and resized (antialiased) in uint8 and in threads; whole batches are then
augmented and normalized on the model's device. The result is within one gray level of Pillow's and torchvision's.
"""

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Barrier
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BaseImageProcessor

from ham_hf.config.arguments import ImageArguments
from ham_hf.data.crops import normalize
from ham_hf.data.image_io import read_cell
from ham_hf.data.pixel_cache import PixelCache
from ham_hf.inference.batches import PATIENT, image_processor
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.training.augmentation import DRAWN, SEEDS, Augment, auto_augment, call_seeded, mixup_or_cutmix
from ham_hf.training.sampler import REPEAT

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a training crop, as torchvision's RandomResizedCrop has them


@dataclass(frozen=True)
class CachedImages:
    """Cached pixels by image_id: (H, W, 3) uint8, read-only."""

    cache: PixelCache
    sha256s: Mapping[str, str]

    def __getitem__(self, image_id: str) -> np.ndarray:
        return self.cache[self.sha256s[image_id]]


class TrainTransform:
    """Crop images at random and draw the random numbers of their augmentation; `FinishBatch` does the rest.

    For `datasets.Dataset.set_transform` on images that are not decoded yet. The result depends only on (seed, epoch,
    image_id): not on the order of the batches, the number of threads and worker processes, or interruptions.
    """

    def __init__(
        self,
        args: ImageArguments,
        processor: BaseImageProcessor | PatientProcessor,
        seed: int,
        cached: CachedImages | None = None,
    ):
        self._args = args
        self._sizes = args.train_sizes()
        self._processor = processor
        self._cached = cached
        self._auto_augment = auto_augment(args)
        self._seed = seed
        # In shared memory, because worker processes that outlive an epoch must see the next one too
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops, of the size, of this epoch from now on; epochs count from 0 here."""
        self._epoch.fill_(epoch)

    def __call__(self, batch: dict) -> dict:
        """Return `pixel_values`, `augmentation`, encoded patients, `labels` and `image_ids` of N encoded rows.

        `pixel_values` are N tensors (3, size, size) uint8 of the epoch's size, which the collator stacks.
        `augmentation` are the random numbers (N, len(DRAWN)) float32 for `ham_hf.training.augmentation`.
        """
        repeats = batch.get(REPEAT, [0] * len(batch["image_id"]))
        cases = in_threads(self._one, batch["image"], batch["image_id"], repeats)
        pixels: Sequence[torch.Tensor]
        pixels, augmentation = zip(*cases, strict=True)
        drawn = torch.stack(augmentation)
        if self._auto_augment is not None:  # in this thread alone: see `call_seeded`
            seeds = _seeds(drawn, "auto_augment")
            pixels = [call_seeded(self._auto_augment, *case) for case in zip(seeds, pixels, strict=True)]
        return {
            "pixel_values": pixels,
            "augmentation": drawn,
            **encoded_patients(self._processor, batch),
            "labels": batch["label"],
            "image_ids": batch["image_id"],
        }

    def _one(self, cell: dict, image_id: str, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
        args = self._args
        draw = f"{self._seed} {int(self._epoch)} {image_id}" + (f" {repeat}" if repeat else "")
        generator = torch.Generator().manual_seed(zlib.crc32(draw.encode()))
        if self._cached is None:
            image = read_cell(cell)
            left, top, right, bottom = random_crop(*image.size, args.crop_scale, generator)
            crop = np.array(image.crop((left, top, right, bottom)))
        else:
            pixels = self._cached[image_id]
            height, width, _ = pixels.shape
            left, top, right, bottom = random_crop(width, height, args.crop_scale, generator)
            crop = pixels[top:bottom, left:right].copy()  # the cache is read-only
        size = self._sizes[max(first for first in self._sizes if first <= int(self._epoch) + 1)]
        resized = F.interpolate(
            # (1, 3, H, W), in memory (1, H, W, 3): the fast kernel, whose result the collator then copies as it is
            torch.from_numpy(crop)[None].permute(0, 3, 1, 2),
            (size, size),
            mode="bilinear",
            antialias=True,
        )
        return resized[0], torch.rand(len(DRAWN), generator=generator)


def _seeds(drawn: torch.Tensor, name: str) -> list[int]:
    """Return a seed for each row of random numbers (N, len(DRAWN))."""
    return (drawn[:, DRAWN.index(name)] * SEEDS).long().tolist()


def random_crop(
    width: int, height: int, scale: Sequence[float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a crop, drawn as by torchvision's RandomResizedCrop.

    torchvision draws from a global state that all threads share, so that crops would depend on the other threads.
    """

    def uniform(low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=generator).item()

    def below(end: int) -> int:
        return int(torch.randint(0, end, (1,), generator=generator))

    for _ in range(10):
        area = height * width * uniform(*scale)
        ratio = math.exp(uniform(*map(math.log, ASPECT_RATIOS)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = below(height - h + 1), below(width - w + 1)
            return left, top, left + w, top + h
    # No crop of that area fits: the largest one in the middle
    w = min(width, round(height * ASPECT_RATIOS[1]))
    h = min(height, round(width / ASPECT_RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def in_threads(function: Callable, *columns: list) -> list:
    """Return `list(map(function, *columns))`, computed in as many threads as torch uses (one in a worker process).

    Decoding and resizing release the interpreter lock.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return list(map(function, *columns))
    return list(_pool(os.getpid(), threads).map(function, *columns))


@cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads in which torch uses one core each, because nested threads would compete for the cores.

    Cached, because threads are slow to start; by process, because a fork does not inherit threads.
    """
    pool = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))
    together = Barrier(threads)
    list(pool.map(lambda _: together.wait(), range(threads)))  # all have started
    torch.set_num_threads(threads)  # for new threads: the 1 was meant for these only
    return pool


class FinishBatch:
    """Augment, normalize and mix a whole batch, on the model's device."""

    def __init__(self, processor: BaseImageProcessor | PatientProcessor, args: ImageArguments, classes: int):
        self._processor = image_processor(processor)
        self._augment, self._mix = Augment(args), mixup_or_cutmix(args)
        self._classes = classes

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with float32 `pixel_values` (N, 3, H, W).

        With mixup or CutMix, `labels` are float32 (N, classes): each diagnosis's share of the image, or the mixed soft
        labels, times the image's weight in the loss.

        Args:
            batch: as `Collator` makes it from either transform. `pixel_values` that are float stay as they are.
        """
        if batch["pixel_values"].dtype != torch.uint8:
            return batch
        if "augmentation" not in batch:
            return batch | {"pixel_values": normalize(self._processor, batch["pixel_values"])}
        batch = dict(batch)
        drawn, seed = batch.pop("augmentation"), batch.pop("mix_seed")
        pixels = normalize(self._processor, self._augment(batch["pixel_values"], drawn))
        pixels = self._augment.erase(pixels, drawn)
        if self._mix is not None:
            if "soft_labels" in batch:
                labels = batch.pop("soft_labels")
            else:
                labels = F.one_hot(batch["labels"], self._classes).float()
            if "image_weights" in batch:
                labels = labels * batch.pop("image_weights")[:, None]
            pixels, batch["labels"] = call_seeded(self._mix, seed, pixels, labels)
        return batch | {"pixel_values": pixels}


class EvalTransform:
    """Prepare images with the saved processor, so that a report is about what users of the model get.

    `crops` are those of the processor, cached by `eval_crops`; `FinishBatch` then normalizes them.
    """

    def __init__(self, processor: BaseImageProcessor | PatientProcessor, crops: CachedImages | None = None):
        self._processor = processor
        self._crops = crops

    def __call__(self, batch: dict) -> dict:
        """Return `pixel_values` (N, 3, size, size), encoded patients and `labels` of N encoded rows.

        The pixels are float32, or uint8 if the crops are cached.
        """
        if self._crops is None:
            images = in_threads(read_cell, batch["image"])
            pixels = image_processor(self._processor)(images, return_tensors="pt")["pixel_values"]
        else:
            crops = np.stack([self._crops[image_id] for image_id in batch["image_id"]])
            pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
        return {"pixel_values": pixels, **encoded_patients(self._processor, batch), "labels": batch["label"]}


def with_image_weights(weights: Mapping[str, float], transform: Callable[[dict], dict], batch: dict) -> dict:
    """Add the weight of each image in the loss, by its dx_type, to a batch: `image_weights` (N,) float32."""
    of_images = torch.tensor([weights[dx_type or "unknown"] for dx_type in batch["dx_type"]])
    return {**transform(batch), "image_weights": of_images}


def with_soft_labels(
    row_of: Mapping[str, int], targets: torch.Tensor, transform: Callable[[dict], dict], batch: dict
) -> dict:
    """Add the row of `targets` (images, classes) of each image_id to a batch: `soft_labels` (N, classes) float32."""
    rows = [row_of[image_id] for image_id in batch["image_id"]]
    return {**transform(batch), "soft_labels": targets[rows]}


def encoded_patients(processor: BaseImageProcessor | PatientProcessor, batch: dict) -> dict[str, torch.Tensor]:
    """Return the patients' columns as a multimodal model reads them; nothing for other processors."""
    if not isinstance(processor, PatientProcessor):
        return {}
    return processor.encode_patients(*(batch[name] for name in PATIENT))


class Collator:
    """Stack rows into a batch, in the memory format of the model's convolutions."""

    def __init__(self, channels_last: bool):
        self._channels_last = channels_last

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        stack = _stack_channels_last if self._channels_last else torch.stack
        images, labels = stack(columns.pop("pixel_values")), torch.tensor(columns.pop("labels"))  # (N, 3, H, W), (N,)
        names = {"image_ids": columns.pop("image_ids")} if "image_ids" in columns else {}  # for HamTrainer's messages
        tensors = {key: torch.stack(of) for key, of in columns.items()}
        batch: dict[str, Any] = {"pixel_values": images, **tensors, "labels": labels, **names}
        if "augmentation" in batch:  # a plain number, since reading one from a GPU would wait for it
            batch["mix_seed"] = _seeds(batch["augmentation"][:1], "mix")[0]
        return batch


def _stack_channels_last(images: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
