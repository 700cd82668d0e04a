"""The sheet of augmented samples shows what the model gets."""

import numpy as np
import pytest
from PIL import Image

from ham_hf.cli.main import main as ham_hf
from ham_hf.config.recipe import parse_recipe
from ham_hf.training.preview import EPOCHS, draw_preview


@pytest.fixture
def flags(tiny_checkpoint, synthetic_dir):
    checkpoint = tiny_checkpoint("google/vit-base-patch16-224")
    return f"--model_name_or_path {checkpoint} --data_dir {synthetic_dir} --split grouped --image_size 64".split()


def test_a_sheet_is_drawn(flags, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert ham_hf(["data", "preview", *flags, "--mixup", "0.4", "--rotation", "45", "--output", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    width, height = Image.open(path).size
    assert width > 500 and height > 500


def test_without_any_augmentation_every_epoch_is_the_same_and_with_it_none(flags):
    plain = ["--crop_scale", "1", "1", "--horizontal_flip", "false", "--vertical_flip", "false"]
    for words, same in ((plain, True), (["--color_jitter", "0.5"], False)):
        axes = draw_preview(parse_recipe([*flags, *words])).axes
        pictures = [of.images[0].get_array() for of in axes[1 : EPOCHS + 1]]
        assert axes[0].get_title("left") == "evaluation" and axes[EPOCHS].get_title("left") == f"epoch {EPOCHS}"
        # The crop's aspect ratio is drawn all the same: the middle of the image stays where it is
        differences = [abs(np.asarray(picture) - np.asarray(pictures[0])).mean() for picture in pictures[1:]]
        assert all(difference < 0.02 for difference in differences) == same


def test_a_preview_has_the_sizes_of_a_schedule(flags):
    words = ["--train_size", '{"1": 32, "3": 48, "9": 64}', "--num_train_epochs", "9", "--image_size", "80"]
    row = draw_preview(parse_recipe([*flags, *words])).axes[: EPOCHS + 2]
    titles, sizes = [of.get_title("left") for of in row], [of.images[0].get_array().shape[0] for of in row]
    assert titles == ["evaluation", *(f"epoch {epoch}" for epoch in (1, 2, 3, 4, 5, 6, 9))]
    assert sizes == [80, 32, 32, 48, 48, 48, 48, 64]


def test_a_preview_that_cannot_be_drawn_is_refused(flags, tmp_path, capsys):
    assert ham_hf(["data", "preview", *flags, "--augment", "false"]) == 2
    assert "augment is false" in capsys.readouterr().err
    assert ham_hf(["data", "preview", *flags, "--output", str(tmp_path / "no" / "sheet.png")]) == 2
    assert "no does not exist or is not writable" in capsys.readouterr().err
