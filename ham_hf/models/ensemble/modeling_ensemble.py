"""An ensemble of image classifiers: the weighted mean of its members' probabilities, as logits."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.initialization import eye_, zeros_
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import can_return_tuple

from .configuration_ensemble import EnsembleConfig

LEAST = 1e-12  # of a probability, whose logarithm is taken


class EnsembleForImageClassification(PreTrainedModel):
    """Answers the logarithm of the mean, through a linear layer that changes nothing until it is calibrated."""

    config_class = EnsembleConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: EnsembleConfig):
        # The default, "sdpa", is for members that support it
        attention = None if config._attn_implementation == "sdpa" else config._attn_implementation
        super().__init__(config)
        configs = [CONFIG_MAPPING[member["model_type"]].from_dict(member) for member in config.members]
        self.members = nn.ModuleList(
            AutoModelForImageClassification.from_config(member, dtype=config.dtype, attn_implementation=attention)
            for member in configs
        )
        self.classifier = nn.Linear(config.num_labels, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Let the classifier change nothing; members initialize their own weights."""
        if module is self.classifier:
            eye_(module.weight)
            zeros_(module.bias)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutput:
        """Classify N images.

        Args:
            pixel_values: (N, 3, H, W).
            labels: (N,), for the mean cross-entropy.
            output_attentions: return the attention weights of all members, one member after the other.
            output_hidden_states: return the hidden states of all members, one member after the other.

        Returns:
            `logits` (N, classes), and `loss` where there are labels; as a tuple with `return_dict=False`.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        requested = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        # Some members have no such argument, and some reject even False
        requested = {name: True for name, value in requested.items() if value}
        pixel_values = pixel_values.to(self.classifier.weight.dtype)
        outputs = [member(pixel_values=pixel_values, return_dict=True, **requested) for member in self.members]
        mean = sum(
            weight * output.logits.float().softmax(dim=1)
            for weight, output in zip(self.config.weights, outputs, strict=True)
        )
        logits = self.classifier(mean.clamp(min=LEAST).log().to(self.classifier.weight.dtype))
        return ImageClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=_joined(outputs, "hidden_states") if output_hidden_states else None,
            attentions=_joined(outputs, "attentions") if output_attentions else None,
        )


def _joined(outputs: list[ImageClassifierOutput], name: str) -> tuple[torch.Tensor, ...]:
    """Return what the members' outputs hold under `name`, one member after the other."""
    return tuple(tensor for output in outputs for tensor in output.get(name) or ())


EnsembleForImageClassification.register_for_auto_class("AutoModelForImageClassification")
