"""What a report says of where its numbers were made: versions and hardware."""

import os
import platform
from importlib import metadata

import torch

import ham_hf

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "evaluate",
    "accelerate",
    "timm",
    "scikit-learn",
    "pillow",
)


def versions() -> dict[str, str]:
    """Of Python, ham_hf and PACKAGES, as installed."""
    return {
        "python": platform.python_version(),
        "ham_hf": ham_hf.__version__,
        **{package: metadata.version(package) for package in PACKAGES},
    }


def hardware(device: torch.device) -> dict[str, str]:
    """Of this machine: the kind of `device`, the GPU's name, the kind of CPU and its cores."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {"device": device.type, "gpu": gpu, "cpu": platform.machine(), "cpu_cores": str(os.cpu_count())}
