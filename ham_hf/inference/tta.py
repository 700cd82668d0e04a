"""Test-time augmentation: the mean answer to several views of an image, as the model's own config asks for it.

A lesion has no upright position: its image flipped or turned (the dihedral group's eight ways) is as good as the one
that was taken. transformers' pipeline knows nothing of it, and looks once.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ham_hf.system.errors import InputError

CROP = 0.8  # of an image's side
SCALES = (1.0, 0.9, 0.8)


def set_test_time_augmentation(model: PreTrainedModel, kind: str) -> None:
    """Keep one of VIEWS in the model's config, which is saved with it."""
    model.config.test_time_augmentation = kind


def which_views(model: PreTrainedModel) -> str:
    """Which of VIEWS; "none" for models that were not trained here.

    Raises:
        InputError: the config asks for something else.
    """
    kind = model.config.to_dict().get("test_time_augmentation", "none")
    if kind not in list(VIEWS):  # it may be no string at all
        raise InputError(f"config.json has test_time_augmentation {kind!r}: expected one of {', '.join(VIEWS)}")
    return kind


def view_logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's logits (B, views, C) in float64, on the CPU.

    `inputs` are on the model's device, their `pixel_values` are (B, 3, H, W) with H = W. They leave the device in the
    model's own precision: Apple GPUs have no float64.
    """
    views = VIEWS[which_views(model)](inputs["pixel_values"])
    return torch.stack([model(**(inputs | {"pixel_values": view})).logits for view in views], dim=1).cpu().double()


def one_view(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Images (B, 3, S, S) themselves."""
    yield pixels


def flipped_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Images (B, 3, S, S) themselves, and their three flips."""
    yield pixels
    for dims in ((2,), (3,), (2, 3)):
        yield pixels.flip(dims)


def dihedral_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The eight ways to turn and mirror square images: themselves, their flips, and all these turned."""
    yield from flipped_views(pixels)
    yield from flipped_views(pixels.transpose(2, 3))


def cropped_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The whole, then nine crops of CROP of its side, row by row, as large as the whole."""
    yield pixels
    size = pixels.shape[-1]
    side = round(CROP * size)
    starts = (0, (size - side) // 2, size - side)
    for top in starts:
        for left in starts:
            yield _enlarged(pixels[:, :, top : top + side, left : left + side], size)


def scaled_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The flips of the middle of an image at each of SCALES."""
    size = pixels.shape[-1]
    for scale in SCALES:
        side = round(scale * size)
        start = (size - side) // 2
        yield from flipped_views(_enlarged(pixels[:, :, start : start + side, start : start + side], size))


def _enlarged(pixels: torch.Tensor, size: int) -> torch.Tensor:
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


# Each view is made when it is asked for
VIEWS = {
    "none": one_view,
    "flips": flipped_views,
    "dihedral": dihedral_views,
    "crops": cropped_views,
    "scales": scaled_views,
}
