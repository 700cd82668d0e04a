"""Export a classifier as one ONNX file that holds all that is needed to use it.

ham-hf export onnx runs/my_run --output model.onnx
"""

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import ham_hf
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import find_classifier, load_classifier
from ham_hf.inference.onnx import load_onnx, open_onnx, require_packages
from ham_hf.inference.run_files import is_trained_on_synthetic_images
from ham_hf.labels import DISCLAIMER
from ham_hf.system.errors import InputError
from ham_hf.system.outputs import check_output

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

TOLERANCE = 1e-4  # of a probability
LARGEST = 2_000_000_000  # bytes: protobuf's limit for one file is 2 GiB
CHECKED = 33  # images, more than one batch


def export_onnx(
    name: str, output: Path | None, revision: str | None = None, label_map: Mapping[str, str | None] | None = None
) -> tuple[Path, float]:
    """Write the model `name` to `output`, after checking that both give the same probabilities.

    The file has the input `pixel_values` (B, 3, H, W) for any B, the output `logits` (B, C), and in its metadata the
    labels, the processor's configuration, whether the training images were synthetic, and the disclaimer. It computes
    one view of an image, whatever test-time augmentation the model's config has.

    Args:
        name, revision, label_map: see `load_classifier`.
        output: by default model.onnx, in the run folder, or in the working directory for a Hub id.

    Returns:
        The file, and the largest difference of a probability among CHECKED synthetic images.

    Raises:
        InputError: a package is missing, the model is not available or cannot be exported, the file cannot be
            written, or its probabilities differ.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    location, commit = find_classifier(name, revision)
    path = output or (Path(name) if Path(name).is_dir() else Path()) / "model.onnx"
    check_output("--output", path, ".onnx")
    from ham_hf.inference.tta import set_test_time_augmentation

    synthetic = is_trained_on_synthetic_images(name, revision)
    classifier = load_classifier(location, commit, label_map)
    model: PreTrainedModel = classifier.model  # load_classifier loads no ONNX file
    processor = classifier.processor
    set_test_time_augmentation(model, "none")
    _check_kind(name, classifier)
    facts = {
        "ham_hf": ham_hf.__version__,
        "labels": [model.config.id2label[i] for i in range(model.config.num_labels)],
        "synthetic": synthetic,
        "processor": _processor_facts(model, processor),
        "disclaimer": DISCLAIMER,
    }
    example = processor(Image.new("RGB", (600, 450)), return_tensors="pt")["pixel_values"]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx-") as folder:
        unfinished = Path(folder) / path.name
        _write(name, model.cpu(), example.shape[1:], facts, unfinished)
        difference = _largest_difference(classifier, unfinished)
        if not difference <= TOLERANCE:  # false for NaN as well
            raise InputError(
                f"{name} gives other probabilities in ONNX: they differ by up to {difference:.2g}, expected "
                f"at most {TOLERANCE:g}. Nothing was written"
            )
        os.replace(unfinished, path)
    return path, difference


def _processor_facts(model: "PreTrainedModel", processor: "BaseImageProcessor") -> dict:
    """Return what AutoImageProcessor reads, which for a timm model is a part of timm's config.json."""
    from transformers import TimmWrapperImageProcessor

    if isinstance(processor, TimmWrapperImageProcessor):
        return {
            "architecture": model.config.architecture,
            "num_classes": model.config.num_labels,
            "pretrained_cfg": processor.data_config,
        }
    return processor.to_dict()


def _check_kind(name: str, classifier: Classifier) -> None:
    model: PreTrainedModel = classifier.model
    if classifier.reads_patients:
        raise InputError(
            f"{name} uses patient data in addition to the image ({type(model).__name__}), which the export does not "
            "support: expected a model that uses only the image"
        )
    codes = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if sorted(codes, key=str) != sorted(classifier.labels):
        raise InputError(
            f"{name} has outputs that are dropped or share a diagnosis ({', '.join(map(str, codes))}): expected one "
            "output for each diagnosis, since an ONNX file holds the outputs as they are"
        )
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > LARGEST:
        raise InputError(f"{name} has {size / 1e9:.1f} GB of weights: an ONNX file holds at most 2 GB")


def _write(name: str, model: "PreTrainedModel", shape: tuple[int, ...], facts: dict, path: Path) -> None:
    import torch
    from torch.onnx import OnnxExporterError

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=pixel_values).logits

    # The exporter cannot view BEiT's heads after SDPA; ONNX computes the same either way
    model.set_attn_implementation("eager")
    model.to(memory_format=torch.contiguous_format)  # for the same reason
    example = torch.zeros(2, *shape)  # a batch size of 1 would be exported as a constant
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Logits().eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["pixel_values"],
                output_names=["logits"],
                dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            )
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{name}: torch cannot write a {model.config.model_type} model as ONNX: {reason}") from error
    assert program is not None  # it is, unless the exporter is told to write a file itself
    program.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    program.save(path, external_data=False)


def _largest_difference(classifier: Classifier, path: Path) -> float:
    from ham_hf.data.sources.synthetic import LOOKS, draw_image

    looks, random = list(LOOKS.values()), np.random.default_rng
    images = [draw_image(looks[number % len(looks)], random(number), random(number)) for number in range(CHECKED)]
    ours = probabilities(classifier, images)
    theirs = probabilities(load_onnx(*open_onnx(path)), images)
    return float(abs(ours - theirs).max())
