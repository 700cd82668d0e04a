"""Run transformers' common tests on MMBT in its three encodings, the fusion model and the ensemble."""

import json
import unittest

import torch
from transformers import BertConfig, PreTrainedConfig, ResNetConfig, ViTConfig
from transformers_suites.test_configuration_common import ConfigTester
from transformers_suites.test_modeling_common import ModelTesterMixin

import ham_hf.models  # noqa: F401
import ham_hf.models.multimodal  # noqa: F401
from ham_hf.models.ensemble import EnsembleConfig, EnsembleForImageClassification
from ham_hf.models.mmbt.configuration_mmbt import FusionConfig, MMBTConfig
from ham_hf.models.mmbt.modeling_mmbt import ImagePatientFusionForImageClassification, MMBTForImageClassification

IMAGE_SIZE = 32  # pixels
SITES = ["back", "face", "foot"]
LABELS = {"id2label": {i: f"label_{i}" for i in range(7)}, "label2id": {f"label_{i}": i for i in range(7)}}


def image_config(kind: str, layers: int = 2) -> PreTrainedConfig:
    if kind == "resnet":
        widths = [4, 8][-layers:]
        return ResNetConfig(embedding_size=4, hidden_sizes=widths, depths=[1] * layers, layer_type="basic", **LABELS)
    return ViTConfig(
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=IMAGE_SIZE,
        patch_size=16,
        **LABELS,
    )


def text_config() -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(**sizes, vocab_size=130, max_position_embeddings=64)


class ModelTester:
    """Provide what the common tests need of a model: a tiny config, its sizes, and a batch."""

    batch_size = 7  # the suite extends smaller ones by numbers that may not be valid sexes or sites
    is_training = True
    image_size = IMAGE_SIZE
    num_attention_heads = 2
    num_hidden_layers = 2

    def __init__(self, kind: str, image: str):
        self.kind, self.image = kind, image
        words = {"codes": 3, "sentence": 12, "fields": 4}
        if kind in words:  # tokens of the patient, then of the image
            self.hidden_size, self.seq_length = 32, words[kind] + (4 if image == "resnet" else 5)
        elif image == "resnet" and kind == "fusion":  # its first feature map is 8 x 8
            self.hidden_size, self.seq_length = 8, 8
        else:
            self.hidden_size, self.seq_length = 16, 5
        if kind == "ensemble":  # two members of one layer, each with its input
            self.expected_num_hidden_layers = 4

    def get_config(self) -> PreTrainedConfig:
        encoder = image_config(self.image)
        if self.kind == "ensemble":
            members = [image_config(kind, layers=1).to_dict() for kind in ("vit", self.image)]
            return EnsembleConfig(members=members, weights=[0.5, 0.5], **LABELS)
        width = encoder.hidden_sizes[-1] if self.image == "resnet" else encoder.hidden_size
        if self.kind == "fusion":
            return FusionConfig(
                image_config=encoder, sites=SITES, image_hidden_size=width, patient_hidden_size=16, **LABELS
            )
        return MMBTConfig(
            image_config=encoder,
            text_config=text_config(),
            encoding=self.kind,
            sites=SITES,
            image_hidden_size=width,
            image_grid=2 if self.image == "resnet" else None,
            cls_token_id=1,
            **LABELS,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        inputs = {"pixel_values": torch.rand(self.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)}
        if self.kind in ("codes", "sentence"):
            length = 3 if self.kind == "codes" else 12
            inputs["input_ids"] = torch.randint(1, 130, (self.batch_size, length))
            inputs["attention_mask"] = torch.ones(self.batch_size, length, dtype=torch.long)
        elif self.kind in ("fields", "fusion"):
            inputs["age"] = torch.tensor([45.0, torch.nan, 80.0, 0.0, 30.0, torch.nan, 65.0])
            inputs["sex"] = torch.tensor([1, 0, 2, 1, 0, 2, 1])
            inputs["localization"] = torch.tensor([0, 3, 1, 2, 0, 3, 1])
        return self.get_config(), inputs


def not_applicable(reason: str):
    return unittest.skip(f"not applicable: {reason}")(lambda self: None)


class Common(ModelTesterMixin):
    """Settings that all our models share."""

    test_can_init_all_missing_weights_before_2023 = True  # the suite reads a model's year from its license's header
    # The suite reads the width from `vision_config`; ours is `image_config`, and a feature map has its width second
    skip_test_image_features_output_shape = True

    def setUp(self):
        self.model_tester = ModelTester(self.kind, self.image)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:  # which the suite adds for the classes that transformers lists itself
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs

    def test_config(self):
        config = self.model_tester.get_config()
        values = json.loads(config.to_json_string(use_diff=False))
        inputs = {key: value for key, value in values.items() if key in self.config_arguments}
        tester = ConfigTester(self, type(config), has_text_modality=False, common_properties=[], **inputs)
        tester.run_common_tests()


class MMBT(Common):
    all_model_classes = (MMBTForImageClassification,)
    additional_model_inputs = ["input_ids", "attention_mask", "age", "sex", "localization"]
    config_arguments = ("encoding", "sites", "image_hidden_size", "image_grid", "cls_token_id")
    _is_composite = True


class Fields(MMBT):
    test_resize_tokens_embeddings = not_applicable('with encoding "fields", a patient has no words')
    test_resize_embeddings_untied = not_applicable('with encoding "fields", a patient has no words')


class OverResNet:
    test_get_image_features_attentions = not_applicable("the image encoder, a ResNet, has no attention")


for _kind in ("codes", "sentence", "fields"):
    for _image in ("resnet", "vit"):
        _bases = (OverResNet,) if _image == "resnet" else ()
        _bases += (Fields if _kind == "fields" else MMBT, unittest.TestCase)
        _name = f"MMBT{_kind.title()}{'ResNet' if _image == 'resnet' else 'ViT'}Test"
        globals()[_name] = type(_name, _bases, {"kind": _kind, "image": _image, "__module__": __name__})
del _kind, _image, _bases, _name


class Fusion(Common):
    kind = "fusion"
    test_resize_embeddings = False  # no word embeddings
    test_model_get_set_embeddings = not_applicable("the image encoder embeds patches or pixels, not words")
    all_model_classes = (ImagePatientFusionForImageClassification,)
    additional_model_inputs = ["age", "sex", "localization"]
    config_arguments = ("sites", "image_hidden_size", "patient_hidden_size")
    _is_composite = True


class FusionResNetTest(Fusion, unittest.TestCase):
    image = "resnet"
    has_attentions = False


class FusionViTTest(Fusion, unittest.TestCase):
    image = "vit"


class Ensemble(Common):
    kind = "ensemble"
    test_resize_embeddings = False  # no word embeddings
    test_model_get_set_embeddings = not_applicable("an ensemble's members embed, each for itself")
    all_model_classes = (EnsembleForImageClassification,)
    config_arguments = ("members", "weights")


class EnsembleViTsTest(Ensemble, unittest.TestCase):
    image = "vit"


class EnsembleViTAndResNetTest(Ensemble, unittest.TestCase):
    image = "resnet"
    has_attentions = False
