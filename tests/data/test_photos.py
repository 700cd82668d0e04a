"""Photographs in any format and orientation become upright RGB; broken ones are named together."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from ham_hf.data.image_io import check_photos, find_photos, read_photo, upright_rgb
from ham_hf.system.errors import InputError
from tests.helpers.small_data import noise


def gradient(width: int = 90, height: int = 60) -> Image.Image:
    """Smooth, so that JPEG keeps it: red grows to the right, green downwards."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 40)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_rotated_by_their_exif_tag(orientation, tmp_path):
    # By the camera's turn, which the reader undoes, in the order of the tag's values from 2
    names = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_90 TRANSVERSE ROTATE_270".split()
    stored = gradient()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[names[orientation - 2]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.size == (90, 60)
    assert np.abs(np.asarray(photo, dtype=int) - np.asarray(gradient(), dtype=int)).max() < 20


def test_every_pixel_format_becomes_rgb(tmp_path):
    color = gradient()
    gray = color.convert("L")
    sixteen_bits = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    shown = {
        "rgb.png": (color, color),
        "gray.jpg": (gray, gray.convert("RGB")),
        "sixteen.png": (sixteen_bits, gray.convert("RGB")),
        "sixteen.tif": (sixteen_bits, gray.convert("RGB")),
        "cmyk.jpg": (color.convert("CMYK"), color),
        "palette.gif": (color.convert("P"), color.convert("P").convert("RGB")),
        "phone.mpo": (color, color),
        "bits.png": (color.convert("1"), color.convert("1").convert("RGB")),
        "opaque.webp": (color.convert("RGBA"), color),
    }
    for name, (stored, expected) in shown.items():
        stored.save(tmp_path / name, quality=98)
        photo = read_photo(tmp_path / name)
        assert photo.mode == "RGB", name
        difference = np.abs(np.asarray(photo, dtype=int) - np.asarray(expected, dtype=int)).mean()
        assert difference < 3, name


def test_transparent_pixels_become_white():
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert upright_rgb(red).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 1)
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=0)
    photo = upright_rgb(Image.open(stream))
    assert photo.getpixel((1, 1)) == (255, 255, 255) and photo.getpixel((0, 0)) == (0, 0, 255)


def test_pixels_of_unknown_range_are_refused():
    with pytest.raises(InputError, match="32 bits per pixel"):
        upright_rgb(Image.new("F", (4, 4)))


def test_folders_are_searched_in_order_and_other_files_are_counted(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/._z.png", ".hidden/x.jpg", "notes.txt", "a/scan.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise().save(tmp_path / name, "PNG")
    photos, others = find_photos([tmp_path, tmp_path / "notes.txt"])
    assert photos == [tmp_path / "a" / "z.png", tmp_path / "b.JPG", tmp_path / "notes.txt"]
    assert others == {".dcm": 1, ".txt": 1}


def test_all_broken_photographs_are_named_together(tmp_path, monkeypatch):
    noise().save(tmp_path / "good.jpg")
    noise(300, 200).save(tmp_path / "cut.jpg")
    os.truncate(tmp_path / "cut.jpg", 10_000)
    noise(300, 200).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 10_000)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    noise(1, 500).save(tmp_path / "strip.png")
    noise(500, 400).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000)  # refused above twice this; the real limit needs gigabytes
    with pytest.raises(InputError) as error:
        check_photos(sorted(tmp_path.iterdir()))
    message = str(error.value)
    assert message.startswith("6 of 7 files cannot be used: fix or remove them")
    assert "good.jpg" not in message
    for reason in (
        "cut.jpg: image file is truncated",
        "cut.png: ",
        "empty.jpg: the file is empty",
        "text.jpg: not an image in a supported format",
        "strip.png: 1 x 500 pixels, a strip: crop it",
        "huge.png: too many pixels",
    ):
        assert reason in message


def test_postscript_is_never_interpreted(tmp_path):
    noise().save(tmp_path / "photo.eps")
    (tmp_path / "photo.eps").rename(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match="not an image in a supported format"):
        read_photo(tmp_path / "photo.jpg")
