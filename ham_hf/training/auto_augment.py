"""RandAugment and TrivialAugment, whose random numbers come from the image's own generator.

torchvision has both, but draws from the one global state: with several threads an image would depend on the others.
The operations are torchvision's, and so are their ranges ("wide" for TrivialAugment).

Sources: RandAugment, Cubuk et al., 2019, https://arxiv.org/abs/1909.13719; TrivialAugment, Müller and Hutter, 2021,
https://arxiv.org/abs/2103.10158.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ham_hf.config.arguments import ImageArguments

_GREATEST = 30  # the magnitude of the strongest operation
RANDAUGMENT_OPERATIONS = 2  # one after the other


class _Operation(NamedTuple):
    """`apply(pixels, strength)`; how strong it is at most in either algorithm, and whether that has a sign."""

    apply: Callable[[torch.Tensor, float], torch.Tensor]
    randaugment: float
    trivialaugment: float
    signed: bool


def _affine(pixels: torch.Tensor, *, angle: float = 0.0, shift=(0, 0), shear=(0.0, 0.0)) -> torch.Tensor:
    return F.affine(pixels, angle, list(shift), 1.0, list(shear), InterpolationMode.BILINEAR)


def _degrees(slope: float) -> float:
    return torch.atan(torch.tensor(slope)).rad2deg().item()


_OPERATIONS = {
    "identity": _Operation(lambda pixels, _: pixels, 0, 0, False),
    "shear_x": _Operation(lambda pixels, by: _affine(pixels, shear=(_degrees(by), 0.0)), 0.3, 0.99, True),
    "shear_y": _Operation(lambda pixels, by: _affine(pixels, shear=(0.0, _degrees(by))), 0.3, 0.99, True),
    # As shares of a side; TrivialAugment's 32 pixels are of CIFAR's and ImageNet's alike
    "translate_x": _Operation(
        lambda pixels, by: _affine(pixels, shift=(round(by * pixels.shape[-1]), 0)), 150 / 331, 32 / 224, True
    ),
    "translate_y": _Operation(
        lambda pixels, by: _affine(pixels, shift=(0, round(by * pixels.shape[-2]))), 150 / 331, 32 / 224, True
    ),
    "rotate": _Operation(lambda pixels, by: _affine(pixels, angle=by), 30, 135, True),
    "brightness": _Operation(lambda pixels, by: F.adjust_brightness(pixels, 1 + by), 0.9, 0.99, True),
    "color": _Operation(lambda pixels, by: F.adjust_saturation(pixels, 1 + by), 0.9, 0.99, True),
    "contrast": _Operation(lambda pixels, by: F.adjust_contrast(pixels, 1 + by), 0.9, 0.99, True),
    "sharpness": _Operation(lambda pixels, by: F.adjust_sharpness(pixels, 1 + by), 0.9, 0.99, True),
    "posterize": _Operation(lambda pixels, by: F.posterize(pixels, 8 - round(by)), 4, 6, False),
    "solarize": _Operation(lambda pixels, by: F.solarize(pixels, 255 * (1 - by)), 1, 1, False),
    "autocontrast": _Operation(lambda pixels, _: F.autocontrast(pixels), 0, 0, False),
    "equalize": _Operation(lambda pixels, _: F.equalize(pixels), 0, 0, False),
}


def auto_augment(pixels: torch.Tensor, args: ImageArguments, generator: torch.Generator) -> torch.Tensor:
    """`pixels` (3, H, W) uint8 after `args.auto_augment`; as they are where it is "none"."""
    match args.auto_augment:
        case "none":
            return pixels
        case "randaugment":
            for _ in range(RANDAUGMENT_OPERATIONS):
                operation = _any(generator)
                magnitude = args.randaugment_magnitude / _GREATEST
                pixels = operation.apply(pixels, _sign(operation, generator) * magnitude * operation.randaugment)
            return pixels
        case "trivialaugment":
            operation = _any(generator)
            magnitude = _below(_GREATEST + 1, generator) / _GREATEST
            return operation.apply(pixels, _sign(operation, generator) * magnitude * operation.trivialaugment)


def _any(generator: torch.Generator) -> _Operation:
    return list(_OPERATIONS.values())[_below(len(_OPERATIONS), generator)]


def _sign(operation: _Operation, generator: torch.Generator) -> int:
    return 2 * _below(2, generator) - 1 if operation.signed else 1


def _below(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, end, (1,), generator=generator))
