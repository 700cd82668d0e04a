"""The loss, in one place for every model: the Trainer calls it with the logits, and no model computes its own."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import ImageClassifierOutput


class ClassificationLoss:
    """Cross-entropy, if asked with adjusted logits (Menon et al., 2021, https://arxiv.org/abs/2007.07314).

    Given to the Trainer as `compute_loss_func`. In training it is the sum over the batch divided by the images of the
    whole optimiser step (`num_items_in_batch`: all accumulated batches of all processes), so that 16x1, 4x4 and two
    processes x 2 x 4 give the same gradients. In evaluation, where the Trainer passes no count, it is the plain mean.

    Args:
        class_counts: training images of each class, in label order.
        logit_adjustment: tau; log(prior) * tau is added to the logits in training. 0 is cross-entropy.
    """

    def __init__(self, class_counts: Sequence[int], logit_adjustment: float = 0.0):
        counts = torch.tensor(class_counts, dtype=torch.float32).clamp(min=1)  # an absent class must stay finite
        self._adjustment = logit_adjustment * (counts / counts.sum()).log()  # (classes,)

    def __call__(
        self,
        outputs: ImageClassifierOutput,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        logits = outputs.logits.float()  # (N, classes)
        if num_items_in_batch is None:
            return F.cross_entropy(logits, labels)
        return (
            F.cross_entropy(logits + self._adjustment.to(logits.device), labels, reduction="sum") / num_items_in_batch
        )
