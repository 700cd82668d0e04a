"""Depthwise convolutions on a CPU in bfloat16: the same answers, and gradients that are as good or better."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from ham_hf.models.depthwise import use_fast_gradients


def gradients(conv, x, dtype):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = conv(x)
    (out.float() ** 2).sum().backward()
    found = [x.grad, *(weight.grad for weight in conv.parameters())]
    conv.zero_grad(set_to_none=True)
    return out, found


@pytest.mark.parametrize("conv_class", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 2, False), (5, 1, True), (5, 2, False), (7, 1, True)])
def test_gradients_are_those_of_the_stock_convolution_and_no_less_exact(conv_class, kernel, stride, bias):
    torch.manual_seed(0)
    conv = conv_class(8, 8, kernel, stride, padding=kernel // 2, groups=8, bias=bias)
    fast = copy.deepcopy(conv)
    assert use_fast_gradients(nn.Sequential(fast)) == 1
    x = torch.randn(4, 8, 20, 20).contiguous(memory_format=torch.channels_last)
    exact_out, exact = gradients(conv, x, torch.float32)
    stock_out, stock = gradients(conv, x, torch.bfloat16)
    out, found = gradients(fast, x, torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, stock_out)
    for ours, theirs, true in zip(found, stock, exact, strict=True):
        error, stock_error = ((value - true).norm() / true.norm() for value in (ours, theirs))
        assert 0 < error < max(1.1 * stock_error, 0.01)


def test_outside_bfloat16_nothing_changes():
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    fast = copy.deepcopy(conv)
    use_fast_gradients(nn.Sequential(fast))
    x = torch.randn(2, 8, 9, 9)
    for a, b in zip(gradients(fast, x, torch.float32)[1], gradients(conv, x, torch.float32)[1], strict=True):
        assert torch.equal(a, b)


def test_only_the_slow_ones_are_changed_and_no_weight_is_renamed():
    model = timm.create_model("tf_efficientnet_lite0")
    names = list(model.state_dict())
    plain = sum(m.groups > 1 and m.kernel_size == (3, 3) and m.stride == (1, 1) for m in convolutions(model))
    depthwise = sum(m.groups > 1 for m in convolutions(model))
    assert use_fast_gradients(model) == depthwise - plain == 11
    assert list(model.state_dict()) == names
    assert use_fast_gradients(timm.create_model("resnet18")) == 0


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]
