"""Test-time augmentation: the mean answer to several views of an image, as the model's own config asks for it.

A lesion has no upright position: its image flipped or turned (the dihedral group's eight ways) is as good as the one
that was taken. transformers' pipeline knows nothing of it, and looks once.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from transformers import PreTrainedModel

from ham_hf.errors import InputError

VIEWS = {"none": 1, "flips": 4, "dihedral": 8}


def set_test_time_augmentation(model: PreTrainedModel, kind: str) -> None:
    """Keep "flips", "dihedral" or "none" in the model's config, which is saved with it."""
    model.config.test_time_augmentation = kind


def which_views(model: PreTrainedModel) -> str:
    """ "flips", "dihedral" or "none"; the last for models that were not trained here.

    Raises:
        InputError: the config asks for something else.
    """
    kind = model.config.to_dict().get("test_time_augmentation", "none")
    if kind not in list(VIEWS):
        raise InputError(f"config.json has test_time_augmentation {kind!r}: expected one of {', '.join(VIEWS)}")
    return kind


def view_logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's logits (B, views, C) float64 for `inputs`, whose `pixel_values` are (B, 3, H, W), H = W."""
    views = islice(dihedral_views(inputs["pixel_values"]), VIEWS[which_views(model)])
    return torch.stack([model(**(inputs | {"pixel_values": view})).logits.double() for view in views], dim=1)


def dihedral_views(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The eight ways to turn and mirror square images (B, 3, S, S): themselves, their flips, and all these turned.

    Each is made when it is asked for.
    """
    for turned in (pixels, pixels.transpose(2, 3)):
        yield turned
        for dims in ((2,), (3,), (2, 3)):
            yield turned.flip(dims)
