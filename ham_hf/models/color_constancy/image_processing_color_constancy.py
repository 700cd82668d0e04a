"""BitImageProcessor after colour constancy: the same lesion looks alike under a warm and a cold lamp."""

import numpy as np
import PIL.Image
from transformers import BitImageProcessor

POWER = 6  # of the mean whose colour counts as the light's; 1 is grey world, infinity the brightest pixel


class ColorConstancyImageProcessor(BitImageProcessor):
    """Takes images of PIL alone, for the whole of an image tells the colour of its light."""

    def process_image(self, image: PIL.Image.Image, *args, **kwargs):
        if not isinstance(image, PIL.Image.Image):
            raise ValueError(f"ColorConstancyImageProcessor got a {type(image).__name__}: expected an image of PIL")
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
