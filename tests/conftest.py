"""Keep tests away from the network and the user's caches; use the real images if they are present."""

import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

# Before datasets or huggingface_hub is imported: they read these once
_CACHE = tempfile.TemporaryDirectory(prefix="ham_hf-tests-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
for _name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_TOKEN"):
    os.environ.pop(_name, None)

import pytest  # noqa: E402

from ham_hf.data.sources.synthetic import write_synthetic  # noqa: E402

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def ham10000_dir() -> Path:
    """Return HAM10000 as published: the whole table, and the images of the study's training and validation lesions."""
    folder = SHARED / "ham10000"
    if not folder.is_dir():
        pytest.skip(f"the real images are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def isic_export_dir() -> Path:
    """Return the first 800 rows of an ISIC Archive export; the images are those of `ham10000_dir`."""
    folder = SHARED / "isic_archive_export"
    if not folder.is_dir():
        pytest.skip(f"the ISIC Archive export is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory) -> Path:
    """Return 140 synthetic images in the official layout; copy the folder before changing anything in it."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic(folder, images=140, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a model_name_or_path to a tiny stand-in, made once: copy before changing it."""
    from tests.helpers.tiny_checkpoints import make_tiny_checkpoint  # not above, because it imports torch

    return cache(lambda name: make_tiny_checkpoint(name, tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint) -> Path:
    """Return a tiny ResNet-18 of timm."""
    return tiny_checkpoint("timm/resnet18.tv_in1k")


@pytest.fixture(scope="session")
def patient_model(tiny_checkpoint):
    """Return a function from a kind of patient model to (model, processor)."""
    from tests.helpers.patient_models import build

    return partial(build, tiny_checkpoint)
