"""Check before a training that a model accepts the images and learns from them."""

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.system.errors import InputError


def check_training(
    model: PreTrainedModel,
    processor: BaseImageProcessor | PatientProcessor,
    name: str,
    *,
    train_sizes: Mapping[int, int],
    eval_size: int,
    checkpointing: bool = False,
) -> None:
    """Pass two noise images of each size forward and backward in training, and one forward in evaluation mode.

    The model, its buffers and all random states stay as they were.

    Args:
        model: as it is trained, with its frozen parts.
        processor: encodes the patients, if the model reads them.
        name: the checkpoint, for the message.
        train_sizes: side of the training images in pixels, by the first epoch that has it.
        eval_size: side of the evaluated images, in pixels.
        checkpointing: whether gradient checkpointing is used.

    Raises:
        InputError: the model cannot be trained with these settings.
    """
    if checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(
            f"gradient_checkpointing: {type(model).__name__} of {name} does not support it: set it to false"
        )
    with _unchanged(model), ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if checkpointing:
            _enable_checkpointing(model, name)
            stack.callback(model.gradient_checkpointing_disable)
        for epoch, size in train_sizes.items():
            with _explained(model, name, size, f" from epoch {epoch} on" if len(train_sizes) > 1 else ""):
                logits = _logits(model.train(), processor, 2, size)
                logits.float().logsumexp(dim=1).sum().backward()
        if not any(weight.grad is not None for weight in model.parameters()):
            raise InputError(f"{name}: no weight of {type(model).__name__} gets a gradient: check freeze")
        with _explained(model, name, eval_size), torch.no_grad():
            _logits(model.eval(), processor, 1, eval_size)


def check_logits(logits: object, images: int, labels: int) -> None:
    """Raise a ValueError if the logits of a model are not a tensor (images, labels)."""
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (images, labels):
        raise ValueError(f"its logits are {found} for a batch of {images}: expected {(images, labels)}")


def _logits(
    model: PreTrainedModel, processor: BaseImageProcessor | PatientProcessor, images: int, size: int
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = {"pixel_values": torch.rand(images, 3, size, size, generator=generator)}
    if isinstance(processor, PatientProcessor):
        inputs |= processor.encode_patients([50.0] * images, ["female"] * images, [None] * images)
    logits = model(**inputs).logits
    check_logits(logits, images, model.config.num_labels)
    return logits


def _enable_checkpointing(model: PreTrainedModel, name: str) -> None:
    try:
        model.gradient_checkpointing_enable()
    except ValueError as error:  # it declares support that none of its layers has
        raise InputError(
            f"gradient_checkpointing: {type(model).__name__} of {name} does not support it ({error}): set it to false"
        ) from error


@contextmanager
def _explained(model: PreTrainedModel, name: str, size: int, when: str = "") -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # from any layer of any architecture
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}"
        raise InputError(
            f"{name}: {type(model).__name__} cannot be trained on RGB images of {size} x {size} pixels{when} "
            f"({reason}): start from another checkpoint, or change image_size, train_size or config_overrides"
        ) from error


@contextmanager
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Restore the random states, and the model's buffers, gradients and modes."""
    training = {module: module.training for module in model.modules()}
    buffers = [
        (module, key, buffer, buffer.clone())
        for module in model.modules()
        for key, buffer in module.named_buffers(recurse=False)
    ]
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):  # the model is not on the GPU yet
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, key, buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)
            module._buffers[key] = buffer
        for module, mode in training.items():
            module.training = mode
        model.zero_grad(set_to_none=True)
