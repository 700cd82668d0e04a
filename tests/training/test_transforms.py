"""The inputs of the model: seeded random crops in training, the saved processor's crop everywhere else."""

import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import BitImageProcessor

from ham_hf.config.arguments import ImageArguments
from ham_hf.training.transforms import Collator, EvalTransform, FinishBatch, TrainTransform, in_threads, random_crop

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


def encoded(image):
    """As the canonical dataset has it before decoding; PNG keeps every pixel."""
    file = BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def batch(*ids, image=None):
    return {"image": [encoded(image or picture())] * len(ids), "image_id": list(ids), "label": [3] * len(ids)}


def train(**values):
    return TrainTransform(ImageArguments(**values), processor(), seed=0)


def finished(values, images=None, args=None):
    """Return a training batch as the model gets it."""
    collated = Collator(channels_last=False)(
        [{name: value[i] for name, value in values.items()} for i in range(len(values["labels"]))]
    )
    return FinishBatch(images or processor(), args or ImageArguments(), classes=7)(collated)["pixel_values"]


def test_evaluation_is_torchvision_s_resize_and_center_crop_within_a_gray_level():
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


def test_an_image_depends_only_on_seed_epoch_and_id_whatever_else_is_in_the_batch():
    transform, args = train(), ImageArguments(color_jitter=0.2)
    alone = finished(transform(batch("b")), args=args)[0]
    beside = finished(transform(batch("a", "b")), args=args)
    torch.testing.assert_close(beside[1], alone, rtol=0, atol=0)
    assert not torch.equal(beside[0], beside[1])


def test_an_image_with_every_augmentation_depends_only_on_itself():
    settings = {"color_jitter": 0.2, "hue_jitter": 0.1, "rotation": 90, "sharpness_jitter": 1, "random_erasing": 0.5}
    args = ImageArguments(quarter_turns=True, perspective=0.2, auto_augment="randaugment", **settings)
    transform = TrainTransform(args, processor(), seed=0)
    alone = finished(transform(batch("b")), args=args)[0]
    beside = finished(transform(batch("a", "b")), args=args)
    torch.testing.assert_close(beside[1], alone, rtol=0, atol=1e-6)


def test_an_image_looks_different_in_the_next_epoch():
    transform = train()
    first = transform(batch("a"))["pixel_values"][0]
    transform.set_epoch(1)
    assert not torch.equal(transform(batch("a"))["pixel_values"][0], first)


def test_crops_get_the_size_of_the_epoch_and_show_what_they_show_at_another_size():
    scheduled, large = train(train_size={1: 32, 2: 64, 4: 48}), train(train_size=64)
    sizes = []
    for epoch in range(5):
        scheduled.set_epoch(epoch)
        sizes.append({tuple(image.shape) for image in scheduled(batch("a", "b"))["pixel_values"]})
    assert sizes == [{(3, size, size)} for size in (32, 64, 64, 48, 48)]
    scheduled.set_epoch(2)
    large.set_epoch(2)
    torch.testing.assert_close(*(transform(batch("a"))["pixel_values"][0] for transform in (scheduled, large)))


def test_augmentation_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    args = ImageArguments(auto_augment="randaugment", mixup=0.4, cutmix=1.0)
    finished(TrainTransform(args, processor(), seed=0)(batch("a", "b")), args=args)
    torch.testing.assert_close(torch.rand(3), expected)


def test_training_pixels_are_normalized_as_the_processor_says():
    whole = train(crop_scale=[1.0, 1.0])
    white = batch("a", image=Image.new("RGB", (600, 450), "white"))
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(finished(whole(white))[0, :, 100, 100], expected)


def test_without_normalization_pixels_stay_between_0_and_1():
    raw = processor(do_normalize=False)
    args = ImageArguments(color_jitter=0.5)
    pixels = finished(TrainTransform(args, raw, seed=0)(batch("a")), raw, args)
    assert 0 <= pixels.min() and 0.5 < pixels.max() <= 1


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_each_flip_can_be_switched_off_by_itself(axis):
    """With one flip left, every crop is the plain one or its mirror image along that axis."""
    other = "vertical" if axis == "horizontal" else "horizontal"
    ids = [f"i{n}" for n in range(24)]
    before, after = (
        finished(
            train(crop_scale=[0.9, 0.9])(batch(*ids)),
            args=ImageArguments(**{f"{axis}_flip": flip, f"{other}_flip": False}),
        )
        for flip in (False, True)
    )
    mirrored = before.flip(-1 if axis == "horizontal" else -2)
    same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    mirror = [torch.equal(a, b) for a, b in zip(after, mirrored, strict=True)]
    assert all(s or m for s, m in zip(same, mirror, strict=True))
    assert 4 <= sum(mirror) <= 20


@pytest.mark.parametrize("size", [(600, 450), (450, 600), (3000, 100)])
def test_crops_are_drawn_as_torchvision_draws_them(size):
    for seed in range(50):
        torch.manual_seed(seed)
        crop = v2.RandomResizedCrop(224, scale=(0.2, 1.0))
        expected = crop.make_params([Image.new("RGB", size)])
        left, top, right, bottom = random_crop(*size, (0.2, 1.0), torch.Generator().manual_seed(seed))
        drawn = {"top": top, "left": left, "height": bottom - top, "width": right - left}
        assert drawn == {name: expected[name] for name in drawn}


def test_a_training_image_is_pillow_s_and_torchvision_s_within_a_gray_level():
    transform = train()
    for image_id in "abcdefgh":
        pixels = transform(batch(image_id))["pixel_values"][0]
        generator = torch.Generator().manual_seed(zlib.crc32(f"0 0 {image_id}".encode()))
        cropped = picture().crop(random_crop(600, 450, (0.2, 1.0), generator))
        reference = v2.PILToTensor()(cropped.resize((224, 224), Image.Resampling.BILINEAR))
        assert (pixels.int() - reference.int()).abs().max() <= 1


def test_threads_keep_the_order():
    assert in_threads(lambda a, b: (a, b), list(range(100)), list("ab" * 50)) == list(
        zip(range(100), "ab" * 50, strict=True)
    )


def test_batches_are_stacked_in_the_requested_memory_format():
    rows = [{"pixel_values": torch.rand(3, 8, 8), "labels": label} for label in (1, 2)]
    collated = Collator(channels_last=True)(rows)
    assert collated["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert collated["labels"].tolist() == [1, 2]
