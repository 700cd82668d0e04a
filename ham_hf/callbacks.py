"""What happens around a training run's steps: the epoch for the augmentation, and one line of log an epoch."""

import logging

from transformers import ProgressCallback, TrainerCallback

from ham_hf.transforms import TrainTransform

logger = logging.getLogger(__name__)


class EpochForTransform(TrainerCallback):
    """Tells the training transform which epoch it is: the crops of an image differ from epoch to epoch."""

    def __init__(self, transform: TrainTransform):
        self._transform = transform

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._transform.set_epoch(int(state.epoch))


class QuietProgress(ProgressCallback):
    """The Trainer's progress bars without a printed dictionary at every logging step."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class EpochLine(TrainerCallback):
    """One line at every evaluation: losses, and the validation metrics people look at first."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if not state.is_world_process_zero:
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        training = f"training loss {losses[-1]:.3f} · " if losses else ""
        logger.info(
            "epoch %g/%d · %svalidation loss %.3f · balanced accuracy %.3f · accuracy %.3f · macro F1 %.3f",
            round(state.epoch or 0, 2),
            args.num_train_epochs,
            training,
            metrics["eval_loss"],
            metrics["eval_balanced_accuracy"],
            metrics["eval_accuracy"],
            metrics["eval_macro_f1"],
        )
