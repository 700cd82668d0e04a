"""Find batches of one image, from which batch norm cannot learn."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def last_batch(images: int, batch: int, processes: int = 1, devices: int = 1) -> int:
    """Return how many images the smallest batch of an epoch has on one device.

    Several processes all get whole batches: accelerate completes the last ones with the first images of the epoch.

    Args:
        images: in an epoch.
        batch: images in a batch of one process, for all its devices.
        devices: among which one process divides each of its batches.
    """
    smallest = batch if processes > 1 else images % batch or batch
    per_device = math.ceil(smallest / devices)
    return smallest % per_device or per_device


@torch.no_grad()
def starved_norm(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of a batch norm layer that gets one value per channel for `inputs` of one image; None otherwise.

    Frozen layers do not count, because they normalize as in evaluation. The model runs in evaluation mode, so that
    nothing is random and no statistics change.
    """
    found: list[str] = []

    def note(name: str):
        def hook(module: nn.Module, args: tuple[torch.Tensor]) -> None:
            if args[0].numel() == args[0].shape[1]:
                found.append(name)

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and all(weight.requires_grad for weight in module.parameters())
    ]
    training = model.training
    model.eval()
    try:
        if hooks:
            model(**inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
