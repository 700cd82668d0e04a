"""Configurations of the two models that read an image and the patient: MMBT, and a small fusion of both."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

ENCODINGS = ("codes", "sentence", "fields")


class MMBTConfig(PreTrainedConfig):
    """MMBT (Kiela et al., 2019, https://arxiv.org/abs/1909.02950): BERT over the patient's tokens and the image's.

    Args:
        image_config: of any model that gives a feature map or a sequence of tokens.
        text_config: of a BERT.
        encoding: how the patient becomes tokens, see `processing_mmbt`: "codes", "sentence" or "fields".
        sites: the body sites that have an embedding of their own, for "fields".
        image_hidden_size: channels of the feature map, or width of the tokens.
        image_grid: height and width of the feature map, in cells; None for encoders that give tokens, which know
            their positions already.
        image_position_range: standard deviation that the cells' position embeddings are drawn with.
        patient_dropout: in training, the probability with which each of age, sex and site is hidden ("fields" only).
        cls_token_id: the word whose output is classified, put first by "fields".
    """

    model_type = "mmbt"
    sub_configs_defaults = {
        "image_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    image_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    encoding: str = "fields"
    sites: list[str] | None = None
    image_hidden_size: int = 2048
    image_grid: int | None = 7
    image_position_range: float = 0.02
    patient_dropout: float = 0.0
    cls_token_id: int = 101
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding is {self.encoding!r}: expected one of {', '.join(ENCODINGS)}")
        if self.patient_dropout and self.encoding != "fields":
            raise ValueError(
                f"patient_dropout is {self.patient_dropout} with encoding {self.encoding!r}: only 'fields' can hide"
            )
        self.sites = list(self.sites or [])
        super().__post_init__(**kwargs)


class FusionConfig(PreTrainedConfig):
    """Pooled image features beside a small MLP on the patient's data (Gessert et al., 2020, the ISIC 2019 winners,
    https://doi.org/10.1016/j.mex.2020.100864).

    Args:
        image_config: of any model that gives a feature map or a sequence of tokens.
        sites: the body sites that the MLP tells apart.
        image_hidden_size: channels of the feature map, or width of the tokens.
        patient_hidden_size: width of the two layers on the patient's data.
        dropout: of the patient's layers and of the joined features.
        patient_dropout: in training, the probability with which each of age, sex and site is hidden.
    """

    model_type = "image_patient_fusion"
    sub_configs_defaults = {"image_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet")}

    image_config: PreTrainedConfig | dict | None = None
    sites: list[str] | None = None
    image_hidden_size: int = 2048
    patient_hidden_size: int = 256
    dropout: float = 0.2
    patient_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.sites = list(self.sites or [])
        super().__post_init__(**kwargs)


MMBTConfig.register_for_auto_class()
FusionConfig.register_for_auto_class()
