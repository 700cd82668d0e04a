"""The colour of the light is taken out in training, in evaluation and by everyone who uses the published model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from ham_hf.cli.main import main as ham_hf
from ham_hf.config.arguments import ImageArguments
from ham_hf.config.recipe import parse_recipe
from ham_hf.inference.classifier import load_classifier, probabilities
from ham_hf.models.build import build_processor
from ham_hf.models.color_constancy.image_processing_color_constancy import ColorConstancyImageProcessor, shades_of_grey
from ham_hf.system.errors import InputError
from ham_hf.train import main
from ham_hf.training.transforms import CachedImages, TrainTransform
from push_to_hub import check_that_it_loads, stage
from tests.helpers.tiny_checkpoints import make_tiny_checkpoint
from tests.training.test_transforms import batch, picture


def under(light, image):
    """The image as if its light had these shares of red, green and blue."""
    return Image.fromarray((np.asarray(image) * np.array(light)).astype(np.uint8))


def processor():
    settings = {"image_size": 32, "eval_resize": None, "normalization": "imagenet"}
    return build_processor("any", revision=None, color_constancy=True, **settings)


def test_it_is_shades_of_grey_by_its_formula():
    pixels = np.asarray(picture()).astype(float)
    light = (pixels**6).mean((0, 1)) ** (1 / 6)
    expected = np.clip(pixels * light.mean() / light, 0, 255)
    assert abs(np.asarray(shades_of_grey(picture())) - expected).max() <= 0.51


def test_grey_stays_as_it_is_and_black_is_no_error():
    for level in (0, 90, 255):
        image = Image.new("RGB", (20, 10), (level,) * 3)
        assert np.array_equal(np.asarray(shades_of_grey(image)), np.asarray(image))


def test_the_same_lesion_under_another_lamp_looks_nearly_the_same():
    warm, cold = under((1, 0.8, 0.6), picture()), under((0.6, 0.8, 1), picture())
    before = abs(np.asarray(warm).astype(int) - np.asarray(cold)).mean()
    after = abs(np.asarray(shades_of_grey(warm)).astype(int) - np.asarray(shades_of_grey(cold))).mean()
    assert after < before / 10


def test_training_images_have_it_too_from_files_and_from_the_cache():
    args = ImageArguments(image_size=32)
    plain = TrainTransform(args, processor(), seed=0)
    expected = TrainTransform(
        args, build_processor("any", revision=None, image_size=32, eval_resize=None, normalization="imagenet"), seed=0
    )
    ours = plain(batch("a"))["pixel_values"][0]
    assert torch.equal(ours, expected(batch("a", image=shades_of_grey(picture())))["pixel_values"][0])
    cache = {"sha": np.asarray(picture())}
    cached = TrainTransform(args, processor(), 0, CachedImages(cache, {"a": "sha"}))
    assert torch.equal(cached(batch("a"))["pixel_values"][0], ours)


def test_arrays_of_bytes_are_prepared_as_the_image_they_hold():
    pixels = np.array(picture())
    expected = processor()(picture(), return_tensors="pt")["pixel_values"]
    for image in (pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        assert torch.equal(processor()(image, return_tensors="pt")["pixel_values"], expected)


def test_an_array_that_holds_no_bytes_of_rgb_is_refused():
    for image in (torch.zeros(3, 40, 40), torch.zeros(4, 40, 40, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected an image of PIL, or uint8 and 3 channels"):
            processor()(image, do_convert_rgb=False, return_tensors="pt")


def test_a_published_model_repeats_it_everywhere(tmp_path, synthetic_dir):
    # Of timm: AutoImageProcessor asks such a model's own config
    start = make_tiny_checkpoint("timm/resnet18.tv_in1k", tmp_path / "start")
    flags = f"--model_name_or_path {start} --data_dir {synthetic_dir} --split grouped --image_size 32 --max_steps 1"
    run = tmp_path / "run"
    main([*flags.split(), "--color_constancy", "true", "--bf16", "false", "--output_dir", str(run)])
    assert json.loads((run / "run.json").read_text())["model"]["color_constancy"] is True
    assert "trust_remote_code=True" in (run / "README.md").read_text()
    model, loaded = load_classifier(str(run))
    assert type(loaded) is ColorConstancyImageProcessor
    photos = [under(light, picture()) for light in ((1, 0.8, 0.6), (0.6, 0.8, 1))]
    warm, cold = probabilities(model, loaded, photos)
    assert abs(warm - cold).max() < 0.01
    stage(run, tmp_path / "staged", repo_id="you/model")
    assert (tmp_path / "staged" / "image_processing_color_constancy.py").is_file()
    check_that_it_loads(run, tmp_path / "staged")
    assert ham_hf(["verify", str(run), "--data_dir", str(synthetic_dir)]) == 0
    assert type(AutoImageProcessor.from_pretrained(run, trust_remote_code=False)) is ColorConstancyImageProcessor


def test_a_model_that_reads_the_patient_is_refused():
    flags = "--data_dir synthetic --model_name_or_path x --fusion mlp --color_constancy true"
    with pytest.raises(InputError, match="color_constancy is for models of the image alone"):
        parse_recipe(flags.split())
