"""What the machine can do fast."""

import os
import sys

import torch


def has_accelerator() -> bool:
    """Whether torch sees a GPU (CUDA, ROCm, MPS, XPU, …)."""
    return torch.accelerator.is_available()


def supports_bf16(use_cpu: bool = False) -> bool:
    """Whether bfloat16 is computed in hardware: an NVIDIA GPU since Ampere, or a CPU with AVX512-BF16 or AMX."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu.get_capabilities()
    return bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def use_all_cores(local_processes: int) -> int:
    """Let torch compute on every core this process may use, shared among the processes here; returns the number.

    `accelerate launch` without --cpu (1.15) gives a process one thread, also where the CPU does all the work.
    """
    threads = max(_cores() // local_processes, 1)
    torch.set_num_threads(threads)
    return threads


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # fewer than the machine has, in a container or under taskset
    return os.cpu_count() or 1
