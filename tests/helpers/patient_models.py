"""Build tiny models that read the image and the patient: MMBT in its three encodings, and the fusion baseline."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from ham_hf.config.arguments import ModelArguments
from ham_hf.labels import LABELS
from ham_hf.models.build import Revisions, build_processor
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor
from ham_hf.models.multimodal import build_patient_model, build_patient_processor
from tests.helpers.small_data import noise
from tests.helpers.tiny_checkpoints import IMAGE_SIZE

SITES = ["back", "face", "lower extremity"]
KINDS = ("codes", "sentence", "fields", "mlp")
PATIENTS = [(45.0, "female", "back"), (0.0, "male", "face"), (None, None, None), (80.0, "unknown", "unknown")]


def build(
    tiny_checkpoint: Callable[[str], Path], kind: str, image: str = "microsoft/resnet-50", patient_dropout: float = 0.0
) -> tuple[PatientModel, PatientProcessor]:
    """Return a model in evaluation mode, always with the same weights, and its processor."""
    args = ModelArguments(
        model_name_or_path=str(tiny_checkpoint(image)),
        fusion="mlp" if kind == "mlp" else "mmbt",
        text_model_name_or_path=None if kind == "mlp" else str(tiny_checkpoint("google-bert/bert-base-uncased")),
        patient_encoding="fields" if kind == "mlp" else kind,
        patient_dropout=patient_dropout,
    )
    images = build_processor(
        args.model_name_or_path, revision=None, image_size=IMAGE_SIZE, eval_resize=36, normalization="checkpoint"
    )
    torch.manual_seed(0)
    model = build_patient_model(args, Revisions(), labels=LABELS, sites=SITES, image_size=IMAGE_SIZE)
    return model.eval(), build_patient_processor(args, images, text_revision=None, sites=SITES)


def save(parts: tuple[PatientModel, PatientProcessor], folder: Path) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def photos(count: int) -> list[Image.Image]:
    return [noise(60, 45, seed) for seed in range(count)]


def inputs(processor, patients=PATIENTS) -> dict[str, torch.Tensor]:
    return dict(processor(photos(len(patients)), *zip(*patients, strict=True)))


@torch.no_grad()
def logits(model: PatientModel, processor, patients=PATIENTS) -> torch.Tensor:
    return model(**inputs(processor, patients)).logits
