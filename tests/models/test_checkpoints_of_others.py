"""Checkpoints that were not made for us: each trains, or is refused with one sentence before the first step."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    HGNetV2Config,
    HGNetV2ForImageClassification,
    ImageGPTConfig,
    ImageGPTForImageClassification,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    PerceiverConfig,
    PerceiverForImageClassificationLearned,
    PreTrainedModel,
    PvtConfig,
    PvtForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from ham_hf.cli.main import main as ham_hf
from ham_hf.config.arguments import ModelArguments
from ham_hf.inference import onnx
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.saliency import crop_of
from ham_hf.labels import LABELS
from ham_hf.models.build import Revisions, build_model, classifier_of, freeze_parts
from ham_hf.models.check import check_training
from ham_hf.models.multimodal import build_patient_model
from ham_hf.models.safe_loading import check_processor
from ham_hf.system.errors import InputError
from ham_hf.train import main
from tests.helpers.tiny_runs import tiny_flags

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 11}
TEXT = SMALL | {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}


def _timm(architecture: str, **arguments) -> TimmWrapperForImageClassification:
    return TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture=architecture, num_labels=11, model_args=arguments)
    )


def _two_towers(config_class: type, model_class: type, **vision) -> PreTrainedModel:
    return model_class(config_class(text_config=TEXT, vision_config=SMALL | vision, num_labels=11))


CHECKPOINTS = {
    "deit with teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT)),
    "levit with teacher": lambda: LevitForImageClassificationWithTeacher(
        LevitConfig(
            image_size=32,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 3, 4],
            depths=[1, 1, 1],
            key_dim=[8] * 3,
            num_labels=11,
        )
    ),
    "timm with two classifiers": lambda: _timm(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2
    ),
    "pvt": lambda: PvtForImageClassification(
        PvtConfig(
            image_size=32, depths=[1] * 4, hidden_sizes=[8, 8, 20, 16], num_attention_heads=[1, 2, 5, 8], num_labels=11
        )
    ),
    "naflex vit": lambda: _timm("naflexvit_base_patch16_gap", embed_dim=16, depth=1, num_heads=2, patch_size=8),
    "perceiver": lambda: PerceiverForImageClassificationLearned(
        PerceiverConfig(
            num_latents=4,
            d_latents=16,
            num_blocks=1,
            num_self_attends_per_block=1,
            num_self_attention_heads=2,
            image_size=32,
            num_labels=11,
        )
    ),
    "siglip": lambda: _two_towers(SiglipConfig, SiglipForImageClassification, image_size=32, patch_size=8),
    "clip": lambda: _two_towers(CLIPConfig, CLIPForImageClassification, image_size=32, patch_size=8),
    "hgnet": lambda: HGNetV2ForImageClassification(
        HGNetV2Config(
            embedding_size=8,
            depths=[1, 1],
            hidden_sizes=[8, 16],
            stem_channels=[3, 8, 8],
            stage_in_channels=[8, 8],
            stage_mid_channels=[8, 8],
            stage_out_channels=[8, 16],
            stage_num_blocks=[1, 1],
            stage_downsample=[False, True],
            stage_light_block=[False, False],
            stage_kernel_size=[3, 3],
            stage_numb_of_layers=[1, 1],
            num_labels=11,
        )
    ),
    "one channel": lambda: ViTForImageClassification(ViTConfig(**VIT, num_channels=1)),
    "timm with one channel": lambda: _timm("resnet18", channels=[8] * 4, layers=[1] * 4, in_chans=1),
    "imagegpt": lambda: ImageGPTForImageClassification(ImageGPTConfig(n_embd=16, n_layer=1, n_head=2, num_labels=11)),
    "siglip 2": lambda: _two_towers(Siglip2Config, Siglip2ForImageClassification, num_patches=16, patch_size=8),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=11)
    ),
}
REFUSED = {
    "one channel": "Expected 1 but got 3",
    "timm with one channel": "to have 1 channels, but got 3 channels",
    "imagegpt": "ValueError: ",
    "siglip 2": "cannot be multiplied",
}
TRAINED = [name for name in CHECKPOINTS if name not in REFUSED]


@pytest.fixture
def saved(tmp_path):
    def save(kind: str) -> str:
        torch.manual_seed(0)
        CHECKPOINTS[kind]().save_pretrained(tmp_path / kind)
        BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
            tmp_path / kind
        )
        return str(tmp_path / kind)

    return save


def states() -> list:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


@pytest.mark.parametrize("freeze", ["none", "backbone"])
@pytest.mark.parametrize("kind", TRAINED)
def test_the_training_check_passes_and_changes_nothing(kind, freeze, saved):
    model = build_model(saved(kind))
    if freeze == "backbone":
        freeze_parts(model, freeze)
        in_head = {id(weight) for part in classifier_of(model) for weight in part.parameters()}
        assert {id(weight) for weight in model.parameters() if weight.requires_grad} == in_head
        assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) < 1000
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    modes, random_states = [module.training for module in model.modules()], states()
    check_training(model, None, kind, train_sizes={1: 32}, eval_size=32)
    assert states() == random_states
    assert [module.training for module in model.modules()] == modes
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_do_not_accept_our_images_are_refused_in_one_sentence(kind, saved):
    folder = saved(kind)
    model = build_model(folder)
    with pytest.raises(
        InputError, match=f"cannot be trained on RGB images of 32 x 32 pixels.*{REFUSED[kind]}"
    ) as error:
        check_training(model, None, folder, train_sizes={1: 32}, eval_size=32)
    assert "\n" not in str(error.value)


def test_images_too_small_for_the_model_are_refused():
    model = _timm("inception_v3")
    with pytest.raises(InputError, match="64 x 64 pixels .*Kernel size can't be greater.*: start from .* image_size"):
        check_training(model, None, "inception", train_sizes={1: 64}, eval_size=64)


def test_every_size_of_a_schedule_is_checked_and_a_refusal_names_its_epoch():
    model = ViTForImageClassification(ViTConfig(**VIT))
    for sizes in ({1: 32, 6: 64}, {1: 32, 6: 64, 9: 32}):
        with pytest.raises(
            InputError, match=r"images of 64 x 64 pixels from epoch 6 on \(.*change image_size, train_"
        ):
            check_training(model, None, "vit", train_sizes=sizes, eval_size=32)
    resnet = CHECKPOINTS["resnet"]()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    check_training(resnet, None, "resnet", train_sizes={1: 32, 6: 64}, eval_size=32)
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_a_separate_evaluation_size_is_checked_too():
    model = ViTForImageClassification(ViTConfig(**VIT))
    with pytest.raises(InputError, match="64 x 64 pixels"):
        check_training(model, None, "vit", train_sizes={1: 32}, eval_size=64)


def test_a_classifier_with_other_outputs_than_labels_is_refused_and_not_cut_off(saved, tmp_path):
    config = PvtConfig.from_pretrained(saved("pvt"))
    model = PvtForImageClassification(config)
    model.config.id2label = dict(enumerate(LABELS))
    model.config.label2id = {label: i for i, label in enumerate(LABELS)}
    with pytest.raises(InputError, match=r"its logits are \(2, 11\) for a batch of 2: expected \(2, 7\)"):
        model.config.num_labels = 7
        check_training(model, None, "pvt", train_sizes={1: 32}, eval_size=32)
    model.config.num_labels = 11
    model.save_pretrained(tmp_path / "pvt")
    with pytest.raises(InputError, match=r"its logits are \(1, 11\) for a batch of 1: expected \(1, 7\)"):
        load_classifier(str(tmp_path / "pvt"))


@pytest.mark.parametrize("kind", ["resnet", "levit with teacher", "perceiver"])
def test_unsupported_gradient_checkpointing_is_refused(kind, saved):
    model = build_model(saved(kind))
    with pytest.raises(InputError, match="gradient_checkpointing: .* does not support it: set it to false"):
        check_training(model, None, kind, train_sizes={1: 32}, eval_size=32, checkpointing=True)


def test_gradient_checkpointing_is_off_again_after_the_check(saved):
    model = build_model(saved("deit with teacher"))
    check_training(model, None, "deit", train_sizes={1: 32}, eval_size=32, checkpointing=True)
    assert not model.is_gradient_checkpointing


def test_a_model_of_images_and_text_is_refused_in_fusion_with_the_reason(saved):
    args = ModelArguments(model_name_or_path=saved("siglip"), fusion="mlp")
    with pytest.raises(InputError, match="siglip model of images and text: expected an image encoder"):
        build_patient_model(args, Revisions(), labels=LABELS, sites=["back"], image_size=32)


def test_an_encoder_that_takes_no_images_is_refused_in_fusion(saved):
    args = ModelArguments(model_name_or_path=saved("imagegpt"), fusion="mlp")
    with pytest.raises(InputError, match="fusion: ImageGPTModel cannot encode RGB images of 32 x 32 pixels"):
        build_patient_model(args, Revisions(), labels=LABELS, sites=["back"], image_size=32)


def test_a_model_with_a_teacher_is_trained_and_evaluated(saved, synthetic_dir, tmp_path):
    flags = {"max_steps": 2, "eval_steps": 2, "save_steps": 2}
    main(tiny_flags(saved("deit with teacher"), synthetic_dir, tmp_path / "run", **flags))
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_balanced_accuracy" in entry for entry in log)


# timm's own folders


@pytest.fixture(scope="module")
def timm_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=7, **TIMM_ARGUMENTS).eval()


TIMM_ARGUMENTS = {"channels": (8, 16, 16, 32), "layers": (1, 1, 1, 1)}
OUR_LABELS = [f"LABEL_{number}" for number in range(7)]


@pytest.fixture(scope="module")
def timm_folders(timm_model, tmp_path_factory) -> dict[str, Path]:
    """As timm's save_for_hf writes them: with our labels, and without any."""
    folder = tmp_path_factory.mktemp("timm")
    for name, config in {"named": {"label_names": list(LABELS)}, "nameless": None}.items():
        save_for_hf(
            timm_model,
            folder / name,
            model_config=config,
            model_args=TIMM_ARGUMENTS | {"num_classes": 7},
            safe_serialization=True,
        )
    return {name: folder / name for name in ("named", "nameless")}


@pytest.fixture
def photo(tmp_path) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((600, 450))
    image.save(tmp_path / "photo.png")
    return image


def timm_answer(model: torch.nn.Module, image: Image.Image) -> np.ndarray:
    """Return the probabilities of timm's own evaluation."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model), is_training=False)
    with torch.no_grad():
        return model(transform(image)[None]).double().softmax(dim=1)[0].numpy()


def test_a_timm_folder_predicts_as_in_timm(timm_model, timm_folders, photo):
    [row] = probabilities(load_classifier(str(timm_folders["named"])), [photo])
    np.testing.assert_allclose(row, timm_answer(timm_model, photo), atol=1e-6)


def test_a_timm_folder_without_labels_requires_a_label_map(timm_model, timm_folders, photo, tmp_path, capsys):
    command = ["predict", str(timm_folders["nameless"]), str(tmp_path / "photo.png"), "--csv", str(tmp_path / "o.csv")]
    assert ham_hf(command) == 2
    assert "LABEL_6" in (err := capsys.readouterr().err) and "--label_map" in err
    assert ham_hf([*command, "--label_map", json.dumps(dict(zip(OUR_LABELS, LABELS, strict=True)))]) == 0
    row = (tmp_path / "o.csv").read_text().splitlines()[1].split(",")[2:]
    np.testing.assert_allclose(np.array(row, float), timm_answer(timm_model, photo), atol=1e-6)


def test_training_starts_from_a_timm_folder(timm_model, timm_folders):
    model = build_model(str(timm_folders["named"]))
    assert torch.equal(model.timm_model.fc.weight, timm_model.fc.weight)
    assert "num_classes" not in model.config.model_args


def test_a_timm_folder_is_explained_and_exported(timm_folders, photo, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra: pip install -e '.[onnx]'")
    from ham_hf.inference.export import export_onnx

    folder = str(timm_folders["named"])
    classifier = load_classifier(folder)
    crop = crop_of(classifier.processor, photo)
    assert crop.shape == (224, 224, 3) and np.ptp(crop) > 0.5
    path, difference = export_onnx(folder, tmp_path / "model.onnx")
    assert difference < 1e-5
    theirs = probabilities(onnx.load_onnx(*onnx.open_onnx(path)), [photo])
    np.testing.assert_allclose(theirs, probabilities(classifier, [photo]), atol=1e-5)


def test_outputs_that_share_a_diagnosis_are_not_exported(timm_folders, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra: pip install -e '.[onnx]'")
    from ham_hf.inference.export import export_onnx

    labels = dict(zip(OUR_LABELS, ["nv", *["other"] * 6], strict=True))
    with pytest.raises(InputError, match="share a diagnosis"):
        export_onnx(str(timm_folders["nameless"]), tmp_path / "model.onnx", label_map=labels)


def test_a_timm_transform_that_would_fill_the_memory_is_refused(timm_folders):
    processor = load_classifier(str(timm_folders["named"])).processor
    processor.data_config["crop_pct"] = 1e-6
    with pytest.raises(InputError, match="crop_pct 1e-06: expected 0.1 at least"):
        check_processor("it", processor)
