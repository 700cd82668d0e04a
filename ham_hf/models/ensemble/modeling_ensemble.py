"""An ensemble of image classifiers: the weighted mean of its members' probabilities, as logits."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .configuration_ensemble import EnsembleConfig

LEAST = 1e-12  # of a probability, whose logarithm is taken


class EnsembleForImageClassification(PreTrainedModel):
    """Answers the logarithm of the mean, through a linear layer that changes nothing until it is calibrated."""

    config_class = EnsembleConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: EnsembleConfig):
        super().__init__(config)
        configs = [CONFIG_MAPPING[member["model_type"]].from_dict(member) for member in config.members]
        self.members = nn.ModuleList(AutoModelForImageClassification.from_config(member) for member in configs)
        self.classifier = nn.Linear(config.num_labels, config.num_labels)
        nn.init.eye_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """All weights are loaded; the classifier's start is not random."""

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        """Classify N images.

        Args:
            pixel_values: (N, 3, H, W).
            labels: (N,), for the mean cross-entropy.

        Returns:
            `logits` (N, classes), and `loss` where there are labels.
        """
        mean = sum(
            weight * member(pixel_values=pixel_values).logits.float().softmax(dim=1)
            for weight, member in zip(self.config.weights, self.members, strict=True)
        )
        logits = self.classifier(mean.clamp(min=LEAST).log().to(self.classifier.weight.dtype))
        return ImageClassifierOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


EnsembleForImageClassification.register_for_auto_class("AutoModelForImageClassification")
