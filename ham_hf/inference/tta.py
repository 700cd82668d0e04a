"""Average the predictions for several views of an image (test-time augmentation), as a model's config asks for.

A lesion has no upright position: its image flipped or rotated (the eight elements of the dihedral group) is as good as
the original. The pipeline of transformers ignores this and uses one view.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ham_hf.system.errors import InputError

CROP = 0.8  # of an image's side
SCALES = (1.0, 0.9, 0.8)


def set_test_time_augmentation(model: PreTrainedModel, kind: str) -> None:
    """Store one of VIEWS in the model's config, which is saved with it."""
    model.config.test_time_augmentation = kind


def which_views(model: PreTrainedModel) -> str:
    """Return the model's VIEWS; "none" for models that were not trained with ham_hf.

    Raises:
        InputError: the config asks for something else.
    """
    kind = model.config.to_dict().get("test_time_augmentation", "none")
    if kind not in list(VIEWS):  # it may be no string at all
        raise InputError(f"config.json has test_time_augmentation {kind!r}: expected one of {', '.join(VIEWS)}")
    return kind


@torch.no_grad()  # not inference_mode: BEiT keeps tensors of a pass, and a later training in this process would fail
def view_logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's logits (B, views, C) in float64, on the CPU.

    `inputs` are on the model's device, their `pixel_values` are (B, 3, H, W) with H = W. They leave the device in the
    model's own precision: Apple GPUs have no float64.
    """
    views = VIEWS[which_views(model)](inputs["pixel_values"])
    return torch.stack([model(**(inputs | {"pixel_values": view})).logits for view in views], dim=1).cpu().double()


def flipped_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the images (B, 3, S, S) and their three flips."""
    yield pixels
    for dims in ((2,), (3,), (2, 3)):
        yield pixels.flip(dims)


def dihedral_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the eight symmetries of square images: themselves, their flips, and the transposes of all these."""
    yield from flipped_views(pixels)
    yield from flipped_views(pixels.transpose(2, 3))


def cropped_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the images, then nine crops of CROP of their side, row by row, resized to the full size."""
    yield pixels
    size = pixels.shape[-1]
    side = round(CROP * size)
    starts = (0, (size - side) // 2, size - side)
    for top in starts:
        for left in starts:
            yield _enlarged(pixels[:, :, top : top + side, left : left + side], size)


def scaled_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the flips of the center crop at each of SCALES."""
    size = pixels.shape[-1]
    for scale in SCALES:
        side = round(scale * size)
        start = (size - side) // 2
        yield from flipped_views(_enlarged(pixels[:, :, start : start + side, start : start + side], size))


def _enlarged(pixels: torch.Tensor, size: int) -> torch.Tensor:
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


# Views are generated lazily
VIEWS = {
    "none": lambda pixels: iter([pixels]),
    "flips": flipped_views,
    "dihedral": dihedral_views,
    "crops": cropped_views,
    "scales": scaled_views,
}
