"""Seven probabilities for one's own photographs, from a run folder or a model on the Hub.

ham-hf predict runs/quickstart photo.jpg folder/ --csv out.csv
"""

import csv
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from ham_hf.errors import InputError
from ham_hf.labels import DIAGNOSES, LABELS
from ham_hf.photos import read_photo, upright_rgb

if TYPE_CHECKING:  # these take seconds to import, and a misspelt file name should not
    from transformers import BaseImageProcessor, PreTrainedModel

BATCH_SIZE = 32


def find_classifier(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Where `load_classifier` finds a model, as (folder or Hub id, commit), without loading or downloading it.

    Raises:
        InputError: there is no such folder or Hub id, or the folder holds no model.
    """
    folder = Path(name)
    if not folder.exists():
        from ham_hf.hub import locate_model

        location, commit = locate_model(name, revision)
        return location, commit if location == name else None  # a folder in the cache has no revisions
    if revision is not None:
        raise InputError(f"{name} is here on this machine, where --revision {revision} means nothing: leave it out")
    if missing := _missing_files(folder):
        checkpoints = sorted(folder.glob("checkpoint-*"))
        remedy = (
            f"its training is not finished; {checkpoints[-1]} is what it has so far"
            if checkpoints
            else "name the run folder of a finished training, or a Hub id"
        )
        raise InputError(f"{name} is no model folder: {', '.join(missing)} not found there; {remedy}")
    return name, None


def _missing_files(folder: Path) -> list[str]:
    missing = [file for file in ("config.json", "preprocessor_config.json") if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in ("model.safetensors", "model.safetensors.index.json")):
        missing.append("model.safetensors")
    return missing


def load_classifier(name: str, revision: str | None = None) -> tuple["PreTrainedModel", "BaseImageProcessor"]:
    """A model that answers the seven diagnoses, in float32 on the GPU if there is one, and its own processor.

    Args:
        name: a run folder or a Hub id.
        revision: commit, branch or tag on the Hub.

    Raises:
        InputError: it is not to be had, is no image classifier, or answers other labels; known before its weights
            are downloaded.
    """
    name, revision = find_classifier(name, revision)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    # Code that comes with a checkpoint is never run
    source = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(name, **source)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{name}: transformers cannot read its config.json: {error}") from error
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"{name} is a {config.model_type} model, no image classifier: expected a run folder of `ham-hf train`, "
            "or a model that AutoModelForImageClassification reads"
        )
    answers = list(config.id2label.values())
    if sorted(answers) != sorted(LABELS):
        shown = ", ".join(map(str, answers[:10])) + (", …" if len(answers) > 10 else "")
        raise InputError(
            f"{name} answers {len(answers)} labels ({shown}): expected the seven diagnoses {', '.join(LABELS)}. "
            "Fine-tune it with `ham-hf train` first"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(name, **source)
        model, loading = AutoModelForImageClassification.from_pretrained(
            name, config=config, dtype="float32", use_safetensors=True, output_loading_info=True, **source
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{name}: its files do not fit together or are damaged: {error}") from error
    if loading["missing_keys"]:
        raise InputError(
            f"{name}: weights are missing, such as {sorted(loading['missing_keys'])[:3]}: it is not whole"
        )
    model.to(memory_format=torch.channels_last)  # convolutions run 1.5 to 3 times as fast on a CPU
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    return model.eval(), processor


def is_trained_on_synthetic_images(name: str) -> bool:
    """Whether a run folder says that its images were made up. A folder or Hub id without run.json says nothing.

    Raises:
        InputError: run.json is there, but not as `ham-hf train` writes it.
    """
    path = Path(name) / "run.json"
    if not path.is_file():
        return False
    try:
        return json.loads(path.read_text(encoding="utf-8"))["data"]["synthetic"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not as `ham-hf train` writes it ({type(error).__name__}: {error})") from error


def iterate_probabilities(
    model: "PreTrainedModel", processor: "BaseImageProcessor", images: Iterable[Image.Image]
) -> Iterator[np.ndarray]:
    """One row (7,) an image, in the order of LABELS. Only one batch of prepared images is held at a time."""
    import torch

    index = {label: i for i, label in model.config.id2label.items()}
    columns = [index[label] for label in LABELS]
    # One image at a time through the processor, as the pipeline does: photographs come in all sizes
    prepared = (processor(images=upright_rgb(image), return_tensors="pt")["pixel_values"] for image in images)
    while batch := list(itertools.islice(prepared, BATCH_SIZE)):
        with torch.inference_mode():
            logits = model(pixel_values=torch.cat(batch).to(model.device)).logits  # (B, 7)
        yield from logits.double().softmax(dim=1)[:, columns].cpu().numpy()


def probabilities(
    model: "PreTrainedModel",
    processor: "BaseImageProcessor",
    images: Iterable[Image.Image],
    *,
    total: int | None = None,
    description: str | None = None,
) -> np.ndarray:
    """The probabilities (N, 7) of N images, in the order of LABELS and in float64, from a model in evaluation mode.

    `total` and `description` are for the progress bar.
    """
    rows = list(_progress(iterate_probabilities(model, processor, images), total, description))
    return np.array(rows).reshape(-1, len(LABELS))


def predict_photos(
    model: "PreTrainedModel", processor: "BaseImageProcessor", photos: Sequence[Path], csv_path: Path | None = None
) -> Iterator[tuple[Path, np.ndarray]]:
    """(photograph, its probabilities (7,)) for each; the CSV appears whole, after the last one, or not at all."""
    rows = iterate_probabilities(model, processor, map(read_photo, photos))
    results = zip(photos, _progress(rows, len(photos), "predicting"), strict=True)
    return results if csv_path is None else _copied_to_csv(results, csv_path)


def check_csv_path(path: Path) -> None:
    """Raises InputError where no CSV could be written, before the work is done."""
    if path.is_dir():
        raise InputError(f"--csv {path} is a folder: name a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--csv {path}: no file can be written in {path.parent}: make that folder, or name another")


def _copied_to_csv(results: Iterable[tuple[Path, np.ndarray]], path: Path) -> Iterator[tuple[Path, np.ndarray]]:
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # surrogateescape: names of files are bytes, and need not be UTF-8
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "prediction", *LABELS])
            for photo, row in results:
                writer.writerow([photo, LABELS[row.argmax()], *row.tolist()])
                yield photo, row
        os.chmod(unfinished, 0o644)  # mkstemp's 0600 would hide it from one's colleagues
        os.replace(unfinished, path)
    except BaseException:  # GeneratorExit and Ctrl-C as well
        os.unlink(unfinished)
        raise


def table(photo: Path, row: np.ndarray) -> str:
    """The photograph's name and its diagnoses, the likeliest first."""
    width = max(map(len, DIAGNOSES.values()))
    lines = [os.fsencode(photo).decode(errors="replace")]
    for i in np.argsort(-row, kind="stable"):
        lines.append(f"  {LABELS[i]:<5}  {DIAGNOSES[LABELS[i]]:<{width}}  {row[i]:.4f}")
    return "\n".join(lines)


def _progress(items: Iterable, total: int | None, description: str | None) -> Iterable:
    # Nothing for a handful, nor in a log file
    return tqdm(
        items, total=total, desc=description, unit="image", leave=False, disable=True if total and total < 20 else None
    )
