"""Compute the features of a frozen backbone once and train the classifier on them.

Only if nothing before the classifier is random (`freeze: backbone`, `augment: false`), so that every epoch would
compute the same features.
"""

from collections.abc import Iterable

import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ham_hf.models.build import classifier_of
from ham_hf.system.errors import InputError


class Features(Dataset):
    """The inputs of the classifier instead of images, as rows of `pixel_values`, `labels` and maybe `soft_labels`."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, soft_labels: torch.Tensor | None = None):
        self._features, self._labels = features, labels  # (N, …) float32, (N,) int64
        self._soft_labels = soft_labels  # (N, classes) float32

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Return a whole batch, with nothing left to collate."""
        batch = {"pixel_values": self._features[rows], "labels": self._labels[rows]}
        return batch if self._soft_labels is None else batch | {"soft_labels": self._soft_labels[rows]}


def collate_features(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch, which `Features` have collated."""
    return batch


def compute_features(
    model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]], autocast: torch.autocast, description: str
) -> Features:
    """Return the features of all `batches` (see `Features`), computed on the model's device.

    Raises:
        InputError: the model does more with the features than its classifier.
    """
    [classifier] = classifier_of(model)
    inputs: list[torch.Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    features, labels, soft_labels = [], [], []
    model.eval()
    try:
        for batch in tqdm(batches, desc=description, disable=None):
            with torch.no_grad(), autocast:
                logits = model(batch["pixel_values"].to(model.device)).logits
                torch.testing.assert_close(classifier(inputs[0]), logits, rtol=0, atol=1e-5)
            features.append(inputs[0].float().cpu())
            labels.append(batch["labels"])
            soft_labels += [batch["soft_labels"]] if "soft_labels" in batch else []
            inputs.clear()
    except AssertionError as error:
        name = type(model).__name__
        raise InputError(f"{name} does more with the features than its classifier: set augment: true") from error
    finally:
        hook.remove()
    return Features(torch.cat(features), torch.cat(labels), torch.cat(soft_labels) if soft_labels else None)


def answer_from_features(model: PreTrainedModel) -> None:
    """Let `model(pixel_values=features)` return the logits of its classifier; the weights do not change."""
    [classifier] = classifier_of(model)

    def forward(pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=classifier(pixel_values))

    model.forward = forward
