"""Optimisers and schedules that TrainingArguments has no name for."""

import torch

from ham_hf.recipe import RunArguments


def optimizer_class(args: RunArguments) -> tuple[type[torch.optim.Optimizer], dict] | None:
    """For `Trainer(optimizer_cls_and_kwargs=…)`; None leaves AdamW to the Trainer."""
    match args.optimizer:
        case "adamw":
            return None
        case "adam":
            betas = (args.adam_beta1, args.adam_beta2)
            return torch.optim.Adam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        case "sgd":
            return torch.optim.SGD, {"lr": args.learning_rate, "momentum": args.sgd_momentum}


def give_own_rate(optimizer: torch.optim.Optimizer, weights: set[torch.Tensor], rate: float) -> None:
    """Move `weights` into parameter groups of their own, with this learning rate and all else as before."""
    for group in list(optimizer.param_groups):
        own = [weight for weight in group["params"] if weight in weights]
        group["params"] = [weight for weight in group["params"] if weight not in weights]
        optimizer.add_param_group({**group, "params": own, "lr": rate})


def decay_by_epoch(epoch: int, fraction: float, args: RunArguments) -> float:
    """What the learning rate is multiplied with: linear warm-up by step, then a decay by whole epochs.

    Args:
        epoch: whole epochs done.
        fraction: share of the present epoch that will be done after this step, in (0, 1].
    """
    if epoch < args.warmup_epochs:
        return (epoch + fraction) / args.warmup_epochs
    return args.lr_decay_factor ** ((epoch - args.warmup_epochs) // args.lr_decay_epochs)
