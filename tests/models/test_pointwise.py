"""Small strided 1x1 convolutions train in channels_last, where oneDNN's own kernel overruns its memory."""

import copy
import multiprocessing

import pytest
import torch
from torch import nn

from ham_hf.models.pointwise import take_strides_first


def shortcut() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 1, stride=2, bias=False)).to(memory_format=torch.channels_last)


def photographs(side: int) -> torch.Tensor:
    return torch.randn(2, 8, side, side).to(memory_format=torch.channels_last)


def train_in_channels_last(model: nn.Module) -> None:
    torch.set_num_threads(1)  # in a forked process, others' threads are gone
    for _ in range(5):
        model(photographs(64)).sum().backward()


def test_a_small_strided_convolution_trains_in_channels_last():
    model = shortcut()
    assert take_strides_first(model) == 1
    process = multiprocessing.get_context("fork").Process(target=train_in_channels_last, args=(model,))
    process.start()
    process.join(60)
    assert process.exitcode == 0  # -11 is a segmentation fault, -6 a corrupted heap


@pytest.mark.parametrize("side", [7, 8])
def test_the_outputs_and_gradients_are_those_of_the_stride(side):
    ours, theirs, pixels = shortcut(), shortcut(), photographs(side)
    take_strides_first(ours)
    ours = copy.deepcopy(ours)  # as averaged weights do
    out, expected = ours(pixels), theirs(pixels)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward(), expected.square().sum().backward()
    torch.testing.assert_close(ours[0].weight.grad, theirs[0].weight.grad)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_safe_convolutions_are_not_changed():
    safe = [nn.Conv2d(16, 8, 1, 2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 1, 2, padding=1)]
    assert take_strides_first(nn.Sequential(*safe)) == 0
