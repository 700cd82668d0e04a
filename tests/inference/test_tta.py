"""Test-time augmentation: kept in the checkpoint, used by ham-hf, and no obstacle to transformers' pipeline."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from ham_hf.hub.model_repo import check_that_it_loads
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.tta import VIEWS, dihedral_views, set_test_time_augmentation, which_views
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from ham_hf.train import main
from tests.helpers.fake_runs import change_json
from tests.helpers.tiny_checkpoints import make_run_folder


def test_flips_are_half_of_them():
    pixels = torch.rand(1, 3, 4, 4)
    flips = [pixels, pixels.flip(2), pixels.flip(3), pixels.flip((2, 3))]
    assert all(map(torch.equal, VIEWS["flips"](pixels), flips))
    assert all(map(torch.equal, list(dihedral_views(pixels))[:4], flips))


def test_crops_are_the_whole_and_nine_places_in_reading_order():
    across = torch.linspace(0, 1, 20).expand(1, 3, 20, 20)
    views = list(VIEWS["crops"](across))
    assert len(views) == 10 and torch.equal(views[0], across)
    assert all(view.shape == across.shape for view in views)
    left, middle, right = (view.mean() for view in views[1:4])
    assert left < middle < right and middle == pytest.approx(0.5, abs=0.01)
    down = list(VIEWS["crops"](across.transpose(2, 3)))
    assert down[1].mean() == pytest.approx(down[3].mean()) and down[1].mean() < down[7].mean()


def test_scales_zoom_in():
    ring = torch.ones(1, 3, 20, 20)
    ring[:, :, 2:-2, 2:-2] = 0
    views = list(VIEWS["scales"](ring))
    assert len(views) == 12 and torch.equal(views[0], ring)
    assert views[0].mean() > views[4].mean() > views[8].mean()


def test_only_what_is_asked_for_is_made():
    views = dihedral_views(pixels := torch.rand(1, 3, 4, 4))
    assert next(views) is pixels


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def test_dihedral_views_are_all_rotations_and_reflections():
    pixels = torch.arange(9.0).reshape(1, 1, 3, 3).expand(1, 3, 3, 3)
    turned = [torch.rot90(pixels, turns, (2, 3)) for turns in range(4)]
    expected = {str(view.tolist()) for view in [*turned, *(view.flip(3) for view in turned)]}
    views = list(dihedral_views(pixels))
    assert torch.equal(views[0], pixels)
    assert len(expected) == len(views) == 8
    assert {str(view.tolist()) for view in views} == expected


def test_predictions_average_the_views_and_do_not_depend_on_orientation(tmp_path, photo):
    folder = str(make_run_folder(tmp_path / "run"))
    classifier = load_classifier(folder)
    model, processor = classifier
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        views = [model(view).logits.double().softmax(1).numpy()[0] for view in dihedral_views(pixels)]
    one = probabilities(classifier, [photo])[0]
    set_test_time_augmentation(model, "dihedral")
    mean = probabilities(classifier, [photo])[0]
    np.testing.assert_allclose(mean, np.mean(views, axis=0), atol=1e-6)
    assert abs(mean - one).max() > 1e-3
    turned = probabilities(classifier, [photo.transpose(Image.Transpose.ROTATE_90)])[0]
    np.testing.assert_allclose(turned, mean, atol=1e-2)  # resizing is not the same to the last bit in both directions


def test_a_checkpoint_keeps_it_and_the_pipeline_looks_once(tmp_path, photo):
    folder = make_run_folder(tmp_path / "run")
    model = load_classifier(str(folder)).model
    set_test_time_augmentation(model, "dihedral")
    model.save_pretrained(folder)
    again = load_classifier(str(folder))
    assert which_views(again.model) == "dihedral"
    once = {
        result["label"]: result["score"] for result in pipeline("image-classification", str(folder), top_k=7)(photo)
    }
    set_test_time_augmentation(again.model, "none")
    row = probabilities(again, [photo])[0]
    assert [once[label] for label in again.labels] == pytest.approx(row.tolist(), abs=1e-5)
    check_that_it_loads(folder, folder)


@pytest.mark.parametrize("kind", ["sideways", ["flips"]])
def test_unknown_test_time_augmentation_is_refused(tmp_path, kind):
    folder = make_run_folder(tmp_path / "run")
    change_json(folder / "config.json", test_time_augmentation=kind)
    with pytest.raises(
        InputError, match="test_time_augmentation .*: expected one of none, flips, dihedral, crops, scales"
    ):
        load_classifier(str(folder))


def test_metrics_and_card_use_the_recipe_s_test_time_augmentation(tmp_path, synthetic_dir):
    run = make_run_folder(tmp_path / "start")
    flags = f"--model_name_or_path {run} --data_dir {synthetic_dir} --split grouped --image_size 32 --max_steps 1"
    main([*flags.split(), "--test_time_augmentation", "dihedral", "--output_dir", str(tmp_path / "run")])
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["model"]["test_time_augmentation"] == "dihedral"
    assert "the mean over several views" in (tmp_path / "run" / "README.md").read_text()
    assert "The pipeline looks at each image once" in (tmp_path / "run" / "README.md").read_text()
    classifier = load_classifier(str(tmp_path / "run"))
    assert which_views(classifier.model) == "dihedral"
    again = flags.replace(
        str(run), str(tmp_path / "run")
    ).split()  # a training that goes out from it and asks for none
    main([*again, "--output_dir", str(tmp_path / "again")])
    assert which_views(load_classifier(str(tmp_path / "again")).model) == "none"
    line = (tmp_path / "run" / "predictions_validation.csv").read_text().splitlines()[1].split(",")
    [file] = synthetic_dir.rglob(f"{line[0]}.jpg")
    row = probabilities(classifier, [Image.open(file)])[0]
    assert list(map(float, line[3:])) == pytest.approx(row.tolist(), abs=1e-6)
    assert len(line[3:]) == len(LABELS)
