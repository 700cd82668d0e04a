"""Keep the float32 gradients of strided 1x1 convolutions from crashing a CPU.

oneDNN 3.12 (in PyTorch 2.14) writes past the end of its scratch memory when it computes the float32 weight gradient of
a 1x1 convolution with stride 2, 2 to 15 input channels and 28x28 outputs or more in channels_last: heap corruption or
a segmentation fault, with any number of processes and threads. Its kernel is `jit_1x1:avx512_core`, which first copies
the pixels that the stride keeps; `jit_1x1:avx2` does the same below 8 channels. Smallest reproduction, on a CPU with
AVX-512:

    conv = torch.nn.Conv2d(8, 8, 1, stride=2).to(memory_format=torch.channels_last)
    conv(torch.randn(1, 8, 64, 64).to(memory_format=torch.channels_last)).sum().backward()

bfloat16, stride 1, the contiguous format and 16 channels or more are not affected. Neither is any pretrained model
known here: the shortcuts of a ResNet have 64 channels or more.
"""

from functools import partial

import torch
from torch import nn

_SAFE_CHANNELS = 16  # one AVX-512 register of float32


def take_strides_first(model: nn.Module) -> int:
    """Let the affected convolutions select the strided pixels first, then convolve with stride 1.

    The result is the same, because it depends only on the selected pixels. Changes the model in place, but neither its
    weights nor their names, and returns the number of changed convolutions.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_affected(module):
            module.register_forward_pre_hook(partial(_pick, strides=module.stride))
            module.stride = (1, 1)
            changed += 1
    return changed


def _is_affected(conv: nn.Conv2d) -> bool:
    strided = conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.padding == (0, 0)
    return strided and conv.in_channels < _SAFE_CHANNELS


def _pick(conv: nn.Conv2d, inputs: tuple[torch.Tensor], strides: tuple[int, ...]) -> tuple[torch.Tensor]:
    return (inputs[0][:, :, :: strides[0], :: strides[1]],)  # (N, C, H, W)
