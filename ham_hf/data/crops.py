"""Keep the evaluation crops of a processor on disk as uint8, and normalize them per batch.

crops = eval_crops(splits["validation"], checks, processor)
pixels = torch.from_numpy(np.stack([crops[sha256] for sha256 in batch])).permute(0, 3, 1, 2)
pixel_values = normalize(processor, pixels)
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

import datasets
import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, BitImageProcessor

from ham_hf.data.image_hashes import ImageCheck
from ham_hf.data.pixel_cache import PIXELS, EncodedImages, PixelCache, open_or_build

_FINISH = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")  # irrelevant for the crop


def eval_crops(
    dataset: datasets.Dataset, checks: Mapping[str, ImageCheck], processor: BaseImageProcessor
) -> PixelCache | None:
    """Return a cache of every image's crop (crop height, crop width, 3) in uint8, building it if necessary.

    The result is None unless the processor is a BitImageProcessor (which `ham-hf train` saves) that resizes and crops,
    because others do not crop to uint8. `dataset` and `checks` are those of `build_cache`.

    Raises:
        InputError: see `build_cache`.
    """
    # Not a subclass, which may do anything after the crop
    if type(processor) is not BitImageProcessor or not (processor.do_resize and processor.do_center_crop):
        return None
    settings = {name: value for name, value in json.loads(processor.to_json_string()).items() if name not in _FINISH}
    height, width = settings["crop_size"]["height"], settings["crop_size"]["width"]
    kind = PIXELS | {
        "what": f"crops {height} x {width}",
        # Without AVX2, torchvision resizes in float, which rounds differently
        "versions": PIXELS["versions"] | {name: version(name) for name in ("torch", "torchvision", "transformers")},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": settings,
    }

    def crop(image: PIL.Image.Image) -> np.ndarray:
        pixels = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
        return pixels.permute(1, 2, 0).numpy()  # (H, W, 3)

    return open_or_build(kind, EncodedImages(dataset, checks), lambda data: (height, width), crop, "Caching crops")


def normalize(processor: BitImageProcessor, pixels: torch.Tensor) -> torch.Tensor:
    """Normalize crops (N, 3, H, W) from 0 to 255, bit for bit as the processor does.

    Crops that are float already are changed in place.
    """
    pixels = pixels.float()
    if not processor.do_normalize:
        return pixels * processor.rescale_factor if processor.do_rescale else pixels
    scale = 1.0 / processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (_channels(tuple(of), scale, pixels.device) for of in (processor.image_mean, processor.image_std))
    if pixels.is_contiguous(memory_format=torch.channels_last):
        # (N, H, 3 W), the same memory: whole rows are eight times as fast as groups of three channels
        rows, width = pixels.permute(0, 2, 3, 1).flatten(2), pixels.shape[3]
        rows.sub_(mean.repeat(width)).div_(std.repeat(width))
        return pixels
    return pixels.sub_(mean[:, None, None]).div_(std[:, None, None])


@cache
def _channels(values: tuple[float, ...], scale: float, device: torch.device) -> torch.Tensor:
    """Return the values (3,) on the device, cached to avoid a synchronization with the GPU in every batch."""
    return torch.tensor(values, device=device) * scale
