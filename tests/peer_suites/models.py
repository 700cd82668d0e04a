"""Our models in transformers' common tests: MMBT in its three encodings, the fusion model, and the ensemble."""

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


def image_config(kind: str) -> PreTrainedConfig:
    if kind == "resnet":
        return ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", **LABELS)
    return ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
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
    """What the common tests ask of a model: a tiny config, and a batch."""

    batch_size = 3
    is_training = True
    image_size = IMAGE_SIZE
    num_attention_heads = 2
    num_hidden_layers = 2
    hidden_size = 32

    def __init__(self, kind: str, image: str):
        self.kind, self.image = kind, image

    def get_config(self) -> PreTrainedConfig:
        encoder = image_config(self.image)
        if self.kind == "ensemble":
            members = [image_config("resnet").to_dict(), image_config("vit").to_dict()]
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
            inputs["age"] = torch.tensor([45.0, torch.nan, 80.0])
            inputs["sex"] = torch.tensor([1, 0, 2])
            inputs["localization"] = torch.tensor([0, 3, 1])
        return self.get_config(), inputs


class Common(ModelTesterMixin):
    """What holds for all of our models."""

    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = ModelTester(self.kind, self.image)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs

    def test_config(self):
        config = self.model_tester.get_config()
        inputs = {key: value for key, value in config.to_dict().items() if key in self.config_arguments}
        ConfigTester(self, type(config), has_text_modality=False, **inputs).run_common_tests()


class MMBT(Common):
    all_model_classes = (MMBTForImageClassification,)
    additional_model_inputs = ["input_ids", "attention_mask", "age", "sex", "localization"]
    config_arguments = ("encoding", "sites", "image_hidden_size", "image_grid", "cls_token_id")
    _is_composite = True


class MMBTCodesResNetTest(MMBT, unittest.TestCase):
    kind, image = "codes", "resnet"


class MMBTCodesViTTest(MMBT, unittest.TestCase):
    kind, image = "codes", "vit"


class MMBTSentenceResNetTest(MMBT, unittest.TestCase):
    kind, image = "sentence", "resnet"


class MMBTSentenceViTTest(MMBT, unittest.TestCase):
    kind, image = "sentence", "vit"


class MMBTFieldsResNetTest(MMBT, unittest.TestCase):
    kind, image = "fields", "resnet"


class MMBTFieldsViTTest(MMBT, unittest.TestCase):
    kind, image = "fields", "vit"


class Fusion(Common):
    all_model_classes = (ImagePatientFusionForImageClassification,)
    additional_model_inputs = ["age", "sex", "localization"]
    config_arguments = ("sites", "image_hidden_size", "patient_hidden_size")
    _is_composite = True


class FusionResNetTest(Fusion, unittest.TestCase):
    kind, image = "fusion", "resnet"
    has_attentions = False


class FusionViTTest(Fusion, unittest.TestCase):
    kind, image = "fusion", "vit"


class EnsembleTest(Common, unittest.TestCase):
    kind, image = "ensemble", "vit"
    all_model_classes = (EnsembleForImageClassification,)
    config_arguments = ("members", "weights")
    _is_composite = True
    has_attentions = False
