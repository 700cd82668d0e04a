"""Every augmentation does what its name says, if the recipe sets it, and nothing otherwise."""

import pytest
import torch
from PIL import ImageEnhance
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from transformers import BitImageProcessor

from ham_hf.config.arguments import ImageArguments, LossArguments
from ham_hf.training.augmentation import DRAWN, Augment, auto_augment, box_mask, call_seeded
from ham_hf.training.losses import ClassificationLoss, class_weights
from ham_hf.training.transforms import FinishBatch
from tests.training.test_transforms import picture

MIDDLE = 0.5  # the random number that changes nothing of what goes in both directions


def pixels(size=64):
    return v2.PILToTensor()(picture(size=(size, size)))[None]


def augmented(images, drawn=None, **settings):
    """`settings` alone, with MIDDLE for every random number but those of `drawn`."""
    numbers = torch.full((len(images), len(DRAWN)), MIDDLE)
    for name, value in (drawn or {}).items():
        numbers[:, DRAWN.index(name)] = value
    augment = Augment(ImageArguments(**({"horizontal_flip": False, "vertical_flip": False} | settings)))
    return augment(images, numbers)


def test_the_first_random_numbers_stay_what_they_were():
    """A recipe's images, and with them its figures, would change with every new augmentation otherwise."""
    assert DRAWN[:5] == ("left_right", "top_bottom", "brightness", "contrast", "saturation")
    several, more = (torch.rand(n, generator=torch.Generator().manual_seed(3)) for n in (5, len(DRAWN)))
    assert torch.equal(more[:5], several)


def test_without_settings_nothing_changes():
    drawn = dict.fromkeys(DRAWN, 0.1)
    assert torch.equal(augmented(pixels(), drawn), pixels())


@pytest.mark.parametrize(
    "settings",
    [
        {"rotation": 90},
        {"shear": 20},
        {"perspective": 0.3},
        {"color_jitter": 0.5},
        {"hue_jitter": 0.2},
        {"sharpness_jitter": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_middle_of_every_range_is_the_image_itself_and_its_end_is_not(settings):
    same = augmented(pixels(), **settings).float()
    torch.testing.assert_close(same, pixels().float(), atol=0.01, rtol=0)
    other = augmented(pixels(), dict.fromkeys(DRAWN, 0.99), **settings).float()
    assert other.shape == same.shape and (other - same).abs().mean() > 1
    assert 0 <= other.min() and other.max() <= 255.001


def test_all_eight_ways_to_lay_a_photograph_come_up():
    drawn = torch.rand(200, len(DRAWN), generator=torch.Generator().manual_seed(0))
    laid = Augment(ImageArguments(quarter_turns=True))(pixels(8).repeat(200, 1, 1, 1), drawn)
    assert len({tuple(one.flatten().tolist()) for one in laid}) == 8


def test_channels_last_stays_channels_last():
    images = pixels().repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    everything = {"rotation": 30, "hue_jitter": 0.1, "sharpness_jitter": 1, "quarter_turns": True}
    assert augmented(images, **everything).is_contiguous(memory_format=torch.channels_last)


def test_rotation_is_torchvision_s():
    turned = augmented(pixels(), {"rotation": 1.0}, rotation=90)  # by the whole of it
    expected = min((turned - way).abs().mean() for way in (pixels().rot90(1, (2, 3)), pixels().rot90(-1, (2, 3))))
    assert expected < 0.01


def test_a_place_beyond_the_edge_is_the_mirror_image():
    gray = augmented(torch.full((1, 3, 32, 32), 200, dtype=torch.uint8), {"rotation": 1.0}, rotation=45)
    torch.testing.assert_close(gray, torch.full((1, 3, 32, 32), 200.0))


def test_colors_change_as_torchvision_changes_them():
    drawn = {"brightness": 0.9, "contrast": 0.375, "saturation": 0.125}  # factors 1.2, .9375, .8125 of 1 ± .25
    ours = augmented(pixels(), drawn, color_jitter=0.25)[0] / 255
    expected = pixels()[0] / 255
    for change, factor in ((F.adjust_brightness, 1.2), (F.adjust_contrast, 0.9375), (F.adjust_saturation, 0.8125)):
        expected = change(expected, factor)
    assert (ours - expected).abs().max() < 1e-3


def test_a_third_of_the_color_circle_makes_red_another_primary_color_and_leaves_gray_alone():
    red, gray = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 90, dtype=torch.uint8)
    red[:, 0] = 240
    turned = augmented(red, {"hue": 0.5 + 0.5 * (1 / 3) / 0.5}, hue_jitter=0.5)[0, :, 0, 0]
    assert sorted(turned.round().tolist()) == [0, 0, 240] and turned[0] < 1
    torch.testing.assert_close(augmented(gray, {"hue": 0.9}, hue_jitter=0.5), gray.float())


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5])
def test_sharpness_is_pillow_s(factor):
    image = picture(size=(64, 64))
    ours = augmented(pixels(), {"sharpness": factor / 2}, sharpness_jitter=1)[0, :, 1:-1, 1:-1]
    expected = v2.PILToTensor()(ImageEnhance.Sharpness(image).enhance(factor))[:, 1:-1, 1:-1]
    assert (ours - expected).abs().max() <= 1.01


def test_a_box_has_its_area_and_place():
    left, top, width, height = torch.tensor([[0.25], [0.5], [0.5], [0.25]])
    box = box_mask(8, left, top, width, height)[0, 0]
    assert box.sum() == 8 and box[4:6, 2:6].all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erasing_happens_as_often_as_requested_and_in_a_box(probability):
    images = torch.ones(400, 3, 32, 32)
    drawn = torch.rand(400, len(DRAWN), generator=torch.Generator().manual_seed(0))
    erased = Augment(ImageArguments(random_erasing=probability)).erase(images, drawn)
    share = (erased == 0).float().mean((1, 2, 3))
    assert abs((share > 0).float().mean() - probability) < 0.06
    assert share.max() < 0.25


def mixed(images, labels, seed=0, weights=None, soft_labels=None, **settings):
    """Return mixed images and the weights of the classes in each, of images that are only mixed."""
    processor = BitImageProcessor(do_normalize=False)
    batch = {"pixel_values": images, "labels": labels, "augmentation": torch.rand(len(images), len(DRAWN))}
    batch |= {"mix_seed": seed} | ({} if weights is None else {"image_weights": weights})
    batch |= {} if soft_labels is None else {"soft_labels": soft_labels}
    args = ImageArguments(horizontal_flip=False, vertical_flip=False, **settings)
    finished = FinishBatch(processor, args, classes=7)(batch)
    return finished["pixel_values"], finished["labels"]


def black_and_white(number=8):
    """Images that are white where the label is 1 and black where it is 0."""
    labels = torch.arange(number) % 2
    return (255 * labels)[:, None, None, None].expand(-1, 3, 32, 32).to(torch.uint8), labels


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_images_have_their_labels_in_the_same_shares(settings):
    shares, only_black_and_white = [], []
    for seed in range(40):
        pixels, labels = mixed(*black_and_white(), seed=seed, **settings)
        torch.testing.assert_close(pixels.mean((1, 2, 3)), labels[:, 1])
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        shares.append(float(labels[1, 1]))
        only_black_and_white.append(set(pixels.unique().tolist()) <= {0, 1} and 0.01 < shares[-1] < 0.99)
    assert torch.tensor(shares).std() > 0.1
    by_cutmix = sum(only_black_and_white)
    assert 8 < by_cutmix < 32 if len(settings) == 2 else by_cutmix == 0 or "cutmix" in settings


def test_mixing_depends_on_the_seed_alone():
    one, same, other = (mixed(*black_and_white(), seed=seed, mixup=0.4)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_loss_of_a_mixed_image_is_of_both_diagnoses_with_their_weights():
    logits, weights, counts = torch.randn(4, 7), torch.tensor([1.0, 0.5, 2.0, 0.0]), [5, 10, 10, 10, 10, 10, 50]
    labels = torch.tensor([0, 3, 6, 3])
    _, shares = mixed(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), labels, weights=weights, mixup=1.0)
    loss = ClassificationLoss(counts, LossArguments(class_weighting="balanced"))
    outputs = type("Outputs", (), {"logits": logits})
    each = -logits.log_softmax(dim=1)
    expected = (shares * class_weights(counts, 1.0).float() * each).sum() / 4
    torch.testing.assert_close(loss(outputs, shares, 4), expected)
    whole = torch.nn.functional.one_hot(labels, 7).float() * weights[:, None]  # nothing mixed: as plain labels
    torch.testing.assert_close(loss(outputs, whole, 4), loss(outputs, labels, 4, image_weights=weights))


def test_soft_labels_are_mixed_as_the_images_are():
    """A pixel that is the image's probability of melanoma is that of the mixed image as well."""
    soft = torch.rand(6, 7).softmax(dim=1)
    gray = (soft[:, 4] * 255).round()
    soft[:, 4] = gray / 255
    images = gray[:, None, None, None].expand(-1, 3, 8, 8).to(torch.uint8)
    pixels, labels = mixed(images, torch.zeros(6, dtype=torch.int64), soft_labels=soft, mixup=1.0)
    torch.testing.assert_close(pixels.mean((1, 2, 3)), labels[:, 4])
    assert (labels - soft).abs().max() > 1e-3
    _, weighted = mixed(images, torch.zeros(6, dtype=torch.int64), 0, torch.full((6,), 2.0), soft, mixup=1.0)
    torch.testing.assert_close(weighted, 2 * labels)


@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment"])
def test_automatic_augmentation_depends_on_the_seed_alone(kind):
    transform = auto_augment(ImageArguments(auto_augment=kind))
    one, same, other = (call_seeded(transform, seed, pixels()[0]) for seed in (1, 1, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == (3, 64, 64) and one.dtype == torch.uint8
