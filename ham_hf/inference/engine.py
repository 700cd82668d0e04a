"""Compute a classifier's probabilities of images, batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from ham_hf.inference.classifier import Classifier, Patient

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]


def iterate_probabilities(
    classifier: Classifier,
    images: Iterable,
    patients: Iterable[Patient] | None = None,
    *,
    read: Callable[[Any], Image.Image] = lambda image: image,
    dtype: DType = "float32",
) -> Iterator[np.ndarray]:
    """Yield the probabilities (C,) of each image, in the order of `classifier.labels`.

    A bounded number of images is held at a time.

    Args:
        classifier: from `load_classifier`.
        images: images, or what `read` turns into an image in another thread, such as a path.
        patients: one for each image, None for unknown ones; ignored by models of the image alone.
        read: item of `images` → image.
        dtype: precision of the forward pass; the probabilities are float64.
    """
    for inputs in _batches(classifier, images, patients, read):
        with _autocast(classifier, dtype):  # not around the yield: the caller would compute in it too
            rows = _probabilities(classifier, inputs)
        yield from rows


def probabilities(
    classifier: Classifier,
    images: Iterable,
    patients: Iterable[Patient] | None = None,
    *,
    read: Callable[[Any], Image.Image] = lambda image: image,
    dtype: DType = "float32",
    total: int | None = None,
    description: str | None = None,
) -> np.ndarray:
    """Return the probabilities (N, C) of N images in float64, in the order of `classifier.labels`.

    The arguments are those of `iterate_probabilities`; `total` and `description` are for the progress bar.
    """
    rows = iterate_probabilities(classifier, images, patients, read=read, dtype=dtype)
    return np.array(list(progress(rows, total, description))).reshape(-1, len(classifier.labels))


def all_view_logits(
    classifier: Classifier,
    images: Iterable,
    patients: Iterable[Patient] | None = None,
    *,
    read: Callable[[Any], Image.Image] = lambda image: image,
    total: int | None = None,
    description: str | None = None,
) -> np.ndarray:
    """Return the logits (N, views, C) in float64 whose mean softmax `probabilities` returns for these arguments."""
    from ham_hf.inference.tta import view_logits

    batches = _batches(classifier, images, patients, read)
    rows = (row for inputs in batches for row in view_logits(classifier.model, inputs).numpy())
    return np.array(list(progress(rows, total, description)))


def progress(items: Iterable, total: int | None, description: str | None) -> Iterable:
    """Return `items` with a bar that counts images, unless they are few or stderr is no terminal."""
    return tqdm(
        items, total=total, desc=description, unit="image", leave=False, disable=True if total and total < 20 else None
    )


def _batches(
    classifier: Classifier, images: Iterable, patients: Iterable[Patient] | None, read: Callable[[Any], Image.Image]
) -> Iterator[dict[str, "torch.Tensor"]]:
    """Yield batches on the model's device."""
    from ham_hf.inference.batches import prepared_batches
    from ham_hf.system.hardware import keep_freed_memory

    device = classifier.model.device
    if device.type == "cpu":
        keep_freed_memory()  # a forward pass of a convolutional model takes half as long
    if not classifier.reads_patients:
        patients = None
    for batch in prepared_batches(classifier.processor, images, read, patients):
        # Not non_blocking: an Apple GPU would read the batch after its memory is freed
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def _autocast(classifier: Classifier, dtype: DType) -> AbstractContextManager:
    import torch

    if dtype == "float32":
        return nullcontext()
    return torch.autocast(classifier.model.device.type, getattr(torch, dtype))


def _probabilities(classifier: Classifier, inputs: dict) -> np.ndarray:
    """Return the probabilities (B, C) of a batch."""
    from ham_hf.inference.tta import view_logits
    from ham_hf.models.check import check_logits

    codes = classifier.model.config.id2label
    columns = [[i for i, code in codes.items() if code == label] for label in classifier.labels]
    logits = view_logits(classifier.model, inputs)  # (B, views, outputs)
    check_logits(logits[:, 0], len(logits), len(codes))
    softmax = logits.softmax(dim=2).mean(dim=1).numpy()
    rows = np.stack([softmax[:, outputs].sum(axis=1) for outputs in columns], axis=1)
    # The probability of dropped labels is distributed among the others in proportion
    return rows / rows.sum(axis=1, keepdims=True) if None in codes.values() else rows
