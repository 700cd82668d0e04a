"""The one loss layer: right with accumulation and several processes, for every family of models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers.modeling_outputs import ImageClassifierOutput

from ham_hf.losses import ClassificationLoss
from tests.gradients import MODELS, one_step


@pytest.fixture(scope="module")
def gradients_of_two_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("two_processes")
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    done = subprocess.run(
        [*command, "--standalone", "tests/gradients.py", str(out), "2", "4"],
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
    loss = ClassificationLoss([3, 1], logit_adjustment=1.0)
    outputs = ImageClassifierOutput(logits=logits)
    expected = -(torch.tensor([0.75, 0.25]).log()).mean()  # softmax of log(prior) is the prior itself
    torch.testing.assert_close(loss(outputs, labels, 2), expected)
    torch.testing.assert_close(loss(outputs, labels), torch.tensor(2.0).log())


def test_a_class_without_training_images_leaves_the_loss_finite():
    outputs = ImageClassifierOutput(logits=torch.zeros(1, 2))
    assert ClassificationLoss([4, 0], logit_adjustment=1.0)(outputs, torch.tensor([0]), 1).isfinite()
