"""Which precisions, memory formats and thread counts are fast on this machine."""

import ctypes
import os
import platform
import sys

import torch

# Of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def has_accelerator() -> bool:
    """Return whether torch sees a GPU (CUDA, ROCm, MPS, XPU, …)."""
    return torch.accelerator.is_available()


def supports_bf16(use_cpu: bool = False) -> bool:
    """Return whether bfloat16 is computed in hardware: an NVIDIA GPU since Ampere, or a CPU with AVX512-BF16 or AMX.

    On other GPUs float32 is the default: what their CPU supports says nothing about them.
    """
    if has_accelerator() and not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu.get_capabilities()
    return bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def prefers_channels_last(device: torch.device) -> bool:
    """Return whether convolutions are fast, and right, in channels_last on a device: not on Apple GPUs.

    There the backward pass of batch norm fails ("view size is not compatible"): pytorch/pytorch#188371.
    """
    return device.type != "mps"


def use_all_cores(local_processes: int) -> int:
    """Let torch use every core that this process may use, shared by the processes here, and return the number.

    `accelerate launch` without --cpu (1.15) gives a process one thread, even if the CPU does all the work.
    """
    threads = max(usable_cores() // local_processes, 1)
    torch.set_num_threads(threads)
    return threads


def keep_freed_memory() -> None:
    """Let glibc keep what a batch frees for the next one, as PyTorch does on a GPU.

    By default it gives every large tensor back to the kernel, which then clears each page again: up to a fifth of a
    training step on a CPU, and half of a forward pass. Other C libraries have no such setting.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)  # bytes; smaller ones come from the heap
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)  # the heap keeps up to this much free


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # fewer than the machine has, in a container or under taskset
    return os.cpu_count() or 1
