"""Finished runs with tiny random models, and with files that must not be published."""

import json
import shutil
from pathlib import Path

import torch

from ham_hf.config.arguments import ModelArguments
from ham_hf.labels import LABELS
from ham_hf.models.build import Revisions, build_model, build_processor
from ham_hf.models.multimodal import build_patient_model, build_patient_processor, copy_pipeline
from ham_hf.reporting.report import write_report
from tests.helpers.fake_runs import make_run
from tests.helpers.tiny_checkpoints import IMAGE_SIZE, make_tiny_checkpoint

SITES = ["back", "face"]
SETTINGS = {"revision": None, "image_size": IMAGE_SIZE, "eval_resize": 36, "normalization": "checkpoint"}


def make_image_run(folder: Path) -> Path:
    """Write a run of an image model into the new `folder`."""
    name = str(make_tiny_checkpoint("microsoft/resnet-50", folder.with_name("resnet")))
    torch.manual_seed(0)
    return _finish(make_run(folder, images=(40, 0)), build_model(name), build_processor(name, **SETTINGS))


def make_patient_run(folder: Path) -> Path:
    """Write a run of an MMBT model, with an ablation, into the new `folder`."""
    args = ModelArguments(
        model_name_or_path=str(make_tiny_checkpoint("microsoft/resnet-50", folder.with_name("resnet"))),
        fusion="mmbt",
        text_model_name_or_path=str(make_tiny_checkpoint("google-bert/bert-base-uncased", folder.with_name("bert"))),
        patient_encoding="sentence",
    )
    images = build_processor(args.model_name_or_path, **SETTINGS)
    torch.manual_seed(0)
    model = build_patient_model(args, Revisions(), labels=LABELS, sites=SITES, image_size=IMAGE_SIZE)
    processor = build_patient_processor(args, images, text_revision=None, sites=SITES)
    _finish(make_run(folder, images=(40, 0)), model, processor)
    copy_pipeline(folder)
    (folder / "ablation").mkdir()
    (folder / "ablation" / "shuffled.csv").write_text("image_id\n")
    return folder


def _finish(run: Path, *parts) -> Path:
    """Save model and processor into a run folder, with a report and files that are private."""
    torch.manual_seed(0)
    for part in parts:
        part.save_pretrained(run)
    write_report(run)
    (run / "arguments.json").write_text(json.dumps({"data_dir": "my images", "output_dir": str(run)}, indent=2) + "\n")
    (run / "recipe.yaml").write_text("seed: 42\n")
    (run / "patients_validation.csv").write_text("image_id,age,sex,localization,dx_type\n")
    (run / "checkpoint-7").mkdir()
    for name in ("training_args.bin", "optimizer.pt", "trained_weights.safetensors", "train.log", "photo.jpg"):
        (run / name).write_bytes(b"private")
        (run / "checkpoint-7" / name).write_bytes(b"private")
    shutil.copy(run / "model.safetensors", run / "checkpoint-7")
    return run
