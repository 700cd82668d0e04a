"""`ham-hf env`: versions, hardware and paths, to paste into a bug report."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ham_hf import __version__
from ham_hf.cli.parser import Commands
from ham_hf.system.installation import CLONE, is_clone

PACKAGES = (
    *("torch", "torchvision", "transformers", "datasets", "accelerate", "huggingface_hub", "evaluate", "timm"),
    *("numpy", "pandas", "pillow", "scikit-learn", "matplotlib"),
)
OPTIONAL = ("gradio", "onnx", "onnxruntime", "captum", "optuna", "pillow-heif", "tensorboard", "trackio", "wandb")
VARIABLES = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HF_DATASETS_CACHE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)
GB = 1e9


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "env",
        help="print versions, hardware and paths for a bug report",
        description="Print versions, hardware and paths, to paste into a bug report. Tokens are not shown.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the environment."""
    print("Copy the text below into your bug report.\n")
    for name, value in (*_software(), *_hardware(), *_paths()):
        print(f"- {name}: {value}")


def _software() -> Iterator[tuple[str, str]]:
    yield "ham_hf", f"{__version__} ({f'clone in {CLONE}' if is_clone() else 'installed package'})"
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    for name in PACKAGES:
        yield name, _version(name) or "not installed"
    for name in OPTIONAL:
        if version := _version(name):
            yield name, version


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _hardware() -> Iterator[tuple[str, str]]:
    import psutil
    import torch

    from ham_hf.system.hardware import has_accelerator, supports_bf16, usable_cores

    memory = psutil.virtual_memory()
    yield "CPU", f"{platform.machine()}, {usable_cores()} usable of {os.cpu_count()} cores"
    yield "memory", f"{memory.available / GB:.1f} GB free of {memory.total / GB:.1f} GB"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        yield "GPU", ", ".join(f"{gpu.name} ({gpu.total_memory / GB:.0f} GB)" for gpu in gpus)
        yield "CUDA", str(torch.version.cuda)
    elif has_accelerator():
        yield "GPU", str(torch.accelerator.current_accelerator())
    else:
        yield "GPU", "none"
    yield "bfloat16 in hardware", "yes" if supports_bf16() else "no"


def _paths() -> Iterator[tuple[str, str]]:
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub import constants, get_token

    yield "Hub", f"{constants.ENDPOINT}, {'with' if get_token() else 'without'} a token"
    for name, folder in {
        "current folder": Path.cwd(),
        "models cache": Path(constants.HF_HUB_CACHE),
        "datasets cache": Path(HF_DATASETS_CACHE),
    }.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        writable = "" if os.access(existing, os.W_OK) else ", not writable"
        yield name, f"{folder} ({shutil.disk_usage(existing).free / GB:.1f} GB free{writable})"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]
