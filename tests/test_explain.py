"""Where a model looks, on cases that a rule chose."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from ham_hf.cli.main import main as ham_hf
from ham_hf.explain import KINDS, choose_cases
from ham_hf.hub.model_repo import PUBLISHED
from ham_hf.inference.saliency import saliency
from ham_hf.labels import LABELS
from tests.helpers.tiny_checkpoints import make_run_folder

pytest.importorskip("captum")


def test_the_most_and_least_confident_predictions_are_chosen():
    probabilities = np.full((6, 7), 0.01)
    for row, (predicted, probability) in enumerate([(0, 0.9), (0, 0.4), (0, 0.6), (1, 0.8), (2, 0.5), (3, 0.7)]):
        probabilities[row, predicted] = probability
    truth = np.array([0, 0, 0, 0, 0, 3])
    cases = choose_cases(probabilities, truth, 0, LABELS)
    assert [(case.row, case.kind) for case in cases] == [
        (0, "confident, correct"),
        (1, "uncertain, correct"),
        (3, "confident, wrong"),
        (4, "uncertain, wrong"),
    ]
    assert cases[2].prediction == LABELS[1] and cases[2].probability == 0.8
    assert set(KINDS) == {case.kind for case in cases}
    assert [case.kind for case in choose_cases(probabilities, truth, 3, LABELS)] == ["confident, correct"]


class TopLeft(nn.Module):
    """Looks at the top left corner alone."""

    def forward(self, pixel_values):
        corner = (pixel_values[:, :, :16, :16] ** 2).mean((1, 2, 3))
        return ImageClassifierOutput(logits=torch.stack([corner, -corner], dim=1))


def test_saliency_is_where_the_model_looks():
    strength = saliency(TopLeft(), torch.rand(1, 3, 64, 64), target=1)
    assert strength.shape == (64, 64) and strength.min() == 0 and strength.max() == 1
    assert strength[:16, :16].mean() > 10 * strength[24:, 24:].mean()


@pytest.mark.parametrize("kind", ["google/vit-base-patch16-224", "timm/resnet18.tv_in1k"])
def test_sheets_are_drawn_and_not_published(kind, tmp_path, synthetic_dir, capsys):
    run = make_run_folder(tmp_path / "run", kind)
    words = f"explain {run} --data_dir {synthetic_dir} --split grouped --output_dir {tmp_path / 'cases'}"
    assert ham_hf(words.split()) == 0
    sheets = sorted((tmp_path / "cases").glob("*.png"))
    assert sheets and {sheet.stem for sheet in sheets} <= set(LABELS)
    assert all(Image.open(sheet).width > 100 for sheet in sheets)
    page = (tmp_path / "cases" / "README.md").read_text()
    assert all(kind in page for kind in KINDS) and "photographs of patients" in page
    assert not any("cases" in pattern for pattern in PUBLISHED)
    assert ham_hf(words.split()) == 2
    assert "exists and is not empty" in capsys.readouterr().err
