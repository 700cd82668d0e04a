"""Classifiers that read an image and the patient: MMBT, and a fusion of image features with a small MLP."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.initialization import normal_
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_mmbt import FusionConfig, MMBTConfig

SEXES = 3  # unknown, female, male


class PatientModel(PreTrainedModel):
    """What both models share: an image encoder, and in training the hiding of a patient's values."""

    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _supports_sdpa = True
    accepts_loss_kwargs = False

    def __init__(self, config):
        super().__init__(config)
        self.image_encoder = AutoModel.from_config(config.image_config)
        # What a pooler makes of the features is not read here: DDP would wait for its gradients for ever
        for name, module in self.image_encoder.named_children():
            if name == "pooler":
                module.requires_grad_(False)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Encode N images, in the dtype of the model's weights.

        Args:
            pixel_values: (N, 3, H, W).
            kwargs: passed to the image encoder, such as `output_hidden_states`.

        Returns:
            The encoder's output; `last_hidden_state` is its feature map (N, C, h, w), or its tokens (N, T, C).
        """
        pixel_values = pixel_values.to(self.classifier.weight.dtype)
        return self.image_encoder(pixel_values=pixel_values, return_dict=True, **kwargs)

    def _requested_outputs(self, attentions: bool | None, hidden_states: bool | list[int] | None) -> dict:
        """Return the keyword arguments that request these outputs, with the config's values in place of None."""
        requested = {
            "output_attentions": self.config.output_attentions if attentions is None else attentions,
            "output_hidden_states": self.config.output_hidden_states if hidden_states is None else hidden_states,
        }
        return {name: value for name, value in requested.items() if value is not False}

    def _hide(self, age, sex, localization) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each value of a patient becomes "unknown" with probability `patient_dropout`, in training."""
        if not self.training or self.config.patient_dropout == 0:
            return age, sex, localization
        hidden = torch.rand(3, len(age), device=age.device) < self.config.patient_dropout
        return (
            age.masked_fill(hidden[0], torch.nan),
            sex.masked_fill(hidden[1], 0),
            localization.masked_fill(hidden[2], 0),
        )


class MMBTForImageClassification(PatientModel):
    """BERT over the patient's tokens, then the image's; the output at the first of them is pooled and classified."""

    config_class = MMBTConfig
    supports_gradient_checkpointing = True
    _can_record_outputs = {"hidden_states": BertLayer, "attentions": BertSelfAttention}

    def __init__(self, config: MMBTConfig):
        super().__init__(config)
        self.text_encoder = AutoModel.from_config(config.text_config)
        width = config.text_config.hidden_size
        if config.encoding == "fields":
            self.age_embedding = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
            self.sex_embedding = nn.Embedding(SEXES, width)
            self.site_embedding = nn.Embedding(1 + len(config.sites), width)
        self.image_projection = nn.Linear(config.image_hidden_size, width)
        if config.image_grid is not None:
            self.image_positions = nn.Embedding(config.image_grid**2, width)
        self.dropout = nn.Dropout(config.text_config.hidden_dropout_prob)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if self.config.image_grid is not None and module is self.image_positions:
            normal_(module.weight, std=self.config.image_position_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        age: torch.Tensor | None = None,
        sex: torch.Tensor | None = None,
        localization: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> ImageClassifierOutput:
        """Classify N images with their patients.

        Args:
            pixel_values: (N, 3, H, W).
            input_ids: (N, L) words, and `attention_mask` (N, L) with 0 for padding: encodings "codes" and "sentence".
            age: (N,) years, NaN where unknown; `sex` and `localization`: (N,) indices, 0 where unknown: "fields".
            image_features: `last_hidden_state` of `get_image_features`, in place of `pixel_values`.
            labels: (N,), for the mean cross-entropy.
            output_attentions: return the attention weights of BERT's layers ("eager" attention only).
            output_hidden_states: return the input of BERT's first layer and the output of each, (N, L + T, width).

        Returns:
            `logits` (N, classes), and `loss` where there are labels; as a tuple with `return_dict=False`.
        """
        if image_features is None:
            image_features = self.get_image_features(pixel_values, return_dict=True).last_hidden_state
        if self.config.encoding == "fields":
            words = {"inputs_embeds": self._embed_fields(*self._hide(age, sex, localization))}
            attention_mask = torch.ones(len(age), 4, dtype=torch.long, device=age.device)
        else:
            words = {"input_ids": input_ids}
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
        text = self.text_encoder.embeddings(**words)  # (N, L, width), with BERT's positions and token type 0
        image = self._embed_image(image_features)  # (N, T, width)
        tokens = torch.cat([text, image], dim=1)
        mask = torch.cat([attention_mask, attention_mask.new_ones(image.shape[:2])], dim=1)  # (N, L + T)
        requested = self._requested_outputs(output_attentions, output_hidden_states)
        encoded = self._encode(tokens, mask, return_dict=True, **requested)
        logits = self.classifier(self.dropout(self.text_encoder.pooler(encoded.last_hidden_state)))
        return ImageClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @capture_outputs
    def _encode(
        self, tokens: torch.Tensor, mask: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutput:
        """Pass tokens (N, L + T, width) through BERT's layers; `mask` (N, L + T) has 0 for padding."""
        mask = create_bidirectional_mask(config=self.text_encoder.config, inputs_embeds=tokens, attention_mask=mask)
        return self.text_encoder.encoder(tokens, attention_mask=mask, **kwargs)

    def _embed_fields(self, age, sex, localization) -> torch.Tensor:
        """[CLS], age, sex, site: (N, 4, width)."""
        cls = self.text_encoder.embeddings.word_embeddings(torch.full_like(sex, self.config.cls_token_id))
        fields = [cls, self.age_embedding(age_features(age, cls.dtype)), self.sex_embedding(sex)]
        return torch.stack([*fields, self.site_embedding(localization)], dim=1)

    def _embed_image(self, features: torch.Tensor) -> torch.Tensor:
        """Feature map (N, C, h, w) or tokens (N, T, C) → (N, T, width), marked as BERT's second segment."""
        if self.config.image_grid is not None:
            features = F.adaptive_avg_pool2d(features, self.config.image_grid).flatten(2).transpose(1, 2)
        image = self.image_projection(features)
        if self.config.image_grid is not None:
            image = image + self.image_positions.weight
        embeddings = self.text_encoder.embeddings
        return embeddings.dropout(embeddings.LayerNorm(image + embeddings.token_type_embeddings.weight[1]))


class ImagePatientFusionForImageClassification(PatientModel):
    """Pooled image features, and two layers on age, sex and site, concatenated and classified."""

    config_class = FusionConfig

    def __init__(self, config: FusionConfig):
        super().__init__(config)
        self.supports_gradient_checkpointing = self.image_encoder.supports_gradient_checkpointing
        width = config.patient_hidden_size
        self.patient_encoder = nn.Sequential(
            *_layer(2 + SEXES + 1 + len(config.sites), width, config.dropout),
            *_layer(width, width, config.dropout),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.image_hidden_size + width, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.image_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.image_encoder.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        age: torch.Tensor | None = None,
        sex: torch.Tensor | None = None,
        localization: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> ImageClassifierOutput:
        """Classify N images with their patients.

        Args:
            pixel_values: (N, 3, H, W).
            age: (N,) years, NaN where unknown.
            sex: (N,) indices, and so `localization`; 0 where unknown.
            image_features: `last_hidden_state` of `get_image_features`, in place of `pixel_values`.
            labels: (N,), for the mean cross-entropy.
            output_attentions: return the attention weights of the image encoder.
            output_hidden_states: return the hidden states of the image encoder.

        Returns:
            `logits` (N, classes), and `loss` where there are labels; as a tuple with `return_dict=False`.
        """
        encoded = BaseModelOutputWithPooling(last_hidden_state=image_features)
        if image_features is None:
            requested = self._requested_outputs(output_attentions, output_hidden_states)
            encoded = self.get_image_features(pixel_values, return_dict=True, **requested)
            image_features = encoded.last_hidden_state
        image = image_features.mean(dim=(2, 3) if image_features.ndim == 4 else 1)  # (N, C)
        age, sex, localization = self._hide(age, sex, localization)
        one_hot = [F.one_hot(sex, SEXES), F.one_hot(localization, 1 + len(self.config.sites))]
        patient = self.patient_encoder(torch.cat([age_features(age, image.dtype), *one_hot], dim=1).to(image.dtype))
        logits = self.classifier(self.dropout(torch.cat([image, patient], dim=1)))
        return ImageClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )


def age_features(age: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N,) years → (N, 2): the age around 50, in units of 20 years and 0 where it is missing, and a missing flag."""
    missing = age.isnan()
    return torch.stack([((age - 50) / 20).masked_fill(missing, 0), missing], dim=1).to(dtype)


def _layer(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout)]


MMBTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
ImagePatientFusionForImageClassification.register_for_auto_class("AutoModelForImageClassification")
