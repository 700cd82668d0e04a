"""Impose the limits of an Apple GPU on a CPU: no float64, and no numpy array from a tensor on the device.

A tensor counts as on the GPU if it is a model's weight, or was computed from one by a call from Python; `cpu()` brings
it back. What happens inside one call, such as `backward`, is not seen.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

WAITS = {torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu}
WAITS |= {torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__}


class AppleGpu(TorchFunctionMode):
    """With `in_step`, copying a value to the host fails too: a training step would wait for the GPU."""

    def __init__(self):
        super().__init__()
        self.in_step = False
        self.moved = 0  # tensors copied back

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not any(map(is_there, tree_leaves((args, kwargs)))):
            return result
        if self.in_step and func in WAITS:
            raise RuntimeError(f"{func.__name__} waits for the GPU within a training step")
        if func is torch.Tensor.cpu:
            self.moved += 1
            return result.clone()
        if func is torch.Tensor.numpy and sys._getframe(1).f_globals["__name__"].startswith("ham_hf"):
            raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first")
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not any(tensor is arg for arg in args):
                if tensor.dtype == torch.float64:
                    raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
                tensor.is_on_gpu = True
        return result


def is_there(value: object) -> bool:
    return isinstance(value, nn.Parameter) or (isinstance(value, torch.Tensor) and "is_on_gpu" in vars(value))


@contextmanager
def apple_gpu(monkeypatch, steps: list[tuple[type, str]]) -> Iterator[AppleGpu]:
    """Impose the limits, with the methods `steps` as parts of a training step."""
    gpu = AppleGpu()

    def within(method: Callable) -> Callable:
        @wraps(method)
        def step(*args, **kwargs):
            gpu.in_step = True
            try:
                return method(*args, **kwargs)
            finally:
                gpu.in_step = False

        return step

    for owner, name in steps:
        monkeypatch.setattr(owner, name, within(vars(owner)[name]))
    with gpu:
        yield gpu
