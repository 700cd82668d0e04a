"""The one loss layer: right with accumulation and several processes, for every family of models."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.utils import compute_class_weight
from torchvision.ops import sigmoid_focal_loss
from transformers.modeling_outputs import ImageClassifierOutput

from ham_hf.config.arguments import LossArguments
from ham_hf.training.losses import ClassificationLoss, class_weights
from tests.helpers.gradients import MODELS, one_step


@pytest.fixture(scope="module")
def gradients_of_two_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("two_processes")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    done = subprocess.run(
        [*command, "--standalone", "tests/helpers/gradients.py", str(out), "2", "4"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: load_file(out / f"{name}.safetensors") for name in MODELS}


def assert_same(gradients, reference):
    assert gradients.keys() == reference.keys()
    largest = max(value.abs().max() for value in reference.values())
    assert largest > 1e-3, "the gradients compared are not all zero"
    for name, value in reference.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_four_batches_of_four_give_the_gradients_of_one_batch_of_sixteen(name, tmp_path):
    assert_same(one_step(name, 4, 4, tmp_path), one_step(name, 16, 1, tmp_path))


def test_four_batches_of_four_give_the_gradients_of_one_batch_of_sixteen_with_soft_labels(tmp_path):
    batches, whole = (one_step("vit", *of, tmp_path, soft=True) for of in ((4, 4), (16, 1)))
    assert_same(batches, whole)
    hard = one_step("vit", 16, 1, tmp_path)
    assert max((whole[name] - value).abs().max() for name, value in hard.items()) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_of_two_by_four_give_the_gradients_of_one_batch_of_sixteen(
    name, gradients_of_two_processes, tmp_path
):
    assert_same(gradients_of_two_processes[name], one_step(name, 16, 1, tmp_path))


def test_without_adjustment_the_loss_is_cross_entropy():
    logits, labels = torch.randn(5, 7), torch.tensor([0, 1, 2, 3, 6])
    outputs = ImageClassifierOutput(logits=logits)
    loss = ClassificationLoss([1] * 7)
    torch.testing.assert_close(loss(outputs, labels, 5), F.cross_entropy(logits, labels))
    torch.testing.assert_close(loss(outputs, labels), F.cross_entropy(logits, labels))


def test_the_adjustment_counts_in_training_and_not_in_evaluation():
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    loss = ClassificationLoss([3, 1], LossArguments(logit_adjustment=1.0))
    outputs = ImageClassifierOutput(logits=logits)
    expected = -(torch.tensor([0.75, 0.25]).log()).mean()  # softmax of log(prior) is the prior itself
    torch.testing.assert_close(loss(outputs, labels, 2), expected)
    torch.testing.assert_close(loss(outputs, labels), torch.tensor(2.0).log())


def test_weights_are_as_scikit_learn_has_them_and_one_on_average():
    counts = [60, 30, 10]
    labels = np.repeat([0, 1, 2], counts)
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(counts, 1.0), balanced)
    for power in (0.0, 0.5, 1.0):
        weights = class_weights(counts, power)
        assert float(weights[labels].mean()) == pytest.approx(1)
        assert weights[2] / weights[1] == pytest.approx(3**power)


def test_class_weighting_equals_torch_s_up_to_its_scale_and_starts_on_time():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 1])
    outputs = ImageClassifierOutput(logits=logits)
    loss = ClassificationLoss([6, 3, 1], LossArguments(class_weighting="balanced", class_weighting_start=2))
    weights = class_weights([6, 3, 1], 1.0).float()
    plain = F.cross_entropy(logits, labels)
    torch.testing.assert_close(loss(outputs, labels, 6), plain)
    loss.set_epoch(2)
    torch.testing.assert_close(loss(outputs, labels, 6), F.cross_entropy(logits, labels, weights, reduction="sum") / 6)
    torch.testing.assert_close(loss(outputs, labels), plain)  # what is evaluated is not weighted


def test_focal_loss_is_torchvision_s_for_two_classes_and_cross_entropy_without_gamma():
    logits, labels = torch.randn(20, 2), torch.arange(20) % 2
    outputs = ImageClassifierOutput(logits=logits)
    loss = ClassificationLoss([1, 1], LossArguments(loss="focal", focal_gamma=1.5))(outputs, labels, 20)
    binary = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], labels.float(), alpha=-1, gamma=1.5, reduction="mean")
    torch.testing.assert_close(loss, binary)
    plain = ClassificationLoss([1, 1], LossArguments(loss="focal", focal_gamma=0.0))(outputs, labels, 20)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels))


def test_focal_loss_has_a_gradient_where_the_answer_is_certain():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    outputs = ImageClassifierOutput(logits=logits)
    ClassificationLoss([1, 1], LossArguments(loss="focal", focal_gamma=0.5))(outputs, torch.tensor([0]), 1).backward()
    assert logits.grad.isfinite().all()


def test_ldam_gives_the_rarest_class_the_largest_margin():
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    loss = ClassificationLoss([16, 1], LossArguments(loss="ldam", ldam_margin=0.8))
    shifted = torch.tensor([[-0.4, 0.0], [0.0, -0.8]])  # 16 ** -(1/4) is a half
    torch.testing.assert_close(loss(ImageClassifierOutput(logits=logits), labels, 2), F.cross_entropy(shifted, labels))


def test_label_smoothing_is_torch_s():
    logits, labels = torch.randn(5, 7), torch.tensor([0, 1, 2, 3, 6])
    outputs = ImageClassifierOutput(logits=logits)
    loss = ClassificationLoss([1] * 7, label_smoothing=0.2)
    torch.testing.assert_close(loss(outputs, labels, 5), F.cross_entropy(logits, labels, label_smoothing=0.2))
    torch.testing.assert_close(loss(outputs, labels), F.cross_entropy(logits, labels))


def test_an_image_counts_by_its_weight():
    logits, labels = torch.randn(2, 2), torch.tensor([0, 1])
    losses = F.cross_entropy(logits, labels, reduction="none")
    weighted = ClassificationLoss([1, 1])(
        ImageClassifierOutput(logits=logits), labels, 2, image_weights=torch.tensor([0.5, 1.5])
    )
    torch.testing.assert_close(weighted, (0.5 * losses[0] + 1.5 * losses[1]) / 2)


SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.4, 0.6]])


@pytest.mark.parametrize("weighting", ["none", "balanced"])
@pytest.mark.parametrize("image_weights", [None, torch.tensor([0.5, 1.5])])
def test_soft_labels_are_the_targets_in_training_and_not_in_evaluation(weighting, image_weights):
    counts, labels, logits = [6, 3, 1], torch.tensor([0, 2]), torch.randn(2, 3)
    loss = ClassificationLoss(counts, LossArguments(class_weighting=weighting))
    outputs = ImageClassifierOutput(logits=logits)
    of_class = torch.ones(3) if weighting == "none" else class_weights(counts, 1.0).float()
    of_image = torch.ones(2) if image_weights is None else image_weights
    each = -SOFT * of_class * logits.log_softmax(dim=1) * of_image[:, None]
    torch.testing.assert_close(loss(outputs, labels, 8, image_weights, SOFT), each.sum() / 8)
    torch.testing.assert_close(loss(outputs, labels, None, image_weights, SOFT), F.cross_entropy(logits, labels))


def test_soft_labels_with_logit_adjustment_are_the_targets_of_the_adjusted_logits():
    logits, priors = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 0.3]]), torch.tensor([0.6, 0.3, 0.1])
    loss = ClassificationLoss([6, 3, 1], LossArguments(logit_adjustment=0.7))
    powers = logits.exp() * priors**0.7
    expected = -(SOFT * (powers / powers.sum(dim=1, keepdim=True)).log()).sum() / 2
    outputs = ImageClassifierOutput(logits=logits)
    torch.testing.assert_close(loss(outputs, torch.tensor([0, 2]), 2, soft_labels=SOFT), expected)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "ldam"])
def test_soft_labels_that_are_certain_are_plain_labels(kind):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    loss, outputs = ClassificationLoss([6, 3, 1], LossArguments(loss=kind)), ImageClassifierOutput(logits=logits)
    certain = F.one_hot(labels, 3).float()
    torch.testing.assert_close(loss(outputs, labels, 4, soft_labels=certain), loss(outputs, labels, 4))


def test_a_class_without_training_images_leaves_the_loss_finite():
    outputs = ImageClassifierOutput(logits=torch.zeros(1, 2))
    assert ClassificationLoss([4, 0], LossArguments(logit_adjustment=1.0))(outputs, torch.tensor([0]), 1).isfinite()
