"""What the machine can do fast."""

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
