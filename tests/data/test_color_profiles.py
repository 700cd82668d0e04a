"""Color profiles: the same lesion in another encoding of its colors gets the same pixels."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image, ImageCms
from transformers import BitImageProcessor

from ham_hf.config.arguments import ImageArguments
from ham_hf.data.image_hashes import check_images, hash_pixels
from ham_hf.data.image_io import read_image, upright_rgb
from ham_hf.data.pixel_cache import build_cache
from ham_hf.data.sources.synthetic import LOOKS, draw_image
from ham_hf.inference.batches import image_reader, prepared_batches
from ham_hf.system.errors import InputError
from ham_hf.training.transforms import EvalTransform, TrainTransform
from tests.helpers.icc import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, gamma, gray_profile, rgb_profile, srgb_curve
from tests.helpers.small_data import load, make_rows, write_folder

P3 = rgb_profile(DISPLAY_P3, srgb_curve, "Display P3")
ADOBE = rgb_profile(ADOBE_RGB, gamma(2.19921875), "Adobe RGB (1998)")


def lesion() -> Image.Image:
    image = draw_image(LOOKS["vasc"], np.random.default_rng(0), np.random.default_rng(1))
    return image.resize((96, 72))


def encoded(image: Image.Image, profile: bytes | None = None, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, icc_profile=profile, **options)
    return file.getvalue()


def in_space(image: Image.Image, primaries: tuple, power: float | None) -> Image.Image:
    """sRGB → another RGB space, computed here by its definition."""
    light = (
        np.linalg.inv(np.array(primaries).T) @ np.array(SRGB).T @ srgb_curve(np.asarray(image).reshape(-1, 3).T / 255)
    )
    light = light.clip(0, 1)
    if power is None:
        values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    else:
        values = light ** (1 / power)
    return Image.fromarray((255 * values.T).round().astype(np.uint8).reshape(*image.size[::-1], 3))


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.parametrize(
    ("profile", "primaries", "power"), [(P3, DISPLAY_P3, None), (ADOBE, ADOBE_RGB, 2.19921875)], ids=["p3", "adobe"]
)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_wide_color_spaces_are_converted_to_srgb(profile, primaries, power, kind, options):
    image = lesion()
    wide = in_space(image, primaries, power)
    assert difference(wide, image) > 8  # what ignoring the profile gets wrong
    read = read_image(encoded(wide, profile, kind, **options))
    assert read.mode == "RGB" and difference(read, image) <= 4
    assert "icc_profile" not in read.info and upright_rgb(read).tobytes() == read.tobytes()  # not converted twice


SRGB_PROFILES = {
    "untagged": None,
    "lcms": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "table": rgb_profile(SRGB, srgb_curve, "sRGB IEC61966-2.1"),
    "by another name": rgb_profile(SRGB, srgb_curve, "c2"),
    "of other channels": gray_profile(gamma(1.0)),  # Pillow keeps a gray image's in what it converts to RGB
    "of ink": cmyk_profile(),
}


# "of other channels" is a profile of gray, and so the right one for a gray image
MODES = [(mode, name) for mode in ("RGB", "L", "P", "RGBA") for name in SRGB_PROFILES]
MODES.remove(("L", "of other channels"))


@pytest.mark.parametrize(("mode", "name"), MODES)
def test_images_without_a_profile_or_with_srgb_keep_every_byte(mode, name):
    profile = SRGB_PROFILES[name]
    image = lesion().convert(mode)
    assert read_image(encoded(image, profile)).tobytes() == read_image(encoded(image)).tobytes()


def test_the_name_of_a_profile_does_not_make_it_srgb():
    image = lesion()
    named = rgb_profile(DISPLAY_P3, srgb_curve, "sRGB IEC61966-2.1")
    assert difference(read_image(encoded(image, named)), image) > 8


def test_profiles_of_gray_cmyk_transparent_palette_and_16_bit_images():
    gray = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(20, 0))
    expected = 255 * (1.055 * (np.arange(256) / 255) ** (1.8 / 2.4) - 0.055).clip(0)
    read = np.asarray(read_image(encoded(gray, gray_profile(gamma(1.8)))))
    assert np.abs(read[0, 40:, 0] - expected[40:]).max() <= 2 and (read[..., 0] == read[..., 2]).all()
    assert difference(read_image(encoded(gray, P3)), gray.convert("RGB")) <= 2  # its grays are those of sRGB
    wide = Image.fromarray(np.arange(0, 65536, 257).astype(np.uint16)[None].repeat(20, 0))
    assert difference(read_image(encoded(wide, gray_profile(gamma(1.8)))), Image.fromarray(read)) == 0

    ink = read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 0, 0)), cmyk_profile(), "TIFF")).getpixel((0, 0))
    assert np.abs(np.array(ink) - (235, 63, 133)).max() <= 4  # L* 55, a* 70, b* 0
    paper = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert read_image(encoded(paper, cmyk_profile(), "TIFF")).getpixel((0, 0)) == (255, 255, 255)

    red = (200, 40, 40)
    converted = read_image(encoded(Image.new("RGB", (8, 8), red), P3)).getpixel((0, 0))
    assert converted[0] - red[0] >= 8
    assert read_image(encoded(Image.new("RGBA", (8, 8), (*red, 255)), P3)).getpixel((0, 0)) == converted
    assert read_image(encoded(Image.new("RGBA", (8, 8), (*red, 0)), P3)).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(encoded(Image.new("RGB", (8, 8), red).quantize(), P3)).getpixel((0, 0)) == converted


@pytest.mark.parametrize(
    ("profile", "reason"),
    {
        "no profile": (b"not a profile at all", "its color profile is damaged"),
        "cut off": (P3[:200], "its color profile"),
        "no curves": (P3.replace(b"TRC", b"xxx"), "its color profile cannot be used"),
        "a link": (P3.replace(b"mntr", b"link"), "of the class 'link'"),
        "black": (rgb_profile(((0, 0, 0),) * 3, srgb_curve), "it makes white .0, 0, 0. and"),
        "inverted": (rgb_profile(SRGB, lambda x: 1 - x), "it makes white .0, 0, 0. and black .255, 255, 255."),
    }.values(),
)
def test_a_damaged_profile_is_refused_in_one_sentence(profile, reason):
    with pytest.raises(InputError, match=f"{reason}.*convert it to sRGB, or save it again without a profile"):
        read_image(encoded(lesion(), profile))


def test_no_damage_to_a_profile_crashes():
    rng = np.random.default_rng(0)
    read = 0
    for profile in (P3, cmyk_profile()[:3000]):
        for _ in range(150):
            damaged = bytearray(profile)
            for at in rng.integers(0, 400, 3):
                damaged[at] = rng.integers(256)
            try:
                assert read_image(encoded(Image.new("RGB", (8, 8), (90, 80, 70)), bytes(damaged))).mode == "RGB"
                read += 1
            except InputError:
                pass
    assert 0 < read < 300


def test_every_path_to_a_model_converts_colors(tmp_path):
    """The checks, training, evaluation, the pixel cache and predictions read one image: the converted one."""
    folder = write_folder(tmp_path / "data", make_rows(7, 1))
    expected = {}
    for path in sorted((folder / "images").iterdir()):
        image = Image.open(path).convert("RGB")
        path.write_bytes(encoded(image, P3))
        expected[path.stem] = read_image(path.read_bytes())
        assert difference(expected[path.stem], image) > 2
    splits, _ = load(folder)
    split = splits["train"]
    checks = check_images(split)
    ids = split["image_id"][:]
    cache = build_cache(split, checks)
    for image_id in ids:
        assert checks[image_id].pixels_sha256 == hash_pixels(expected[image_id])
        np.testing.assert_array_equal(cache[checks[image_id].sha256], np.asarray(expected[image_id]))
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    wanted = processor([expected[image_id] for image_id in ids], return_tensors="pt")["pixel_values"]
    batches = prepared_batches(processor, range(len(split)), image_reader(split))
    np.testing.assert_array_equal(np.concatenate([batch["pixel_values"] for batch in batches]), wanted)
    rows = split.cast_column("image", datasets.Image(decode=False))[:]
    np.testing.assert_array_equal(EvalTransform(processor)(rows)["pixel_values"], wanted)
    crops = TrainTransform(ImageArguments(image_size=32), processor, 0)(rows)["pixel_values"]
    unmanaged = [
        {"bytes": encoded(Image.open(folder / "images" / f"{image_id}.jpg").convert("RGB")), "path": None}
        for image_id in ids
    ]
    converted = [{"bytes": encoded(expected[image_id]), "path": None} for image_id in ids]
    same = TrainTransform(ImageArguments(image_size=32), processor, 0)(rows | {"image": converted})["pixel_values"]
    other = TrainTransform(ImageArguments(image_size=32), processor, 0)(rows | {"image": unmanaged})["pixel_values"]
    assert all((one == two).all() for one, two in zip(crops, same, strict=True))
    assert any((one != two).any() for one, two in zip(crops, other, strict=True))
