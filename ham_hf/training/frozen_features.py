"""A frozen backbone runs once: its features are kept, and the classifier is trained on them.

Only where nothing random stands before the classifier (`freeze: backbone`, `augment: false`): every epoch would
compute the same features again.
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
    """What the classifier reads, in place of the images: rows of `pixel_values` and `labels`, as the Trainer wants."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor):
        self._features, self._labels = features, labels  # (N, …) float32, (N,) int64

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """The whole batch at once: nothing is left to collate."""
        return {"pixel_values": self._features[rows], "labels": self._labels[rows]}


def collate_features(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`Features` make batches themselves."""
    return batch


def has_one_classifier(model: PreTrainedModel) -> bool:
    """Whether the answers are those of one module on what everything before it computes: not so for MMBT, say."""
    return len(classifier_of(model)) == 1


def compute_features(
    model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]], autocast: torch.autocast, description: str
) -> Features:
    """Run the backbone over all `batches` (`pixel_values`, `labels`), once, on the model's device.

    Raises:
        InputError: the classifier's answer to the features is not the model's own: it does more in between.
    """
    [classifier] = classifier_of(model)
    inputs: list[torch.Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    features, labels = [], []
    model.eval()
    try:
        for batch in tqdm(batches, desc=description, disable=None):
            with torch.no_grad(), autocast:
                logits = model(batch["pixel_values"].to(model.device)).logits
                torch.testing.assert_close(classifier(inputs[0]), logits, rtol=0, atol=1e-5)
            features.append(inputs[0].float().cpu())
            labels.append(batch["labels"])
            inputs.clear()
    except AssertionError as error:
        name = type(model).__name__
        raise InputError(f"{name} does more than its classifier with the features: leave `augment` true") from error
    finally:
        hook.remove()
    return Features(torch.cat(features), torch.cat(labels))


def answer_from_features(model: PreTrainedModel) -> None:
    """Let `model(pixel_values=features)` answer from what `compute_features` kept; the weights are not touched."""
    [classifier] = classifier_of(model)

    def forward(pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=classifier(pixel_values))

    model.forward = forward
