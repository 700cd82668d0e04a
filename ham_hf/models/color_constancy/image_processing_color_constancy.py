"""BitImageProcessor after colour constancy: the same lesion looks alike under a warm and a cold lamp."""

import numpy as np
import PIL.Image
import torch
from transformers import BitImageProcessor

POWER = 6  # of the mean whose colour counts as the light's; 1 is grey world, infinity the brightest pixel


class ColorConstancyImageProcessor(BitImageProcessor):
    """Takes whole images, of PIL or as arrays of bytes: all of an image tells the colour of its light."""

    def process_image(self, image, *args, **kwargs) -> torch.Tensor:
        """Return the image as (3, H, W) bytes with its light's colour made grey."""
        if not isinstance(image, PIL.Image.Image):
            pixels = super().process_image(image, *args, **kwargs)
            if pixels.dtype != torch.uint8 or pixels.shape[0] != 3:
                raise ValueError(
                    f"ColorConstancyImageProcessor got an array of {pixels.dtype} with {pixels.shape[0]} channels: "
                    "expected an image of PIL, or uint8 and 3 channels (RGB)"
                )
            image = PIL.Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
        return super().process_image(shades_of_grey(image), *args, **kwargs)


def shades_of_grey(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in RGB with its light's colour made grey, as bright as before.

    Source: Finlayson and Trezzi, 2004; for skin lesions Barata et al., 2015,
    https://doi.org/10.1109/JBHI.2014.2336473
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    levels = np.arange(256.0)
    counts = np.array(image.histogram()).reshape(3, 256)
    light = ((counts * levels**POWER).sum(1) / counts.sum(1)) ** (1 / POWER)  # of red, green and blue
    gains = light.mean() / np.maximum(light, 1)
    table = np.clip(np.rint(gains[:, None] * levels), 0, 255).astype(np.uint8)
    return image.point(table.ravel().tolist())


ColorConstancyImageProcessor.register_for_auto_class("AutoImageProcessor")
