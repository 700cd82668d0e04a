"""Cached evaluation crops: bit for bit what the processor gives."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, ViTImageProcessor

from ham_hf.data.crops import eval_crops, normalize
from ham_hf.data.image_hashes import check_images
from ham_hf.data.pixel_cache import PixelCache
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor

pytestmark = pytest.mark.usefixtures("own_cache")


def processor(**values):
    settings = {
        "size": {"shortest_edge": 50},
        "crop_size": {"height": 44, "width": 44},
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
    }
    return BitImageProcessor(**(settings | values))


def finished(dataset, checks, processor):
    crops = eval_crops(dataset, checks, processor)
    shas = [checks[image_id].sha256 for image_id in dataset["image_id"]]
    pixels = torch.from_numpy(np.stack([crops[sha256] for sha256 in shas])).permute(0, 3, 1, 2)
    finished = normalize(processor, pixels)
    assert torch.equal(normalize(processor, pixels.contiguous()), finished)  # in the other memory format
    return finished


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"resample": 3},
        {"crop_size": {"height": 70, "width": 30}},  # taller than the resized image: padded
        {"image_mean": [62.4, 47.2, 34.1], "image_std": [10.2, 15.9, 22.9]},
    ],
)
def test_cached_crops_equal_the_processors_output(dataset, tmp_path, values):
    Image.open(tmp_path / "images" / "i03.jpg").resize((33, 90)).save(tmp_path / "images" / "i03.jpg")
    checks = check_images(dataset)
    prepare = processor(**values)
    images = [row["image"].convert("RGB") for row in dataset]
    pixels = finished(dataset, checks, prepare)
    assert torch.equal(pixels, prepare(images, return_tensors="pt")["pixel_values"])
    assert torch.equal(pixels[:1], prepare(images[0], return_tensors="pt")["pixel_values"])


def test_cached_crops_of_real_images_equal_the_processors_output(dataset_of, ham10000_dir):
    real = dataset_of(sorted((ham10000_dir / "HAM10000_images_part_1").glob("*.jpg"))[:16])
    checks = check_images(real)
    prepare = processor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    images = [row["image"].convert("RGB") for row in real]
    assert torch.equal(finished(real, checks, prepare), prepare(images, return_tensors="pt")["pixel_values"])


def test_crops_are_cached_by_size_and_not_by_normalization(dataset):
    checks = check_images(dataset)
    crops = eval_crops(dataset, checks, processor())
    assert crops[checks["i00"].sha256].shape == (44, 44, 3)
    assert eval_crops(dataset, checks, processor(do_normalize=False)).path == crops.path
    assert eval_crops(dataset, checks, processor(size={"shortest_edge": 51})).path != crops.path
    assert PixelCache.open([checks["i00"].sha256]) is None  # crops are no decoded images


def test_other_processors_have_no_cached_crops(dataset):
    checks = check_images(dataset)
    for other in (
        processor(do_resize=False),
        processor(do_center_crop=False),
        ViTImageProcessor(),
        PatientProcessor(processor()),
    ):
        assert eval_crops(dataset, checks, other) is None
