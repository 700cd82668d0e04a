"""Prepare batches of images in threads, while the model computes.

The saved processor prepares one image at a time, as in the pipeline of transformers: photographs come in all sizes,
and each thread holds only one at full size. Decoding and resizing release the interpreter lock.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import datasets
import torch
from datasets import Dataset
from PIL import Image
from transformers import BaseImageProcessor

from ham_hf.data.image_io import read_cell, upright_rgb
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.system.errors import InputError

BATCH_SIZE = 32
# At most this many prepared images wait for the model: 0.6 MB each at 224 pixels
AHEAD = 2 * BATCH_SIZE
MOST_THREADS = 8  # more would wait for the interpreter lock

Item = TypeVar("Item")


def prepared_batches(
    processor: BaseImageProcessor | PatientProcessor,
    items: Iterable[Item],
    read: Callable[[Item], Image.Image],
    patients: Iterable[tuple] | None = None,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of BATCH_SIZE images as the processor prepares them, with `pixel_values` in channels_last.

    Args:
        processor: the one saved with the model.
        items: identifies each image, such as its path or row; consumed up to AHEAD items early.
        read: item → image; called in threads.
        patients: age, sex and site of each, for a processor that reads them; None if all are unknown.
    """
    reads_patients = isinstance(processor, PatientProcessor)
    image_processor = processor.image_processor if reads_patients else processor
    if patients is None:
        patients = itertools.repeat((None, None, None))
    threads = torch.get_num_threads()  # also fixes the number for this thread before a worker sets 1

    def pixels(item: Item) -> torch.Tensor:
        return image_processor(upright_rgb(read(item)), return_tensors="pt")["pixel_values"]

    # Workers with as many threads as the model would take the cores from it
    pool = ThreadPoolExecutor(min(threads, MOST_THREADS), "prepare", torch.set_num_threads, (1,))
    waiting: deque[tuple[Future, tuple]] = deque()
    todo = zip(items, patients, strict=False)
    try:
        while True:
            for item, patient in itertools.islice(todo, AHEAD - len(waiting)):
                waiting.append((pool.submit(pixels, item), patient))
            if not waiting:
                return
            cases = [waiting.popleft() for _ in range(min(BATCH_SIZE, len(waiting)))]
            images = [future.result() for future, _ in cases]
            if len(shapes := {tuple(image.shape[1:]) for image in images}) > 1:
                raise InputError(
                    f"the model's processor outputs images of several sizes ({', '.join(map(str, sorted(shapes)))}): "
                    "expected one, as with do_center_crop in its preprocessor_config.json; or use images of one shape"
                )
            together = torch.cat(images)  # (B, 3, H, W)
            batch = {"pixel_values": together.contiguous(memory_format=torch.channels_last)}
            if reads_patients:  # not in the workers: tokenizers are not thread-safe
                batch |= processor.encode_patients(*zip(*(patient for _, patient in cases), strict=True))
            del cases, images, together  # not kept in memory while the model computes
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the workers' 1 would apply to threads created later


def image_reader(split: Dataset) -> Callable[[int], Image.Image]:
    """Return a function from a row to its image, for the threads of `prepared_batches`."""
    images = split.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return lambda row: read_cell(images[row]["image"])


PATIENT = ("age", "sex", "localization")  # columns of the dataset; never dx_type, which leaks the label


def image_processor(processor: BaseImageProcessor | PatientProcessor) -> BaseImageProcessor:
    """Return the part of a processor that prepares images."""
    return processor.image_processor if isinstance(processor, PatientProcessor) else processor
