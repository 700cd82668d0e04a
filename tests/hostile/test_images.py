"""Broken and hostile images: users' photographs, and the images of a data folder."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import BitImageProcessor

from ham_hf.data.file_formats import register_heic
from ham_hf.data.image_hashes import _check
from ham_hf.data.image_io import find_photos, read_cell, read_image, read_photo
from ham_hf.system.errors import InputError
from tests.helpers.small_data import load, make_rows, write_folder
from tests.hostile.cases import broken, cases, ends_well, or_refused, within

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, about files that it reads all the same
PROCESSOR = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
EXIF = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
register_heic()
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "1", "LA", "I;16"),
    "TIFF": ("RGB", "CMYK", "LAB", "I;16", "1", "YCbCr", "F", "I"),
    "BMP": ("RGB", "1", "P"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "JPEG2000": ("RGB", "L", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "HEIF": ("RGB", "L", "RGBA"),
}


def encoded(kind: str, mode: str) -> bytes:
    """A small image with EXIF that turns it; a GIF moves."""
    blobs = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(blobs).resize((40, 30))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif.tobytes() if kind == "HEIF" else exif} if kind in EXIF else {}
    if kind == "GIF":
        options = {"save_all": True, "append_images": [image.rotate(90)]}
    if kind == "TIFF" and mode in ("RGB", "L"):
        options["compression"] = "tiff_lzw"
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {(kind, mode): encoded(kind, mode) for kind, modes in MODES.items() for mode in modes}


def for_training(data: bytes) -> Image.Image:
    """As the images of a data folder are checked, then decoded."""
    check = _check({"bytes": data, "path": None}, {})
    if check.error is not None:
        raise InputError(check.error)
    return read_cell({"bytes": data, "path": None})


def check_case(kind: str, data: bytes, path) -> None:
    """Photograph, quick look and training image: the same verdict, the same pixels, and fit for a model."""
    path.write_bytes(data)
    photo = ends_well(kind, lambda: read_photo(path))
    quick = or_refused(lambda: read_photo(path, preview=True))
    trained = or_refused(lambda: for_training(data))
    assert (photo is None) == (trained is None)
    if photo is not None:
        assert photo.mode == trained.mode == "RGB" and min(photo.size) > 0
        np.testing.assert_array_equal(np.asarray(photo), np.asarray(trained))
        assert PROCESSOR(photo, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
    if quick is not None:
        assert quick.mode == "RGB"


@cases(250)
@given(data=st.sampled_from(list(FILES.values())).flatmap(broken))
def test_a_broken_image_is_read_or_refused(tmp_path_factory, data):
    check_case("images, broken anywhere", data, tmp_path_factory.getbasetemp() / "image.jpg")


@cases(250)
@given(data=st.sampled_from(list(FILES.values())).flatmap(lambda data: broken(data, head=80)))
def test_an_image_with_a_broken_header_is_read_or_refused(tmp_path_factory, data):
    check_case("images, broken in their header", data, tmp_path_factory.getbasetemp() / "image.jpg")


@cases(60)
@given(data=st.binary(max_size=300) | st.sampled_from(list(FILES.values())).map(lambda data: data[:12] + data[40:]))
def test_bytes_that_are_no_image_are_refused(tmp_path_factory, data):
    check_case("images, arbitrary bytes", data, tmp_path_factory.getbasetemp() / "image.jpg")


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "P"), ("TIFF", "RGB")])
def test_an_image_that_is_cut_off_anywhere_is_read_or_refused(kind, mode, tmp_path):
    whole, path = FILES[kind, mode], tmp_path / "image.jpg"
    read = 0
    for length in range(0, len(whole), 1 + len(whole) // 400):
        path.write_bytes(whole[:length])
        photo = ends_well("images, cut off", lambda: read_photo(path))
        assert (photo is None) == (_check({"bytes": whole[:length], "path": None}, {}).error is not None)
        read += photo is not None
    assert read < 20  # what can be done without: the last marker, say


@pytest.mark.parametrize(("kind", "mode"), FILES)
def test_training_and_prediction_see_the_same_pixels_in_every_mode(kind, mode, tmp_path):
    check_case("images, every mode", FILES[kind, mode], tmp_path / "image.png")


def png(width: int, height: int) -> bytes:
    """A black image of one bit a pixel: a small file, however large the image."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes((width // 8 + 2) * min(height, 12_000)), 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_size(data: bytes, at: int, layout: str, *size: int) -> bytes:
    return data[:at] + struct.pack(layout, *size) + data[at + struct.calcsize(layout) :]


def bombs() -> dict[str, bytes]:
    jpeg, avif, heic = FILES["JPEG", "RGB"], FILES["AVIF", "RGB"], io.BytesIO()
    Image.new("L", (64, 64)).save(heic, "HEIF")  # which needs no crop to its size
    heic = heic.getvalue()
    return {
        "12000x9000.avif": with_size(avif, avif.index(b"ispe") + 8, ">II", 12_000, 9_000),
        "12000x9000.heic": with_size(heic, heic.index(b"ispe") + 8, ">II", 12_000, 9_000),
        "30000x30000.png": png(30_000, 30_000),
        "12000x12000.png": png(12_000, 12_000),  # up to twice the limit, Pillow only warns
        "65500x65500.jpg": with_size(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", 65_500, 65_500),
        "65535x65535.gif": with_size(FILES["GIF", "P"], 6, "<HH", 65_535, 65_535),
        "huge.bmp": with_size(FILES["BMP", "RGB"], 18, "<ii", 40_000, 40_000),
    }


@pytest.mark.parametrize(("name", "data"), bombs().items(), ids=bombs())
def test_a_decompression_bomb_is_refused_before_it_is_decoded(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with within(60), pytest.raises(InputError, match=f"{name}: too many pixels .*: crop it around the lesion"):
        read_photo(tmp_path / name)
    assert "too many pixels" in _check({"bytes": data, "path": None}, {}).error


def test_images_of_no_or_one_pixel_and_strips():
    def file(size: tuple[int, int]) -> bytes:
        data = io.BytesIO()
        Image.new("RGB", size).save(data, "PNG")
        return data.getvalue()

    assert read_image(file((1, 1))).size == (1, 1)
    assert PROCESSOR(read_image(file((1, 20))), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match="1 x 21 pixels, a strip"):
        read_image(file((1, 21)))
    for width, height in ((0, 5), (5, 0), (0, 0)):
        for data in (with_size(FILES["BMP", "RGB"], 18, "<ii", width, height), png(width, height)):
            with pytest.raises(InputError):
                read_image(data)


def test_links_are_followed_and_other_special_files_are_not_images(tmp_path):
    folder = write_folder(tmp_path / "data", make_rows(7, 1))
    elsewhere = tmp_path / "elsewhere.jpg"
    first, second, third, fourth = sorted((folder / "images").iterdir())[:4]
    first.rename(elsewhere)
    first.symlink_to(elsewhere)
    assert sum(map(len, load(folder)[0].values())) == 7
    second.unlink()
    second.symlink_to(tmp_path / "gone.jpg")
    third.unlink()
    third.symlink_to(third)  # to itself
    fourth.unlink()
    os.mkfifo(fourth)  # to read it would never end
    with within(60), pytest.raises(InputError, match="3 of 7 images are missing"):
        load(folder)
    photos, _ = find_photos([folder / "images"])
    assert sorted(photos) == sorted(path for path in (folder / "images").iterdir() if path.is_file())
    for path in (second, third, fourth):
        with within(60), pytest.raises(InputError):
            read_photo(path)
