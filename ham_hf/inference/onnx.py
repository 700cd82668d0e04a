"""Run an ONNX file that `ham-hf export onnx` wrote: weights, labels and preprocessing in one.

ham-hf predict model.onnx photo.jpg folder/ --csv out.csv
"""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ham_hf.inference.classifier import Classifier
from ham_hf.labels import label_set
from ham_hf.models.safe_loading import check_processor
from ham_hf.system.errors import InputError
from ham_hf.system.installation import require

if TYPE_CHECKING:  # the first is in an extra, the others take seconds to import
    import torch
    from onnxruntime import InferenceSession
    from transformers.modeling_outputs import ImageClassifierOutput

SUFFIX = ".onnx"
# In the file's metadata, each as JSON
METADATA = ("ham_hf", "labels", "synthetic", "processor", "disclaimer")


def require_packages(*names: str) -> None:
    """Raise InputError if a package of the extra for ONNX is not installed."""
    for name in names:
        require(name, "onnx", "ONNX")


def open_onnx(path: Path, revision: str | None = None) -> tuple["InferenceSession", dict]:
    """Return the file, ready to run, and its metadata (METADATA).

    Raises:
        InputError: onnxruntime is not installed, or the file is missing, damaged, or not from `ham-hf export onnx`.
    """
    if revision is not None:
        raise InputError(f"{path} is a file, to which --revision {revision} does not apply: remove it")
    if not path.is_file():
        raise InputError(f"no file at {path}: expected one that `ham-hf export onnx` wrote")
    require_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that spin between batches would take the cores from those that decode the next images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base class of their own
        raise InputError(f"{path}: onnxruntime cannot read it: {str(error).splitlines()[0]}") from error
    found = session.get_modelmeta().custom_metadata_map
    if missing := [name for name in METADATA if name not in found]:
        raise InputError(
            f"{path} has no metadata {', '.join(missing)}: expected a file of `ham-hf export onnx`, which also holds "
            "the labels and the preprocessing"
        )
    return session, _read(found, path)


def _read(found: Mapping[str, str], path: Path) -> dict:
    try:
        facts = {name: json.loads(found[name]) for name in METADATA}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata are damaged: {error}") from error
    labels = facts["labels"]
    known = isinstance(labels, list) and all(isinstance(label, str) for label in labels) and label_set(labels)
    if not known or len(labels) != len(known):
        raise InputError(f"{path} has the labels {facts['labels']}: expected the seven diagnoses, or nevus or other")
    return facts


class OnnxModel:
    """The part of a model's interface that a `Classifier` needs: its config, and logits of a batch of pixels."""

    def __init__(self, session: "InferenceSession", labels: list[str]):
        import torch
        from transformers import PreTrainedConfig

        self._session = session
        self.config = PreTrainedConfig(id2label=dict(enumerate(labels)))
        self.device = torch.device("cpu")

    def __call__(self, pixel_values: "torch.Tensor") -> "ImageClassifierOutput":
        """Return `logits` (B, C) of `pixel_values` (B, 3, H, W)."""
        import torch
        from transformers.modeling_outputs import ImageClassifierOutput

        [logits] = self._session.run(["logits"], {"pixel_values": pixel_values.contiguous().numpy()})
        return ImageClassifierOutput(logits=torch.from_numpy(logits))


def load_onnx(session: "InferenceSession", facts: dict) -> Classifier:
    """Return a classifier whose processor prepares images as in training.

    Raises:
        InputError: it does not output a number per label for a blank image.
    """
    from transformers import AutoImageProcessor

    model = OnnxModel(session, facts["labels"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            of_timm = "pretrained_cfg" in facts["processor"]
            file = Path(folder, "config.json" if of_timm else "preprocessor_config.json")
            file.write_text(json.dumps(facts["processor"]), encoding="utf-8")
            processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        check_processor("the ONNX file", processor)
        blank = processor(Image.new("RGB", (80, 60), "gray"), return_tensors="pt")["pixel_values"]
        [logits] = model(pixel_values=blank).logits.tolist()
    except InputError:
        raise
    except Exception as error:  # a processor or a graph that `ham-hf export onnx` did not write
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"the ONNX file cannot process an image ({reason}): export the model again") from error
    if len(logits) != len(facts["labels"]) or not all(map(math.isfinite, logits)):
        raise InputError(
            f"the ONNX file outputs {logits} for an image: expected {len(facts['labels'])} finite numbers; export the "
            "model again"
        )
    return Classifier(model, processor)
