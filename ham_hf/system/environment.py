"""Where the figures of a report come from: versions, hardware, and the weights they belong to."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

import ham_hf
from ham_hf.system.files import file_digest

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
    """Return the installed versions of Python, ham_hf and PACKAGES."""
    return {
        "python": platform.python_version(),
        "ham_hf": ham_hf.__version__,
        **{package: metadata.version(package) for package in PACKAGES},
    }


def hardware(device: torch.device) -> dict[str, str]:
    """Describe this machine: the kind of `device`, the GPU's name, the kind of CPU and its cores."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    facts = {"device": device.type, "gpu": gpu, "cpu": platform.machine(), "cpu_cores": str(os.cpu_count())}
    return facts | {"threads": str(torch.get_num_threads())}


def hindrances(device: torch.device, full_determinism: bool) -> list[str]:
    """Return the settings that keep the same recipe, seed and machine from reproducing predictions to the byte."""
    if device.type == "cpu" or full_determinism:
        return []
    return [f"kernels on {device.type} may add in another order each time: `full_determinism: true` forbids it"]


def weights_sha256(folder: Path) -> dict[str, str]:
    """Return file name → SHA-256 of the weights in a model folder."""
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
