"""From encoded images to pixel values: random for training, the saved processor itself for everything else.

Training images take the short way: bytes → one decode → crop → antialiased resize, all in uint8 and in threads; a
whole batch is then flipped and normalised on the model's device. The result is within a grey level of Pillow's and
torchvision's.
"""

import math
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from transformers import BaseImageProcessor

from ham_hf.config.arguments import ImageArguments
from ham_hf.data.crops import normalize
from ham_hf.data.image_io import read_cell
from ham_hf.data.pixel_cache import PixelCache
from ham_hf.inference.batches import PATIENT, image_processor
from ham_hf.models.color_constancy.image_processing_color_constancy import ColorConstancyImageProcessor, shades_of_grey
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.training.augmentation import DRAWN, Augment
from ham_hf.training.auto_augment import auto_augment
from ham_hf.training.mixup import Mixing, mix
from ham_hf.training.sampler import REPEAT

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a training crop, as torchvision's RandomResizedCrop has them


class CachedImages(NamedTuple):
    """Of each image, by its image_id, what a cache has of it."""

    cache: PixelCache
    sha256s: Mapping[str, str]

    def __getitem__(self, image_id: str) -> np.ndarray:
        """(H, W, 3) uint8, read-only."""
        return self.cache[self.sha256s[image_id]]


class TrainTransform:
    """Random crop, flips and colours, for `datasets.Dataset.set_transform` on images that are not decoded yet.

    What an image looks like depends on (seed, epoch, image_id) alone: not on the order of the batches, the number of
    threads and worker processes, or whether the run was interrupted. `FinishBatch` does the second half.
    """

    def __init__(
        self,
        args: ImageArguments,
        processor: BaseImageProcessor | PatientProcessor,
        seed: int,
        cached: CachedImages | None = None,
    ):
        self._args = args
        self._processor = processor
        self._cached = cached
        self._color_constancy = isinstance(image_processor(processor), ColorConstancyImageProcessor)
        self._seed = seed
        # In shared memory, since worker processes that outlive an epoch must see the next one too
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __call__(self, batch: dict) -> dict:
        """Encoded columns of N rows → `pixel_values`, `augmentation`, patients, `labels`.

        `pixel_values` are N tensors (3, size, size) uint8, which the collator alone stacks. `augmentation` is
        (N, len(DRAWN)) float32: the random numbers for what is left to do, see `ham_hf.training.augmentation`.
        """
        repeats = batch.get(REPEAT, [0] * len(batch["image_id"]))
        cases = in_threads(self._one, batch["image"], batch["image_id"], repeats)
        pixels, augmentation = zip(*cases, strict=True)
        return {
            "pixel_values": pixels,
            "augmentation": torch.stack(augmentation),
            **encoded_patients(self._processor, batch),
            "labels": batch["label"],
            "image_ids": batch["image_id"],
        }

    def _one(self, cell: dict, image_id: str, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
        args = self._args
        draw = f"{self._seed} {int(self._epoch)} {image_id}" + (f" {repeat}" if repeat else "")
        generator = torch.Generator().manual_seed(zlib.crc32(draw.encode()))
        if self._cached is None or self._color_constancy:
            image = read_cell(cell) if self._cached is None else PIL.Image.fromarray(self._cached[image_id])
            if self._color_constancy:
                image = shades_of_grey(image)
            left, top, right, bottom = random_crop(*image.size, args.crop_scale, generator)
            crop = np.array(image.crop((left, top, right, bottom)))
        else:
            pixels = self._cached[image_id]
            left, top, right, bottom = random_crop(*pixels.shape[1::-1], args.crop_scale, generator)
            crop = pixels[top:bottom, left:right].copy()  # the cache is read-only
        size = args.train_size or args.image_size
        pixels = F.interpolate(
            # (1, 3, H, W), in memory (1, H, W, 3): the fast kernel, whose result the collator then copies as it is
            torch.from_numpy(crop)[None].permute(0, 3, 1, 2),
            (size, size),
            mode="bilinear",
            antialias=True,
        )
        drawn = torch.rand(len(DRAWN), generator=generator)
        return auto_augment(pixels[0], args, generator), drawn


def random_crop(
    width: int, height: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop, drawn as torchvision's RandomResizedCrop draws it from its global state.

    That state is one for all threads, and an image's crop would depend on who else draws.
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
    """`list(map(function, *columns))` on as many threads as torch computes with, which is one in a worker process.

    Decoding and resizing free the interpreter lock.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return list(map(function, *columns))
    return list(_pool(os.getpid(), threads).map(function, *columns))


@cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads in which torch computes alone: each with a team of its own would share the cores with all others'.

    Kept, since threads are slow to start; for each process its own, since a fork has none of its parent's.
    """
    pool = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))
    together = Barrier(threads)
    list(pool.map(lambda _: together.wait(), range(threads)))  # all have started
    torch.set_num_threads(threads)  # of threads yet to come: the 1 was meant for these alone
    return pool


class FinishBatch:
    """The second half of an image, for a whole batch on the model's device: augmentation, normalisation, mixing."""

    def __init__(self, processor: BaseImageProcessor | PatientProcessor, augment: Augment):
        self._processor = image_processor(processor)
        self._augment = augment

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """uint8 `pixel_values` of either transform → float32 (N, 3, H, W); what is float already, as it is.

        Of images that are mixed with others there is `mix_share` (N,) too: see `mix`.
        """
        if batch["pixel_values"].dtype != torch.uint8:
            return batch
        if "augmentation" not in batch:
            return batch | {"pixel_values": normalize(self._processor, batch["pixel_values"])}
        batch = dict(batch)
        drawn, mixing = batch.pop("augmentation"), batch.pop("mixing", None)
        pixels = normalize(self._processor, self._augment(batch["pixel_values"], drawn))
        pixels = self._augment.erase(pixels, drawn)
        if mixing is not None:
            pixels, batch["mix_share"] = mix(pixels, mixing)
        return batch | {"pixel_values": pixels}


class EvalTransform:
    """The saved processor, so that a figure in a report is what a user of the published model gets.

    `crops` are its own, cached by `eval_crops`; `FinishBatch` does what it does after the crop.
    """

    def __init__(self, processor: BaseImageProcessor | PatientProcessor, crops: CachedImages | None = None):
        self._processor = processor
        self._crops = crops

    def __call__(self, batch: dict) -> dict:
        """Encoded columns of N rows → `pixel_values` (N, 3, size, size), the patients, N `labels`.

        The pixels are float32, or uint8 where the crops are cached.
        """
        if self._crops is None:
            images = in_threads(read_cell, batch["image"])
            pixels = image_processor(self._processor)(images, return_tensors="pt")["pixel_values"]
        else:
            crops = np.stack([self._crops[image_id] for image_id in batch["image_id"]])
            pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
        return {"pixel_values": pixels, **encoded_patients(self._processor, batch), "labels": batch["label"]}


class WithImageWeights:
    """A transform that also gives each image its weight in the loss, by its dx_type: `image_weights` (N,) float32."""

    def __init__(self, weights: Mapping[str, float], transform: Callable[[dict], dict]):
        self._weights, self._transform = weights, transform

    def __call__(self, batch: dict) -> dict:
        weights = torch.tensor([self._weights[dx_type or "unknown"] for dx_type in batch["dx_type"]])
        return {**self._transform(batch), "image_weights": weights}


def encoded_patients(processor: BaseImageProcessor | PatientProcessor, batch: dict) -> dict[str, torch.Tensor]:
    """What a processor that reads patients makes of their columns; nothing from one that does not."""
    if not isinstance(processor, PatientProcessor):
        return {}
    return processor.encode_patients(*(batch[name] for name in PATIENT))


class Collator:
    """Stack rows into a batch, in the memory format the model's convolutions want; training images with `mixing`."""

    def __init__(self, channels_last: bool, mixing: Mixing | None = None):
        self._channels_last, self._mixing = channels_last, mixing

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        stack = _stack_channels_last if self._channels_last else torch.stack
        images, labels = stack(columns.pop("pixel_values")), torch.tensor(columns.pop("labels"))  # (N, 3, H, W), (N,)
        names = {"image_ids": columns.pop("image_ids")} if "image_ids" in columns else {}  # for HamTrainer's messages
        tensors = {key: torch.stack(of) for key, of in columns.items()}
        batch = {"pixel_values": images, **tensors, "labels": labels, **names}
        if self._mixing is not None and "augmentation" in batch:
            batch["mixing"] = self._mixing(batch["augmentation"])
        return batch


def _stack_channels_last(images: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
