"""What is read of a model folder, or of a model on the Hub: plain values and safetensors; no pickle, and no code.

A pickle runs whatever its author put into it when it is read, and so do Python files beside the weights with
`trust_remote_code=True`, which is False wherever this package loads anything.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
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

# What a config may ask for at most; a loop over more would seem to hang
MOST_LAYERS = 1000
MOST_LABELS = 100_000
MOST_SIDE = 4096  # pixels of an image that a processor makes
LEAST_CROP = 0.1  # of an image's side that timm's preparation keeps: it first enlarges the image to size / crop_pct
MOST_NEW = 50_000_000  # values that a model may have beside those of its file: transformers would make and fill them
# Arguments of timm's models that are files to read
_FILES_OF_TIMM = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def no_safetensors(name: str, found: str = "", model_class: str = "AutoModelForImageClassification") -> str:
    """Why a model without safetensors is refused, and the command that makes some of its pickle.

    Args:
        name: a folder or a Hub id.
        found: the pickle that was found.
        model_class: transformers' class that loads it.
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
        f"{name} has no {WEIGHTS}, the one format of weights that is read here: {what}"
        f"{', which' if found else ', that'} runs whatever its author put into it when it is read. Where you trust "
        f"its author, this makes safetensors of it, in the folder {target}:\n  {shlex.join(['python', '-c', code])}"
    )


def read_config(name: str, location: str, **source: str | None) -> "PreTrainedConfig":
    """The config of a model, in one of transformers' or our own classes.

    Args:
        name: for messages.
        location: a folder or a Hub id; `source` may have its `revision`.

    Raises:
        InputError: it cannot be read or needs code of its own, or asks for files, code or sizes that no config should.
    """
    from transformers import AutoConfig, PreTrainedConfig

    try:
        values, _ = PreTrainedConfig.get_config_dict(location, **source)
        _check_values(name, values)
        config = AutoConfig.from_pretrained(location, trust_remote_code=False, **source)
    except InputError:
        raise
    except Exception as error:  # transformers raises anything at all about values that are not as they should be
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{name}: transformers cannot read its config.json: {reason}") from error
    if config.model_type == "timm_wrapper" and isinstance(config.model_args, dict):
        config.model_args.pop(
            "num_classes", None
        )  # timm's save_for_hf writes it here too; transformers passes its own
    return config


def _check_values(name: str, config: Any) -> None:
    for key, value in entries(config):
        wrong = None
        if value == "ColorConstancyImageProcessor":
            raise InputError(f"{name} {COLOR_CONSTANCY}")
        if any(not character.isprintable() and character not in "\n\t" for character in f"{key}{value}"):
            wrong = "expected no control characters"
        elif key == "transformers_weights" and value is not None:
            wrong = f"expected the weights in {WEIGHTS}"
        elif key.endswith("_implementation") and "/" in str(value):
            wrong = "that is code on the Hub; leave it out"
        elif key == "model_args" and isinstance(value, Mapping) and (files := set(value) & set(_FILES_OF_TIMM)):
            wrong = f"expected no {sorted(files)[0]}, which is a file of its own; leave it out"
        elif key == "architecture" and not re.fullmatch(r"[\w.-]+", str(value)):
            wrong = "expected the name of an architecture"
        elif key in ("num_labels", "num_classes") and _sum(value) > MOST_LABELS:
            wrong = f"expected {MOST_LABELS:,} labels at most"
        elif re.search("layers|depth|blocks", key) and _sum(value) > MOST_LAYERS:
            wrong = f"expected {MOST_LAYERS:,} at most"
        if wrong:
            raise InputError(f"{name}: config.json has {key} {str(value)[:80]!r}: {wrong}")


def entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key and its value, at any depth."""
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
    """The folder with a model's safetensors: `location` itself, or where they are downloaded to from the Hub.

    Raises:
        InputError: there are none, they are not what they should be, or cannot be had.
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
    """Raises InputError where a folder has no weights in safetensors, or others would be read in their place."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{name} is an adapter (adapter_config.json) of another model: expected a whole one, as "
            "`merge_and_unload` of peft makes it"
        )
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX)
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    raise InputError(no_safetensors(name, pickles[0] if pickles else "", model_class))


def _check_index(path: Path) -> None:
    """Of weights in several files: transformers would read a pickle, if the index named one."""
    index = read_json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise InputError(f"{path} has no weight_map: expected the index that save_pretrained writes")
    for file in files.values():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise InputError(f"{path} names {file!r}: expected files that end in .safetensors, in the same folder")
        if not (path.parent / file).is_file():
            raise InputError(f"{path} names {file}, which is not there: the model is not whole; fetch it again")


def _files_of(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    return [folder / file for file in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]


def _check_names(name: str, path: Path) -> None:
    """transformers prints the names of tensors that it has no use for."""
    from safetensors import SafetensorError, safe_open

    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: permission denied to read {path.name}: ask its owner for read permission")
    try:
        with safe_open(path, framework="numpy") as file:
            odd = [key for key in file.keys() if not key.isprintable()]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name}: its files do not fit together or are damaged: {path.name}: {error}") from error
    if odd:
        raise InputError(f"{name}: {path.name} has a tensor {odd[0]!r}: expected names without control characters")


def check_recorded(name: str, folder: Path) -> None:
    """Raises InputError where weights are not those that the folder's run.json, if it has one, was written for.

    A bit that fell over on a disk changes answers, and nothing else would tell.
    """
    from ham_hf.system.environment import weights_sha256

    run = read_json(folder / "run.json") if (folder / "run.json").is_file() else None
    model = run.get("model") if isinstance(run, dict) else None
    recorded = model.get("weights_sha256") if isinstance(model, dict) else None
    if recorded is None:  # an older run does not say
        return
    there = weights_sha256(folder)
    before = recorded if isinstance(recorded, dict) else {}
    for file in sorted(before.keys() | there.keys()):
        if before.get(file) != there.get(file):
            raise InputError(
                f"{name}: {file} is not the file that its training wrote (run.json has another SHA-256), so its "
                "report is not about it: it was damaged or replaced; put the one of the training back, or move other "
                "weights and their config.json into a folder of their own"
            )


def check_proportion(name: str, folder: Path, make: Callable[[], "PreTrainedModel"]) -> None:
    """Raises InputError where a config describes a far larger model than its weights are of.

    transformers makes and fills whatever the file lacks before it says so, until the memory is full.

    Args:
        folder: with the weights.
        make: a new model of the config; called where no memory is taken.
    """
    import torch

    with torch.device("meta"):
        model = make()
    values = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    bytes_there = sum(path.stat().st_size for path in _files_of(folder))
    if values > bytes_there + MOST_NEW:
        raise InputError(
            f"{name}: config.json describes a model of {values:,} values, and its weights are {bytes_there:,} bytes: "
            "they do not belong together"
        )


def check_finite(name: str, model: "PreTrainedModel") -> None:
    """Raises InputError for the first tensor of a model that has a value which is no number."""
    import torch

    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # A NaN is both; one pass without a copy: isfinite takes 15 times as long
        if not all(map(math.isfinite, torch.aminmax(tensor))):
            broken = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{name}: {broken:,} of {tensor.numel():,} values of {key} are NaN or infinite, so its answers would "
                "mean nothing: its training diverged, or the file is damaged; take an earlier checkpoint"
            )


def check_processor(name: str, processor: "BaseImageProcessor") -> None:
    """Raises InputError for a preparation that would make images of a size that fills the memory."""
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
