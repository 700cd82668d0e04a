"""Files that are no JPEG: images that are read all the same, and others, each called what it is."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ham_hf.cli.main import main
from ham_hf.data import file_formats
from ham_hf.data.file_formats import UNREADABLE_SUFFIXES
from ham_hf.data.image_hashes import check_images
from ham_hf.data.image_io import SUFFIXES, find_photos, read_image, read_photo
from ham_hf.system.errors import InputError
from tests.helpers.small_data import load, make_rows, write_folder

file_formats.register_heic()
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60))
WRITERS = {".tif": "TIFF", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".jp2": "JPEG2000", ".avif": "AVIF"} | {
    ".heic": "HEIF",
    ".png": "PNG",
}


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    IMAGE.save(file, kind, **options)
    return file.getvalue()


def isomedia(brand: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body + bytes(100)


def raw_tiff() -> bytes:
    """As DNG, NEF and ARW begin: a thumbnail, behind which the sensor's data lie."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    return encoded("TIFF", tiffinfo=tags)


@pytest.mark.parametrize(("suffix", "kind"), WRITERS.items())
def test_a_training_folder_may_hold_every_format_that_a_photograph_may_have(suffix, kind, tmp_path):
    folder = write_folder(tmp_path, make_rows(7, 1))
    for path in sorted((folder / "images").iterdir()):
        image = Image.open(path).convert("RGB")
        with path.open("wb") as file:
            image.save(file, kind)
        path.rename(path.with_suffix(suffix.upper() if suffix == ".tif" else suffix))
    splits, _ = load(folder, split="all")
    test = splits["test"]
    assert len(test) == 7 and all(check.error is None for check in check_images(test).values())
    photos, others = find_photos([folder / "images"])
    assert len(photos) == 7 and not others
    assert read_photo(photos[0]).size == (80, 60)


NAMED = {
    "DICOM": (bytes(128) + b"DICM" + bytes(100), "a DICOM file.*export it as JPEG, PNG or TIFF"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "PDF": (b"%PDF-1.7\n", "a PDF"),
    "MOV": (isomedia(b"qt  "), "a video"),
    "old MOV": (struct.pack(">I", 8) + b"wide" + bytes(8) + b"mdat", "a video"),
    "MP4": (isomedia(b"isom", b"mp41"), "a video"),
    "CR3": (isomedia(b"crx ", b"crx ", b"isom"), "a camera's raw file"),
    "CR2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "a camera's raw file"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
    "DNG": (raw_tiff(), "a camera's raw file, and only its thumbnail"),
    "PSD": (b"8BPS\0\1" + bytes(20), "a Photoshop file"),
    "JPEG XL": (b"\xff\x0a" + bytes(20), "a JPEG XL file"),
    "web page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "a web page"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer.*git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(30), "a zip archive"),
    "header of a GIF": (b"GIF89a", "not an image in a supported format|truncated"),
    "header of a JPEG": (b"\xff\xd8\xff\xe1\xff\xff", "Truncated"),
    "broken HEIC": (isomedia(b"heic", b"mif1"), "not an image in a supported format|"),
}


@pytest.mark.parametrize(("data", "expected"), NAMED.values(), ids=NAMED)
def test_unsupported_files_are_called_what_they_are(data, expected):
    with pytest.raises(InputError, match=expected):
        read_image(data)


def test_heic_requires_a_package_and_avif_does_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    file_formats.register_heic.cache_clear()
    with pytest.raises(
        InputError, match=r'a HEIC file \(export it as JPEG.*requires pillow-heif.*pip install -e "\.\[heic\]"'
    ):
        read_image(encoded("HEIF"))
    assert read_image(encoded("AVIF")).size == (80, 60)
    monkeypatch.undo()
    assert read_image(encoded("HEIF")).size == (80, 60)


def test_images_of_a_folder_that_cannot_be_read_are_named_and_not_missing(tmp_path):
    folder = write_folder(tmp_path, make_rows(7, 1))
    images = sorted((folder / "images").iterdir())
    images[0].with_suffix(".dcm").write_bytes(NAMED["DICOM"][0])
    images[1].with_suffix(".mov").write_bytes(NAMED["MOV"][0])  # of a live photo, beside its image
    images[0].unlink()
    with pytest.raises(InputError, match=f"1 of 7 images in .* are broken: {images[0].stem}: a DICOM file"):
        load(folder, split="all")


def test_other_files_in_a_folder_of_photographs_are_counted_and_named(tmp_path, capsys):
    for name in ("a.dcm", "b.DCM", "notes.txt", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "photo.heic").write_bytes(encoded("HEIF"))
    photos, others = find_photos([tmp_path])
    assert [photo.name for photo in photos] == ["photo.heic"] and others == {".dcm": 2, ".txt": 1, "": 1}
    (tmp_path / "photo.heic").unlink()
    assert main(["predict", "no/model", str(tmp_path)]) == 2
    assert "(only 1 without a suffix, 2 .dcm, 1 .txt)" in capsys.readouterr().err


def test_no_suffix_is_on_both_lists():
    assert not set(SUFFIXES) & set(UNREADABLE_SUFFIXES)
