"""Build optimizers and schedules that TrainingArguments do not offer."""

import re
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from ham_hf.config.recipe import RunArguments
from ham_hf.models.build import classifier_of


def optimizer_class(args: RunArguments) -> tuple[type[torch.optim.Optimizer], dict] | None:
    """Return the argument `optimizer_cls_and_kwargs` of the Trainer; None lets it build AdamW."""
    match args.optimizer:
        case "adamw":
            return None
        case "adam":
            betas = (args.adam_beta1, args.adam_beta2)
            return torch.optim.Adam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        case "sgd":
            momentum = {"momentum": args.sgd_momentum, "nesterov": args.sgd_nesterov}
            return torch.optim.SGD, {"lr": args.learning_rate, **momentum}


def give_own_rate(optimizer: torch.optim.Optimizer, weights: set[torch.Tensor], rate: float) -> list[dict]:
    """Move `weights` into their own parameter groups, with this learning rate, and return these groups."""
    before = list(optimizer.param_groups)
    for group in before:
        own = [weight for weight in group["params"] if weight in weights]
        if not own:  # an empty group would be split in two by every block to come
            continue
        group["params"] = [weight for weight in group["params"] if weight not in weights]
        optimizer.add_param_group({**group, "params": own, "lr": rate})
    return optimizer.param_groups[len(before) :]


def blocks_from_the_top(model: PreTrainedModel) -> list[list[torch.Tensor]]:
    """Return the weights of the classifier, then of each block of the backbone, from the last to the first.

    Weights of a block share the first number in their names, such as layer 11 of a ViT or stage 3 of a ResNet; those
    before, between and after blocks form their own.
    """
    head = {weight for part in classifier_of(model) for weight in part.parameters()}
    blocks: list[tuple[str | None, list[torch.Tensor]]] = []
    for name, weight in model.named_parameters():
        if weight in head:
            continue
        number = re.match(r"(.*?\.\d+)\.", name)
        block = number[1] if number else None
        if not blocks or blocks[-1][0] != block:
            blocks.append((block, []))
        blocks[-1][1].append(weight)
    return [list(head), *(weights for _, weights in reversed(blocks))]


def set_rates_by_block(optimizer: torch.optim.Optimizer, model: PreTrainedModel, args: RunArguments) -> None:
    """Apply `head_learning_rate` and `layer_decay`, in parameter groups with the number of blocks above as `depth`."""
    rate, decay = args.learning_rate, args.layer_decay or 1.0
    for depth, weights in enumerate(blocks_from_the_top(model)):
        own = args.head_learning_rate if depth == 0 and args.head_learning_rate is not None else rate * decay**depth
        for group in give_own_rate(optimizer, set(weights), own):
            group["depth"] = depth
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def unfreeze_gradually(schedule: LambdaLR, steps: int) -> None:
    """Keep the rate of each group of `set_rates_by_block` at 0 until its turn; the deepest starts at `steps`."""
    depths = [group["depth"] for group in schedule.optimizer.param_groups]
    deepest = max(max(depths), 1)  # all but the classifier may be frozen

    def waiting(factor: Callable[[int], float], begin: float) -> Callable[[int], float]:
        return lambda step: factor(step) if step >= begin else 0.0

    schedule.lr_lambdas = [
        waiting(factor, steps * depth / deepest) for factor, depth in zip(schedule.lr_lambdas, depths, strict=True)
    ]
    for group, factor, rate in zip(
        schedule.optimizer.param_groups, schedule.lr_lambdas, schedule.base_lrs, strict=True
    ):
        group["lr"] = rate * factor(schedule.last_epoch)


def decay_by_epoch(epoch: int, fraction: float, args: RunArguments) -> float:
    """Return the factor of the learning rate: linear warm-up by step, then decay by whole epochs.

    Args:
        epoch: finished epochs.
        fraction: share of the current epoch that is finished after this step, in (0, 1].
    """
    if epoch < args.warmup_epochs:
        return (epoch + fraction) / args.warmup_epochs
    assert args.lr_decay_factor is not None  # or there is no such decay
    return args.lr_decay_factor ** ((epoch - args.warmup_epochs) // args.lr_decay_epochs)
