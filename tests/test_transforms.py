"""What the model sees: seeded and random in training, the saved processor's crop everywhere else."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import BitImageProcessor

from ham_hf.recipe import ImageArguments
from ham_hf.transforms import Collator, EvalTransform, TrainTransform

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def picture(seed=0, size=(600, 450)):
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def processor(**values):
    settings = {
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "resample": 2,
        "image_mean": MEAN,
        "image_std": STD,
    }
    return BitImageProcessor(**(settings | values))


def batch(*ids):
    return {"image": [picture()] * len(ids), "image_id": list(ids), "label": [3] * len(ids)}


def train(**values):
    return TrainTransform(ImageArguments(**values), processor(), seed=0)


def test_evaluation_is_torchvision_s_resize_and_centre_crop_within_a_grey_level():
    pixels = EvalTransform(processor())(batch("a"))["pixel_values"][0]
    reference = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(picture())
    ours = (pixels * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    assert pixels.shape == (3, 224, 224)
    assert (ours - reference).abs().max() <= 1.001


def test_the_aspect_ratio_is_kept():
    wide = Image.new("RGB", (600, 450))
    wide.paste((255, 255, 255), (200, 125, 400, 325))  # a square in the middle
    pixels = processor(do_normalize=False)(wide, return_tensors="pt")["pixel_values"][0, 0] > 0.5
    assert abs(int(pixels.any(0).sum()) - int(pixels.any(1).sum())) <= 1


def test_an_image_looks_the_same_for_the_same_seed_epoch_and_id_whatever_stands_beside_it():
    transform = train()
    alone = transform(batch("b"))["pixel_values"][0]
    beside = transform(batch("a", "b"))["pixel_values"]
    torch.testing.assert_close(beside[1], alone, rtol=0, atol=0)
    assert not torch.equal(beside[0], beside[1])


def test_an_image_looks_different_in_the_next_epoch():
    transform = train()
    first = transform(batch("a"))["pixel_values"]
    transform.set_epoch(1)
    assert not torch.equal(transform(batch("a"))["pixel_values"], first)


def test_augmentation_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train()(batch("a"))
    torch.testing.assert_close(torch.rand(3), expected)


def test_training_pixels_are_normalised_as_the_processor_says():
    whole = train(crop_scale=[1.0, 1.0], horizontal_flip=False, vertical_flip=False)
    white = {"image": [Image.new("RGB", (600, 450), "white")], "image_id": ["a"], "label": [0]}
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(whole(white)["pixel_values"][0, :, 100, 100], expected)


def test_without_normalisation_pixels_stay_between_0_and_1():
    pixels = TrainTransform(ImageArguments(), processor(do_normalize=False), seed=0)(batch("a"))["pixel_values"]
    assert 0 <= pixels.min() and 0.5 < pixels.max() <= 1


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_each_flip_can_be_switched_off_by_itself(axis):
    """With one flip left, every crop is the plain one or its mirror image along that axis."""
    other = "vertical" if axis == "horizontal" else "horizontal"
    plain, flipped = (
        TrainTransform(
            ImageArguments(crop_scale=[0.9, 0.9], **{f"{axis}_flip": flip, f"{other}_flip": False}),
            processor(),
            seed=0,
        )
        for flip in (False, True)
    )
    ids = [f"i{n}" for n in range(24)]
    before, after = plain(batch(*ids))["pixel_values"], flipped(batch(*ids))["pixel_values"]
    mirrored = before.flip(-1 if axis == "horizontal" else -2)
    same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    mirror = [torch.equal(a, b) for a, b in zip(after, mirrored, strict=True)]
    assert all(s or m for s, m in zip(same, mirror, strict=True))
    assert 4 <= sum(mirror) <= 20


def test_batches_are_stacked_in_the_asked_memory_format():
    rows = [{"pixel_values": torch.rand(3, 8, 8), "labels": label} for label in (1, 2)]
    collated = Collator(channels_last=True)(rows)
    assert collated["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert collated["labels"].tolist() == [1, 2]
