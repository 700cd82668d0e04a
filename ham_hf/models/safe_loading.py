"""Read only plain values and safetensors of a model folder or of a model on the Hub: no pickle, and no code.

Reading a pickle runs whatever its author put into it, and so do Python files beside the weights with
`trust_remote_code=True`, which is False wherever this package loads anything.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_hf.system.errors import InputError
from ham_hf.system.serialization import read_json

if TYPE_CHECKING:  # these take seconds to import
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
_SHARDS = "model-*-of-*.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")

# Of models that ham_hf 0.1.0 wrote and no later version reads
COLOR_CONSTANCY = "requires color_constancy, which was removed after ham_hf 0.1.0: use that version, or train it again"

# Limits for a config; a loop over more would seem to hang
MOST_LAYERS = 1000
MOST_LABELS = 100_000
MOST_SIDE = 4096  # pixels of an image that a processor returns
LEAST_CROP = 0.1  # of an image's side that timm's processor keeps: it first enlarges the image to size / crop_pct
MOST_NEW = 50_000_000  # values that a model may have besides those in its file: transformers would initialize them
# Arguments of timm's models that name files to read
_FILES_OF_TIMM = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def no_safetensors(name: str, found: str = "", model_class: str = "AutoModelForImageClassification") -> str:
    """Return why a model without safetensors is refused, and the command that converts its pickle.

    Args:
        name: a folder or a Hub id.
        found: the pickle, if there is one.
        model_class: the class of transformers that loads it.
    """
    target = f"{name.rstrip('/').rpartition('/')[2] or 'model'}-safetensors"
    processor = "AutoTokenizer" if model_class == "BertModel" else "AutoImageProcessor"
    code = (
        f"from transformers import {processor}, {model_class}; name, folder = {json.dumps([name, target])}; "
        f"{model_class}.from_pretrained(name).save_pretrained(folder); "
        f"{processor}.from_pretrained(name).save_pretrained(folder)"
    )
    what = f"its weights are in {found}, a pickle" if found else "if its weights are a pickle (pytorch_model.bin)"
    return (
        f"{name} has no {WEIGHTS}, the only supported format: {what}"
        f"{', which' if found else ', that'} runs whatever its author put into it when it is read. If you trust its "
        f"author, this converts it to safetensors in the folder {target}:\n  {shlex.join(['python', '-c', code])}"
    )


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Turn whatever transformers and timm raise for unexpected values into an InputError that begins with `what`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error


def read_config(name: str, location: str, **source: str | None) -> "PreTrainedConfig":
    """Return the config of a model, in one of transformers' or our own classes.

    Args:
        name: for messages.
        location: a folder or a Hub id; `source` may have its `revision`.

    Raises:
        InputError: it cannot be read, requires its own code, or has files, code or sizes that are not allowed.
    """
    from transformers import AutoConfig, PreTrainedConfig

    import ham_hf.models.own_models  # noqa: F401  registers them with AutoConfig

    with refused_as(f"{name}: transformers cannot read its config.json"):
        values, _ = PreTrainedConfig.get_config_dict(location, **source)
        _check_values(name, values)
        config = AutoConfig.from_pretrained(location, trust_remote_code=False, **source)
    if config.model_type == "timm_wrapper" and isinstance(config.model_args, dict):
        config.model_args.pop("num_classes", None)  # of timm's save_for_hf; transformers passes its own
    return config


def _check_values(name: str, config: Any) -> None:
    for key, value in entries(config):
        wrong = None
        if value == "ColorConstancyImageProcessor":
            raise InputError(f"{name} {COLOR_CONSTANCY}")
        if any(not character.isprintable() and character not in "\n\t" for character in f"{key}{value}"):
            wrong = "must not contain control characters"
        elif key == "transformers_weights" and value is not None:
            wrong = f"expected the weights in {WEIGHTS}"
        elif key.endswith("_implementation") and "/" in str(value):
            wrong = "that is code on the Hub; remove it"
        elif key == "model_args" and isinstance(value, Mapping) and (files := set(value) & set(_FILES_OF_TIMM)):
            wrong = f"{sorted(files)[0]} would read another file; remove it"
        elif key == "architecture" and not re.fullmatch(r"[\w.-]+", str(value)):
            wrong = "expected the name of an architecture"
        elif key in ("num_labels", "num_classes") and _sum(value) > MOST_LABELS:
            wrong = f"expected {MOST_LABELS:,} labels at most"
        elif re.search("layers|depth|blocks", key) and _sum(value) > MOST_LAYERS:
            wrong = f"expected {MOST_LAYERS:,} at most"
        if wrong:
            raise InputError(f"{name}: config.json has {key} {str(value)[:80]!r}: {wrong}")


def entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and its value, at any depth."""
    match config:
        case dict():
            for key, value in config.items():
                yield key, value
                yield from entries(value)
        case list():
            for value in config:
                yield from entries(value)


def _sum(value: Any) -> float:
    numbers = value if isinstance(value, list) else [value]
    return sum(number for number in numbers if isinstance(number, int | float))


def fetch_weights(
    name: str, location: str, revision: str | None, model_class: str = "AutoModelForImageClassification"
) -> Path:
    """Return the folder with a model's safetensors: `location`, or the one to which they are downloaded from the Hub.

    Raises:
        InputError: there are none, they are not valid, or not available.
    """
    folder = Path(location)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HTTPError

        from ham_hf.system.hub_access import HubUnreachable

        try:
            folder = Path(snapshot_download(location, revision=revision, allow_patterns=[WEIGHTS, _SHARDS, INDEX]))
        except (HTTPError, OSError) as error:
            raise HubUnreachable(f"{name}: its weights cannot be downloaded: {error}") from error
    check_weights(name, folder, model_class)
    for path in _files_of(folder):
        _check_names(name, path)
    return folder


def check_weights(name: str, folder: Path, model_class: str = "AutoModelForImageClassification") -> None:
    """Raise an InputError if a folder has no weights in safetensors, or others would be read instead."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{name} is an adapter (adapter_config.json) of another model: expected a complete model, as returned by "
            "peft's `merge_and_unload`"
        )
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX)
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    raise InputError(no_safetensors(name, pickles[0] if pickles else "", model_class))


def _check_index(path: Path) -> None:
    """Check the index of weights in several files, because transformers would read a pickle that it names."""
    index = read_json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise InputError(f"{path} has no weight_map: expected the index that save_pretrained writes")
    for file in files.values():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise InputError(f"{path} names {file!r}: expected files that end in .safetensors, in the same folder")
        if not (path.parent / file).is_file():
            raise InputError(f"{path} names {file}, which is missing: the model is incomplete; download it again")


def _files_of(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    return [folder / file for file in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]


def _check_names(name: str, path: Path) -> None:
    """Check the names of the tensors, because transformers prints those that it does not use."""
    from safetensors import SafetensorError, safe_open

    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: permission denied to read {path.name}: ask its owner for read permission")
    try:
        with safe_open(path, framework="numpy") as file:
            odd = [key for key in file.keys() if not key.isprintable()]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name}: its files do not fit together or are damaged: {path.name}: {error}") from error
    if odd:
        raise InputError(f"{name}: {path.name} has a tensor {odd[0]!r}: names must not contain control characters")


def check_recorded(name: str, folder: Path) -> None:
    """Raise an InputError if the weights are not those that the folder's run.json, if any, records.

    A flipped bit on a disk changes predictions, and nothing else would reveal it.
    """
    from ham_hf.system.environment import weights_sha256

    run = read_json(folder / "run.json") if (folder / "run.json").is_file() else None
    model = run.get("model") if isinstance(run, dict) else None
    recorded = model.get("weights_sha256") if isinstance(model, dict) else None
    if recorded is None:  # an older run does not record them
        return
    there = weights_sha256(folder)
    before = recorded if isinstance(recorded, dict) else {}
    for file in sorted(before.keys() | there.keys()):
        if before.get(file) != there.get(file):
            raise InputError(
                f"{name}: {file} is not the file that its training wrote (run.json has another SHA-256): it was "
                "damaged or replaced, and the report does not apply to it; restore it, or move other weights and "
                "their config.json into another folder"
            )


def check_proportion(name: str, folder: Path, make: Callable[[], "PreTrainedModel"]) -> None:
    """Raise an InputError if a config describes a far larger model than its weights.

    transformers would initialize the missing weights before it reports them, until the memory is full.

    Args:
        name: for messages.
        folder: with the weights.
        make: returns a new model of the config; called on the meta device, which takes no memory.
    """
    import torch

    with torch.device("meta"):
        model = make()
    values = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    bytes_there = sum(path.stat().st_size for path in _files_of(folder))
    if values > bytes_there + MOST_NEW:
        raise InputError(
            f"{name}: config.json describes a model of {values:,} values, but its weights have {bytes_there:,} bytes: "
            "they do not belong together"
        )


def check_finite(name: str, model: "PreTrainedModel") -> None:
    """Raise an InputError for the first tensor of a model that has NaN or infinite values."""
    import torch

    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # A NaN is both; one pass without a copy: isfinite takes 15 times as long
        if not all(map(math.isfinite, torch.aminmax(tensor))):
            broken = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{name}: {broken:,} of {tensor.numel():,} values of {key} are NaN or infinite, so its predictions "
                "would be meaningless: its training diverged, or the file is damaged; use an earlier checkpoint"
            )


def check_processor(name: str, processor: "BaseImageProcessor") -> None:
    """Raise an InputError for a processor whose images would fill the memory."""
    for key, value in entries(processor.to_dict()):
        numbers = [number for number in _numbers(value) if not 0 <= number <= MOST_SIDE]  # false for NaN as well
        if "size" in key and numbers:
            raise InputError(f"{name}: its processor has {key} {value}: expected {MOST_SIDE} pixels at most")
        if key == "crop_pct" and not min(_numbers(value), default=0) >= LEAST_CROP:  # true for NaN as well
            raise InputError(f"{name}: its processor has crop_pct {value}: expected {LEAST_CROP} at least")


def _numbers(value: Any) -> Iterator[float]:
    match value:
        case dict():
            for item in value.values():
                yield from _numbers(item)
        case list() | tuple():
            for item in value:
                yield from _numbers(item)
        case int() | float():
            yield value
