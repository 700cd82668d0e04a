"""A trained model, from a run folder or the Hub: where it is, whether it will do, and its probabilities of images."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ham_hf.inference.thresholds import threshold_of
from ham_hf.labels import LABELS, NEVUS_OR_OTHER, diagnosis_code, label_set
from ham_hf.models import safe_loading
from ham_hf.models.loading import load_image_processor, load_weights, locate
from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json

if TYPE_CHECKING:  # these take seconds to import, and a misspelt file name should not
    import torch
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

    from ham_hf.models.mmbt.processing_mmbt import PatientProcessor

# bfloat16 is for folders of this many photographs, if it moved no probability of the validation images further
BF16_PHOTOS = 100
BF16_LIMIT = 0.02
Patient = tuple[float | None, str | None, str | None]  # age in years, sex, body site; None where unknown


def find_classifier(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Where `load_classifier` finds a model, as (folder or Hub id, commit), without loading or downloading it.

    Raises:
        InputError: there is no such folder or Hub id, or the folder holds no model.
    """
    located = locate(name, revision, with_processor=True)
    return located.location, located.source.get("revision")  # a folder in the cache has no revisions


def load_classifier(
    name: str,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    *,
    altered: bool = False,
) -> tuple["PreTrainedModel", "BaseImageProcessor | PatientProcessor"]:
    """A model that answers the seven diagnoses, or nevus or other, and its own processor.

    The model is in float32, in evaluation mode, and on the GPU if there is one. Its config's `id2label` has our codes.

    Args:
        name: a run folder or a Hub id.
        revision: commit, branch or tag on the Hub.
        label_map: code of each of the model's labels that `diagnosis_code` does not know; None for one to leave out.
        altered: take weights too that are not those of the folder's run.json, as `ham-hf verify`, which says so.

    Raises:
        InputError: it is not to be had, is no image classifier, or answers other labels, which is known before its
            weights are downloaded; or these are damaged.
    """
    located = locate(name, revision, with_processor=True)
    import torch
    from transformers import AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    import ham_hf.models.ensemble  # noqa: F401  which AutoConfig knows from then on
    from ham_hf.inference.tta import which_views
    from ham_hf.models.mmbt.modeling_mmbt import PatientModel
    from ham_hf.models.multimodal import load_patient_processor
    from ham_hf.system.hardware import prefers_channels_last

    config = safe_loading.read_config(name, located.location, **located.source)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"{name} is a {config.model_type} model, no image classifier: expected a run folder of `ham-hf train`, "
            "or a model that AutoModelForImageClassification reads"
        )
    _check_labels(name, config)
    config.id2label = _codes(name, config.id2label, label_map or {})
    model, _ = load_weights(located, AutoModelForImageClassification, config, altered=altered)
    processor = (
        load_patient_processor(config, located) if isinstance(model, PatientModel) else load_image_processor(located)
    )
    which_views(model)  # these raise where its config says what cannot be
    threshold_of(model)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if prefers_channels_last(device):
        model.to(memory_format=torch.channels_last)  # convolutions run 1.5 to 3 times as fast on a CPU
    model.to(device)
    _check_answer(name, model.eval(), processor)
    return model, processor


def _check_labels(name: str, config: "PreTrainedConfig") -> None:
    """Raises InputError where it is not clear which label is which of the model's answers."""
    labels = config.id2label
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise InputError(f"{name}: config.json has id2label {str(labels)[:80]}: expected a word for each number")
    if sorted(labels) != list(range(len(labels))):
        raise InputError(
            f"{name}: config.json has id2label with the numbers {str(sorted(labels))[:80]}: expected 0 to "
            f"{len(labels) - 1}, each once, for the model's {len(labels)} answers"
        )
    backward = config.label2id if isinstance(config.label2id, dict) else {}
    for number, label in labels.items():
        if label in backward and str(backward[label]) != str(number) and list(labels.values()).count(label) == 1:
            raise InputError(
                f"{name}: config.json contradicts itself: id2label calls answer {number} {label!r}, label2id says "
                f"that {label!r} is {backward[label]!r}; correct the one that is wrong"
            )


def _check_answer(name: str, model: "PreTrainedModel", processor: "BaseImageProcessor | PatientProcessor") -> None:
    """Raises InputError where model and processor do not work together, before a user's images are read."""
    from ham_hf.inference.batches import image_processor

    safe_loading.check_processor(name, image_processor(processor))
    try:
        [row] = probabilities(model, processor, [Image.new("RGB", (80, 60), "grey")])
    except Exception as error:  # of whatever layer a config's value does not suit
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{name}: it does not answer an image ({reason}): its config.json, preprocessor_config.json and weights "
            "do not belong together"
        ) from error
    if not np.isfinite(row).all():
        raise InputError(
            f"{name}: its answer to an image is {row.tolist()}: expected probabilities; look at image_mean and "
            "image_std in its preprocessor_config.json"
        )


def _codes(name: str, id2label: dict[int, str], label_map: Mapping[str, str | None]) -> dict[int, str | None]:
    """The model's labels as codes; several may have one code, and what is left out has None."""
    answers = list(id2label.values())
    if unknown := sorted(set(label_map) - set(answers)):
        raise InputError(f"--label_map names {unknown[0]!r}, which {name} does not answer: expected {answers}")
    codes = {i: label_map[label] if label in label_map else diagnosis_code(label) for i, label in id2label.items()}
    unmapped = [id2label[i] for i, code in codes.items() if code is None and id2label[i] not in label_map]
    if unmapped or label_set(filter(None, codes.values())) is None:
        shown = ", ".join(map(str, answers[:10])) + (", …" if len(answers) > 10 else "")
        raise InputError(
            f"{name} answers {len(answers)} labels ({shown}): expected the seven diagnoses {', '.join(LABELS)}, or "
            f"{', '.join(NEVUS_OR_OTHER)}. "
            "Fine-tune it with `ham-hf train` first, or say what its labels mean with --label_map"
        )
    return codes


def labels_of(model: "PreTrainedModel") -> tuple[str, ...]:
    """What a classifier tells apart, in this project's order."""
    return label_set(filter(None, model.config.id2label.values()))


def is_trained_on_synthetic_images(name: str, revision: str | None = None) -> bool:
    """Whether a model's run.json says that its images were made up. A folder or Hub id without one says nothing.

    Raises:
        InputError: run.json is there, but not as `ham-hf train` writes it, or the Hub does not give it.
    """
    folder = name if Path(name).exists() else _folder_with("run.json", name, revision)
    return _run_facts(folder, lambda run: run["data"]["synthetic"], False)


def training_data_of(name: str, revision: str | None = None) -> dict | None:
    """What a model's run.json says of its data; None for a folder or Hub id without one.

    Raises:
        InputError: run.json is there, but not as `ham-hf train` writes it, or the Hub does not give it.
    """
    from ham_hf.inference.run_record import check_facts

    path = find_run_file(name, "run.json", revision)
    if path is None:
        return None
    facts = read_json(path)
    check_facts(facts, path)
    return facts["data"]


def find_run_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Return the path of a small file that a training writes beside the model, or None where there is none.

    Args:
        name: a run folder, a checkpoint in one (whose file may be in the run folder), or a Hub id.
        file: such as "run.json"; downloaded from the Hub where it is not in the cache.
        revision: commit, branch or tag on the Hub.

    Raises:
        InputError: the Hub does not give it.
    """
    folder = Path(name if Path(name).exists() else _folder_with(file, name, revision)).resolve()
    path = folder / file
    if not path.is_file() and re.fullmatch(r"checkpoint-\d+", folder.name):
        path = folder.parent / file  # of its run
    return path if path.is_file() else None


def _folder_with(file: str, name: str, revision: str | None) -> str:
    """Where a Hub model's `file` is downloaded to, or is in the cache; the id itself where it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError

    location, commit = find_classifier(name, revision)
    if commit is None:  # the cached folder: there is no network
        return location
    try:
        return str(Path(hf_hub_download(location, file, revision=commit)).parent)
    except RemoteEntryNotFoundError:
        return name
    except (HTTPError, OSError) as error:  # no answer is not a no
        raise InputError(f"{name}: its {file}, if it has one, cannot be downloaded: {error}") from error


def usable_bf16_difference(name: str, photos: int) -> float | None:
    """For `iterate_probabilities`: how far bfloat16 was from float32 on the run's validation images.

    None where float32 is to be used: for a few photographs, without hardware for bfloat16, or where the run does not
    say it or says that it is far.
    """
    difference = _run_facts(name, lambda run: run.get("model", {}).get("bf16_difference"), None)  # not in an older run
    if difference is None or photos < BF16_PHOTOS:
        return None
    if isinstance(difference, bool) or not isinstance(difference, int | float) or not 0 <= difference <= 1:
        raise InputError(f"{name}/run.json has bf16_difference {difference!r}: expected a number from 0 to 1")
    if difference > BF16_LIMIT:
        return None
    from ham_hf.system.hardware import supports_bf16

    return difference if supports_bf16() else None


def _run_facts(name: str, read: Callable[[dict], Any], otherwise: Any) -> Any:
    path = Path(name) / "run.json"
    if not path.is_file():
        return otherwise
    run = read_json(path)
    try:
        return read(run)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not as `ham-hf train` writes it ({type(error).__name__}: {error})") from error


def iterate_probabilities(
    model: "PreTrainedModel",
    processor: "BaseImageProcessor | PatientProcessor",
    images: Iterable,
    patients: Iterable[Patient] | None = None,
    *,
    read: Callable[[Any], Image.Image] = lambda image: image,
    bf16_difference: float | None = None,
) -> Iterator[np.ndarray]:
    """One row an image, in the order of `labels_of(model)`. A bounded number of images is held at a time.

    Args:
        model: from `load_classifier`, and so its `processor`.
        images: images, or what `read` makes an image of in another thread, such as a path.
        patients: as many; a model that does not read them ignores them, one that does takes None for unknown ones.
        read: item of `images` → image.
        bf16_difference: compute in bfloat16, whose probabilities are this far from float32's at most: where that
            could change the answer, the image is computed again in float32 (never, where this is below 0).
            None: float32 throughout.
    """
    for inputs in _batches(model, processor, images, patients, read):
        yield from _rows(model, inputs) if bf16_difference is None else _bf16_rows(model, inputs, bf16_difference)


def _batches(
    model: "PreTrainedModel",
    processor: "BaseImageProcessor | PatientProcessor",
    images: Iterable,
    patients: Iterable[Patient] | None,
    read: Callable[[Any], Image.Image],
) -> Iterator[dict]:
    """What `iterate_probabilities` is called with, as batches on the model's device."""
    from ham_hf.inference.batches import prepared_batches
    from ham_hf.models.mmbt.modeling_mmbt import PatientModel
    from ham_hf.system.hardware import keep_freed_memory

    if model.device.type == "cpu":
        keep_freed_memory()  # a forward pass of a convolutional model takes half as long
    if not isinstance(model, PatientModel):
        patients = None
    for batch in prepared_batches(processor, images, read, patients):
        # Not non_blocking: an Apple GPU would read the batch after its memory is freed
        yield {name: tensor.to(model.device) for name, tensor in batch.items()}


def _bf16_rows(model: "PreTrainedModel", inputs: dict, difference: float) -> np.ndarray:
    import torch

    with torch.autocast(model.device.type, torch.bfloat16):
        rows = _rows(model, inputs)
    second, first = np.sort(rows, axis=1)[:, -2:].T
    undecided = first - second <= 2 * difference
    if (threshold := threshold_of(model)) is not None:
        undecided |= abs(rows[:, labels_of(model).index("mel")] - threshold) <= difference
    close = np.flatnonzero(undecided)
    if len(close):
        rows[close] = _rows(model, {name: tensor[torch.from_numpy(close)] for name, tensor in inputs.items()})
    return rows


def _rows(model: "PreTrainedModel", inputs: dict) -> np.ndarray:
    """The probabilities of a batch, (B, C) in the order of `labels_of(model)`."""
    from ham_hf.models.check import check_logits

    codes = model.config.id2label
    columns = [[i for i, code in codes.items() if code == label] for label in labels_of(model)]
    logits = _logits(model, inputs)  # (B, views, C)
    check_logits(logits[:, 0], len(logits), len(codes))
    softmax = logits.softmax(dim=2).mean(dim=1).numpy()
    rows = np.stack([softmax[:, of_label].sum(axis=1) for of_label in columns], axis=1)
    # What the model gives to labels that are left out goes to the others in proportion
    return rows / rows.sum(axis=1, keepdims=True) if None in codes.values() else rows


def _logits(model: "PreTrainedModel", inputs: dict) -> "torch.Tensor":
    import torch

    from ham_hf.inference.tta import view_logits

    # Not inference_mode: BEiT keeps tensors of a pass, with which a later training in the process would fail
    with torch.no_grad():
        return view_logits(model, inputs)


def all_view_logits(
    model: "PreTrainedModel",
    processor: "BaseImageProcessor | PatientProcessor",
    images: Iterable,
    patients: Iterable[Patient] | None = None,
    *,
    read: Callable[[Any], Image.Image] = lambda image: image,
    total: int | None = None,
    description: str | None = None,
) -> np.ndarray:
    """The logits (N, views, C) float64 that `probabilities` with the same arguments are the mean softmax of."""
    batches = _batches(model, processor, images, patients, read)
    rows = (row for inputs in batches for row in _logits(model, inputs).numpy())
    return np.array(list(progress(rows, total, description)))


def probabilities(
    model: "PreTrainedModel",
    processor: "BaseImageProcessor | PatientProcessor",
    images: Iterable,
    patients: Iterable[Patient] | None = None,
    *,
    read: Callable[[Any], Image.Image] = lambda image: image,
    bf16_difference: float | None = None,
    total: int | None = None,
    description: str | None = None,
) -> np.ndarray:
    """The probabilities (N, C) of N images, in the order of `labels_of(model)`, in float64, of a model in evaluation.

    All else is as for `iterate_probabilities`; `total` and `description` are for the progress bar.
    """
    rows = iterate_probabilities(model, processor, images, patients, read=read, bf16_difference=bf16_difference)
    rows = list(progress(rows, total, description))
    return np.array(rows).reshape(-1, len(labels_of(model)))


def progress(items: Iterable, total: int | None, description: str | None) -> Iterable:
    """`items` with a bar of images; none for a handful, nor in a log file."""
    return tqdm(
        items, total=total, desc=description, unit="image", leave=False, disable=True if total and total < 20 else None
    )
