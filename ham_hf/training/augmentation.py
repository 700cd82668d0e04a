"""Random augmentation of cropped training images, in whole batches on the model's device.

`TrainTransform` draws the random numbers of each image; here they are only used. torchvision's own transforms draw
from torch's global generator, which `call_seeded` seeds with one of these numbers and then restores.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, v2

from ham_hf.config.arguments import ImageArguments

# The random numbers of an image, each uniform in [0, 1), in this order. Append new ones: in the middle they would
# change all that follow.
DRAWN = (
    "left_right",
    "top_bottom",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "sharpness",
    "quarter_turn",
    "rotation",
    "shear_x",
    "shear_y",
    "tilt_x",
    "tilt_y",
    "erase",
    "erased_area",
    "erased_ratio",
    "erased_left",
    "erased_top",
    "auto_augment",
    "mix",  # of the first image in a batch, for the whole batch
)
SEEDS = 2**24  # different values of a float32 in [0, 1)
ERASED_AREA, ERASED_RATIO = (0.02, 0.2), (1 / 3, 3)  # of the crop, and height by width


class Augment:
    """Flip, rotate, warp and change colors and sharpness, as a recipe says."""

    def __init__(self, args: ImageArguments):
        self._args = args
        self._warps = args.rotation or args.shear or args.perspective

    def __call__(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return `pixels` (N, 3, S, S) uint8 augmented, uint8 or float32 from 0 to 255; `drawn` is (N, len(DRAWN))."""
        args = self._args
        channels_last = pixels.is_contiguous(memory_format=torch.channels_last)
        number = {name: column[:, None, None, None] for name, column in zip(DRAWN, drawn.unbind(1), strict=True)}
        if args.horizontal_flip:
            pixels = _choose(number["left_right"] < 0.5, pixels.flip(3), pixels)
        if args.vertical_flip:
            pixels = _choose(number["top_bottom"] < 0.5, pixels.flip(2), pixels)
        if args.quarter_turns:
            pixels = _choose(
                number["quarter_turn"] < 0.5, torch.empty_like(pixels).copy_(pixels.transpose(2, 3)), pixels
            )
        if self._warps:
            pixels = _warp(pixels.float(), self._homographies(number))
        if args.color_jitter:
            pixels = pixels.float()
            jitter = {
                name: 1 + args.color_jitter * (2 * number[name] - 1)
                for name in ("brightness", "contrast", "saturation")
            }
            _jitter_colors(pixels, **jitter)
        if args.hue_jitter:
            pixels = _turn_hue(pixels, args.hue_jitter * (2 * number["hue"] - 1))
        if args.sharpness_jitter:
            pixels = _sharpen(pixels.float(), 1 + args.sharpness_jitter * (2 * number["sharpness"] - 1))
        return pixels.contiguous(memory_format=torch.channels_last) if channels_last else pixels

    def erase(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return normalized pixels (N, 3, S, S) with a box of 0, the mean color, in some of them.

        Source: random erasing, Zhong et al., 2017, https://arxiv.org/abs/1708.04896
        """
        if not self._args.random_erasing:
            return pixels
        number = dict(zip(DRAWN, drawn.unbind(1), strict=True))
        area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * number["erased_area"]
        ratio = torch.exp(
            math.log(ERASED_RATIO[0]) + math.log(ERASED_RATIO[1] / ERASED_RATIO[0]) * number["erased_ratio"]
        )
        height, width = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        box = box_mask(
            pixels.shape[-1], number["erased_left"] * (1 - width), number["erased_top"] * (1 - height), width, height
        )
        chosen = (number["erase"] < self._args.random_erasing)[:, None, None, None]
        return pixels * ~(box & chosen)

    def _homographies(self, number: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (N, 3, 3) matrices from coordinates of the new image, from -1 to 1, to those of the old one."""
        args = self._args

        def signed(name: str) -> torch.Tensor:
            return 2 * number[name].flatten() - 1

        angle = math.radians(args.rotation) * signed("rotation")
        shear_x, shear_y = (torch.tan(math.radians(args.shear) * signed(f"shear_{axis}")) for axis in "xy")
        cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        turn = _matrix((cos, -sin, zero), (sin, cos, zero), (zero, zero, one))
        shear = _matrix((one, shear_x, zero), (shear_y, one, zero), (zero, zero, one))
        # A tilted plane: its far side looks smaller
        tilt = (args.perspective * signed(f"tilt_{axis}") for axis in "xy")
        return turn @ shear @ _matrix((one, zero, zero), (zero, one, zero), (*tilt, one))


def auto_augment(args: ImageArguments) -> v2.Transform | None:
    """Return torchvision's RandAugment or TrivialAugment for one image (3, H, W) uint8; None for "none"."""
    match args.auto_augment:
        case "none":
            return None
        case "randaugment":
            return v2.RandAugment(magnitude=args.randaugment_magnitude, interpolation=InterpolationMode.BILINEAR)
        case "trivialaugment":
            return v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)


def mixup_or_cutmix(args: ImageArguments) -> v2.Transform | None:
    """Return torchvision's MixUp, CutMix or a random choice of both, for a batch and its one-hot labels."""
    transforms = []
    if args.mixup:
        transforms.append(v2.MixUp(alpha=args.mixup))
    if args.cutmix:
        transforms.append(v2.CutMix(alpha=args.cutmix))
    return v2.RandomChoice(transforms) if transforms else None


def call_seeded(transform: v2.Transform, seed: int, *inputs: torch.Tensor) -> Any:
    """Return `transform(*inputs)`, drawn with `seed`, and leave torch's global random state as it was.

    Not safe in several threads at once, because that state is one for all of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(*inputs)


def box_mask(
    size: int, left: torch.Tensor, top: torch.Tensor, width: torch.Tensor, height: torch.Tensor
) -> torch.Tensor:
    """Return (N, 1, size, size) bool: the pixels whose center lies in a box, given as shares (N,) of the side."""
    middle = (torch.arange(size, device=left.device) + 0.5) / size
    across = (middle >= left[:, None]) & (middle < (left + width)[:, None])  # (N, size)
    down = (middle >= top[:, None]) & (middle < (top + height)[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def _choose(chosen: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Do `torch.where` on bytes (N, 3, H, W) in a quarter of the time, in the memory of `yes`.

    Indexing the chosen images would wait for the device.
    """
    chosen = chosen.to(torch.uint8)  # (N, 1, 1, 1)
    return yes.mul_(chosen).add_(no * (1 - chosen))


def _matrix(*rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _warp(pixels: torch.Tensor, homographies: torch.Tensor) -> torch.Tensor:
    """Warp bilinearly; beyond its edges an image is mirrored."""
    height, width = pixels.shape[2:]
    unit = torch.eye(2, 3, device=pixels.device)[None]
    x, y = F.affine_grid(unit, [1, 1, height, width], align_corners=False).unbind(3)  # (1, H, W)
    places = _times(homographies, (x, y, torch.ones_like(x)))
    grid = torch.stack([places[0] / places[2], places[1] / places[2]], dim=3)  # (N, H, W, 2)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter_colors(
    pixels: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor
) -> None:
    """Change colors as torchvision's ColorJitter, in place and always in this order.

    Args:
        pixels: (N, 3, H, W), from 0 to 255.
        brightness, contrast, saturation: factors, (N, 1, 1, 1).
    """
    pixels.mul_(brightness).clamp_(0, 255)
    mean = _gray(pixels).mean((2, 3), keepdim=True)
    pixels.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 255)
    gray = _gray(pixels).mul_(1 - saturation)
    pixels.mul_(saturation).add_(gray).clamp_(0, 255)


def _gray(pixels: torch.Tensor) -> torch.Tensor:
    """Return the luminance (N, 1, H, W) by ITU-R 601-2, as in Pillow's mode "L"."""
    red, green, blue = pixels.split(1, dim=1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _turn_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate colors about the gray axis by `turns` (N, 1, 1, 1) of a circle, which is linear, unlike in HSV."""
    angle = 2 * math.pi * turns.flatten()
    cos, third, sin = angle.cos(), (1 - angle.cos()) / 3, angle.sin() / math.sqrt(3)
    on, left, right = cos + third, third - sin, third + sin
    rotation = _matrix((on, left, right), (right, on, left), (left, right, on))  # (N, 3, 3), Rodrigues' formula
    return torch.stack(_times(rotation, pixels.float().unbind(1)), dim=1).clamp_(0, 255)


def _times(matrices: torch.Tensor, planes: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Multiply three planes (N or 1, H, W) by (N, 3, 3), one by one: the last bit of torch's product depends on N."""
    return [
        sum((f[:, None, None] * plane for f, plane in zip(row.unbind(1), planes, strict=True)), start=torch.zeros(()))
        for row in matrices.unbind(1)
    ]


def _sharpen(pixels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Do what Pillow's ImageEnhance.Sharpness does, at every pixel: 0 is smooth, 1 the image itself, 2 sharp."""
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    smooth = (9 * F.avg_pool2d(padded, 3, stride=1) + 4 * pixels) / 13  # all nine places, the middle five times
    return torch.lerp(smooth, pixels, factor).clamp_(0, 255)
