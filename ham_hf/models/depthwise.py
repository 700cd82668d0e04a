"""Compute the gradients of depthwise convolutions in bfloat16 fast on a CPU.

oneDNN (PyTorch 2.14) has fast bfloat16 kernels for the gradients of a 3x3 depthwise convolution with stride 1. For
larger kernels and strides it falls back to a reference kernel that is many times slower than its float32 one and takes
half of an EfficientNet's training step. Here only those gradients are computed in float32, which is also more exact.
"""

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn


def use_fast_gradients(model: nn.Module) -> int:
    """Replace the slow depthwise convolutions of a model in place, and return how many there are.

    Weights, their names and the outputs stay the same.
    """
    changed = 0
    for module in model.modules():
        replacement = _REPLACEMENTS.get(type(module))
        if replacement is not None and isinstance(module, nn.Conv2d) and _is_slow(module):
            module.__class__ = replacement
            changed += 1
    return changed


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    return depthwise and conv.padding_mode == "zeros" and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)


class _DepthwiseConv2d(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not _in_bfloat16_on_a_cpu(x) or isinstance(self.padding, str):
            return super()._conv_forward(x, weight, bias)
        return _Depthwise.apply(x, weight, bias, self.stride, self.padding, self.dilation)


class _DepthwiseConv2dSame(Conv2dSame):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _in_bfloat16_on_a_cpu(x):
            return super().forward(x)
        x = pad_same(x, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        return _Depthwise.apply(x, self.weight, self.bias, self.stride, (0, 0), self.dilation)


_REPLACEMENTS = {nn.Conv2d: _DepthwiseConv2d, Conv2dSame: _DepthwiseConv2dSame}


def _in_bfloat16_on_a_cpu(x: torch.Tensor) -> bool:
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation):
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.geometry = bias is not None, (stride, padding, dilation)
        # (N, C, H, W), weight (C, 1, k, k)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups=weight.shape[0])

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad.float(),
            x.float(),
            weight.float(),
            [weight.shape[0]] if ctx.has_bias else None,
            stride,
            padding,
            dilation,
            False,  # not transposed
            [0, 0],
            weight.shape[0],
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias],
        )
        of_x = of_x.to(x.dtype) if of_x is not None else None
        return of_x, of_weight, of_bias, None, None, None
