"""Options of a run that transformers.TrainingArguments does not have.

Apart from `ham_hf.config.recipe`, because TrainingArguments takes seconds to import.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class RunOptions:
    """How a run resumes, optimizes and stops, in addition to TrainingArguments."""

    resume: bool = field(
        default=False,
        metadata={"help": "Resume from the last checkpoint in --output_dir, if there is one."},
    )
    final_fit: str | None = field(
        default=None,
        metadata={
            "help": "The folder of a finished run of this recipe: train on the training and validation images "
            "together, without choosing anything, for as many epochs as that run chose and with its temperature and "
            "threshold. Figures are of the test images alone; with --split all, all images are training images."
        },
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Set learning_rate to this value x batch size x gradient accumulation x processes / 256."},
    )
    image_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the image encoder of a fusion model (default: learning_rate)."},
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the new classifier (default: learning_rate)."}
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Layer-wise learning rate decay (Howard and Ruder, 2018): each block of the backbone is trained "
            "with this factor times the learning rate of the block above it, such as 0.75."
        },
    )
    gradual_unfreezing: float = field(
        default=0.0,
        metadata={
            "help": "Number of epochs over which the blocks of the backbone are unfrozen one by one, from the top "
            "down (Howard and Ruder, 2018); the classifier is trained from the start."
        },
    )
    optimizer: Literal["adamw", "adam", "sgd"] = field(
        default="adamw",
        metadata={"help": "Optimizer; 'adamw' uses optim of TrainingArguments, 'sgd' uses --sgd_momentum."},
    )
    sgd_momentum: float = field(default=0.9, metadata={"help": "Momentum of --optimizer sgd."})
    sgd_nesterov: bool = field(default=False, metadata={"help": "Nesterov momentum for --optimizer sgd."})
    lr_decay_factor: float | None = field(
        default=None,
        metadata={
            "help": "Multiply the learning rate by this factor every --lr_decay_epochs epochs, after --warmup_epochs; "
            "requires lr_scheduler_type: constant."
        },
    )
    lr_decay_epochs: int = field(default=1, metadata={"help": "Number of epochs between two --lr_decay_factor steps."})
    warmup_epochs: int = field(
        default=0,
        metadata={"help": "Epochs of linear warm-up before --lr_decay_factor (otherwise use warmup_steps)."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate, save and publish an exponential moving average of the weights with this decay per "
            "step, such as 0.995 (default: the weights themselves)."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations without an improvement of metric_for_best_model."},
    )
    stop_on_collapse: bool = field(
        default=False,
        metadata={
            "help": "Stop if nearly all images get the same prediction at two consecutive evaluations (default: only "
            "a warning)."
        },
    )
    channels_last: bool | None = field(
        default=None,
        metadata={"help": "Train convolutional models in channels_last memory format (default: if it is faster)."},
    )
