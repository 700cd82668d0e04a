"""Compute the loss of every model from its logits; no model computes its own."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from ham_hf.config.arguments import LossArguments

POWER = {"none": 0.0, "square_root": 0.5, "balanced": 1.0}  # of `class_weights`, by its name in a recipe


def class_weights(counts: Sequence[int], power: float) -> torch.Tensor:
    """Return (classes,) float64 weights proportional to 1 / count**power, with a mean of 1 over all images."""
    numbers = torch.tensor(counts, dtype=torch.float64).clamp(min=1)  # an absent class must stay finite
    weights = numbers**-power
    return weights * numbers.sum() / (weights * numbers).sum()


class ClassificationLoss:
    """Cross-entropy, focal loss or LDAM, with the weights of classes and images in a recipe.

    The Trainer's `compute_loss_func`. In training it returns the sum over the batch divided by the images of the whole
    optimizer step (`num_items_in_batch`: all accumulated batches of all processes), so that 16x1, 4x4 and two
    processes x 2 x 4 give the same gradients: weights have a mean of 1 over the training images, not over a batch. In
    evaluation, where `HamTrainer` passes no count, it returns the mean cross-entropy.

    Args:
        class_counts: training images of each class, in label order.
        args: the loss and its weights, except `dx_type_weights`, `sampling` and `soft_labels`.
        label_smoothing: share of the target that is spread over all classes.

    Sources: logit adjustment, Menon et al., 2021, https://arxiv.org/abs/2007.07314; focal loss, Lin et al., 2017,
    https://arxiv.org/abs/1708.02002; LDAM and deferred re-weighting, Cao et al., 2019,
    https://arxiv.org/abs/1906.07413, here on the logits of a linear classifier instead of scaled cosines.
    """

    def __init__(self, class_counts: Sequence[int], args: LossArguments | None = None, label_smoothing: float = 0.0):
        self._args = args or LossArguments()
        self._smoothing = label_smoothing
        counts = torch.tensor(class_counts, dtype=torch.float32).clamp(min=1)
        self._adjustment = self._args.logit_adjustment * (counts / counts.sum()).log()  # (classes,)
        self._margins = self._args.ldam_margin * (counts.min() / counts) ** 0.25  # (classes,)
        self._weights = class_weights(class_counts, POWER[self._args.class_weighting]).float()  # (classes,)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of finished epochs, for deferred re-weighting."""
        self._epoch = epoch

    def __call__(
        self,
        outputs: ImageClassifierOutput,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        image_weights: torch.Tensor | None = None,
        soft_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            outputs: with `logits` (N, classes).
            labels: (N,), or for mixed images (N, classes) with the weight of each class in each image.
            num_items_in_batch: images of the whole optimizer step; None in evaluation.
            image_weights: (N,), multiplied with the loss of each image.
            soft_labels: (N, classes), take the place of `labels` in training.
        """
        logits = outputs.logits.float()  # (N, classes)
        if num_items_in_batch is None:
            return F.cross_entropy(logits, labels)
        if soft_labels is not None:
            labels = soft_labels
        if labels.ndim == 2:
            classes = torch.arange(logits.shape[1], device=logits.device)
            by_class = [self._weighted(logits, label.expand(len(logits)), image_weights) for label in classes]
            losses = (labels * torch.stack(by_class, dim=1)).sum(dim=1)
        else:
            losses = self._weighted(logits, labels, image_weights)
        return losses.sum() / num_items_in_batch

    def _weighted(
        self, logits: torch.Tensor, labels: torch.Tensor, image_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of each image (N,), times its own weight and that of its class."""
        losses = self._losses(logits, labels)
        if image_weights is not None:
            losses = losses * image_weights
        if self._epoch >= self._args.class_weighting_start:
            losses = losses * self._weights.to(losses.device)[labels]
        return losses

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the unweighted loss of each image (N,)."""
        match self._args.loss:
            case "cross_entropy":
                adjusted = logits + self._adjustment.to(logits.device)
                return F.cross_entropy(adjusted, labels, reduction="none", label_smoothing=self._smoothing)
            case "focal":
                losses = F.cross_entropy(logits, labels, reduction="none")
                wrong = (1 - (-losses).exp()).clamp(min=1e-8)  # 0 to a power below 1 has no finite gradient
                return wrong**self._args.focal_gamma * losses
            case "ldam":
                margins = F.one_hot(labels, logits.shape[1]) * self._margins.to(logits.device)
                return F.cross_entropy(logits - margins, labels, reduction="none")
