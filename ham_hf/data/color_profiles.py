"""Convert images to sRGB by the ICC profile that is embedded in them.

The same RGB values are another color in Display P3 or Adobe RGB than in sRGB, which models are trained on.
"""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from ham_hf.system.errors import InputError

# Colors inside sRGB stay as they were measured, which the perceptual intent of a print profile would change too
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
# A print profile's black would otherwise become dark gray
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
SRGB_LEVELS = 2  # profiles that are sRGB differ by up to this, since their curves are tables
SAVE_AGAIN = "convert it to sRGB, or save it again without a profile"

_GRAY_MODES = ("1", "L", "LA", "La")
_DEVICE_CLASSES = ("scnr", "mntr", "prtr", "spac")  # of profiles that describe an image; not of links between two


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of 8 bits a channel in sRGB: RGB, or RGBA if it has transparency.

    The image itself is returned if the profile is sRGB, or if it is for other channels than the image has (such as a
    CMYK profile that a converter left in an RGB image), which says nothing about its colors.

    Raises:
        InputError: the profile is damaged.
    """
    if image.mode == "LAB":  # needs no profile to be a color
        return image
    match image.mode, _color_space(profile):
        case "CMYK", "CMYK":
            mode = "CMYK"
        case gray, "GRAY" if gray in _GRAY_MODES:
            mode = "L"
        case other, "RGB " if other != "CMYK":
            mode = "RGB"
        case _:
            return image
    transform = _transform(profile, mode)
    if transform is None:
        return image
    converted = transform.apply(image if image.mode == mode else image.convert(mode))
    converted.info.pop("icc_profile", None)  # sRGB's
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


@lru_cache(maxsize=16)
def _color_space(profile: bytes) -> str:
    try:
        core = ImageCms.ImageCmsProfile(BytesIO(profile)).profile
        if core.device_class in _DEVICE_CLASSES:
            return core.xcolor_space
    except (OSError, ValueError) as error:
        raise InputError(f"its color profile is damaged ({error}): {SAVE_AGAIN}") from error
    raise InputError(f"its color profile is of the class {core.device_class!r}, not of an image: {SAVE_AGAIN}")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from `mode` to RGB, or None if the profile is sRGB. Threads may share it."""
    try:
        transform = ImageCms.buildTransform(
            BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB", INTENT, FLAGS
        )
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        raise InputError(f"its color profile cannot be used ({error}): {SAVE_AGAIN}") from error
    white, black = (np.asarray(transform.apply(_one_pixel(mode, is_white))) for is_white in (True, False))
    if white.min() < 200 or black.max() > 100:
        raise InputError(
            f"its color profile is damaged (it makes white {white.ravel().tolist()} and black "
            f"{black.ravel().tolist()} in RGB): {SAVE_AGAIN}"
        )
    if mode == "CMYK":
        return transform
    probe = _probe().convert(mode)
    moved = np.abs(np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB")))
    return None if moved.max() <= SRGB_LEVELS else transform


def _one_pixel(mode: str, is_white: bool) -> Image.Image:
    value = 255 * (is_white != (mode == "CMYK"))  # CMYK is ink
    return Image.new(mode, (1, 1), value if mode == "L" else (value,) * len(mode))


def _probe() -> Image.Image:
    """Return every gray and a grid of colors, which sRGB's own profile must not change."""
    grays = np.repeat(np.arange(256), 3).reshape(-1, 3)
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(-1, 3)  # 18 ** 3 colors
    return Image.fromarray(np.concatenate([grays, grid]).astype(np.uint8)[None])
