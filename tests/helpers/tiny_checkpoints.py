"""Write small, randomly initialized checkpoints in the format of each recipe's own checkpoint."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from transformers import (
    BeitConfig,
    BeitForMaskedImageModeling,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    BitImageProcessor,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from ham_hf.labels import LABELS
from ham_hf.models.build import build_model, build_processor, classifier_of

IMAGE_SIZE = 32  # pixels
IMAGENET_LABELS = 1000  # as in ImageNet, so that a seven-class head is always a new one

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
BERTS = ("google-bert/bert-base-uncased", "pypi:all-minilm-l6-v2")
TIMM_ARGUMENTS = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
    "resnet34": {"layers": [2, 1, 1, 1], "channels": [8, 16, 32, 64]},
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},
    "vgg19": {"mlp_ratio": 0.01},  # the convolutions have a fixed width: 20 million parameters stay
}


def make_tiny_checkpoint(name: str, folder: Path) -> Path:
    """Write a stand-in for the checkpoint `name`, a recipe's model_name_or_path, and return its folder."""
    torch.manual_seed(0)
    architecture, _, tag = name.removeprefix("timm/").partition(".")
    if name.startswith("timm/"):
        _save_like_timm(architecture, tag, folder)
        return folder
    if name in BERTS:
        _save_bert(folder)
        return folder
    _tiny_model(name).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)
    return folder


def _tiny_model(name: str) -> PreTrainedModel:
    match name:
        case "google/vit-base-patch16-224" | "facebook/deit-base-patch16-224":
            # DeiT without its distillation token is a ViT, and the Hub's config says model_type: vit
            return ViTForImageClassification(ViTConfig(**ENCODER, num_labels=IMAGENET_LABELS))
        case "facebook/vit-mae-large":
            decoder = {
                "decoder_hidden_size": 16,
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 2,
                "decoder_intermediate_size": 32,
            }
            return ViTMAEForPreTraining(ViTMAEConfig(**ENCODER, **decoder))
        case "microsoft/beit-base-patch16-224-pt22k":
            config = BeitConfig(**ENCODER, vocab_size=32, use_shared_relative_position_bias=True, use_mask_token=True)
            return BeitForMaskedImageModeling(config)
        case "microsoft/resnet-50":
            config = ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_labels=IMAGENET_LABELS
            )
            return ResNetForImageClassification(config)
        case "facebook/convnextv2-large-22k-384":
            return ConvNextV2ForImageClassification(
                ConvNextV2Config(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_labels=IMAGENET_LABELS)
            )
        case "pypi:efficientnet-lite0" | "pypi:efficientnet-lite1":
            # timm's own small EfficientNet: those of the recipes have a fixed width, and 4 million parameters
            return TimmWrapperForImageClassification(
                TimmWrapperConfig(architecture="test_efficientnet", num_labels=IMAGENET_LABELS)
            )
    raise ValueError(f"no tiny checkpoint for {name}: add one here, with the architecture of the real one")


def _save_bert(folder: Path) -> None:
    """Write a vocabulary of BERT's special tokens at BERT's own ids, then characters, which can spell every word."""
    characters = "0123456789abcdefghijklmnopqrstuvwxyz.,-"
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [
        *characters,
        *(f"##{character}" for character in characters),
        "male",
        "female",
        "back",
        "face",
        "unknown",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes, vocab_size=len(words), max_position_embeddings=64)).save_pretrained(folder)


def _save_like_timm(architecture: str, tag: str, folder: Path) -> None:
    """Write what the Hub holds for timm/…: timm's own config.json and names of weights, no processor file."""
    arguments = TIMM_ARGUMENTS[architecture]
    model = timm.create_model(architecture, num_classes=IMAGENET_LABELS, **arguments)
    config = {
        "architecture": architecture,
        "num_classes": IMAGENET_LABELS,
        "num_features": model.num_features,
        "model_args": arguments,
        "pretrained_cfg": get_pretrained_cfg(f"{architecture}.{tag}").to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def make_run_folder(folder: Path, name: str = "google/vit-base-patch16-224", labels=LABELS) -> Path:
    """A folder as `ham-hf train` saves it: a model of seven diagnoses, and its BitImageProcessor."""
    checkpoint = str(make_tiny_checkpoint(name, folder.with_name(folder.name + "-pretrained")))
    model = build_model(checkpoint, labels=labels)
    for module in classifier_of(model):  # fresh heads are nearly flat: make the seven probabilities differ
        torch.nn.init.normal_(module.weight)
        torch.nn.init.normal_(module.bias)
    model.save_pretrained(folder)
    build_processor(
        checkpoint, revision=None, image_size=32, eval_resize=None, normalization="imagenet"
    ).save_pretrained(folder)
    return folder


def save_classifier(folder: Path, labels) -> Path:
    ViTForImageClassification(ViTConfig(**ENCODER, id2label=dict(enumerate(labels)))).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
