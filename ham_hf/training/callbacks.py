"""What happens around a training run's steps: the epoch for the augmentation, a line of log an epoch, a warning."""

import logging

from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback

from ham_hf.evaluation.metrics import COLLAPSED_SHARE, collapsed_steps
from ham_hf.training.losses import ClassificationLoss
from ham_hf.training.transforms import TrainTransform

logger = logging.getLogger(__name__)

COLLAPSED = """\
The model has collapsed: at two evaluations running, at least %.1f %% of the images got one and the same answer \
(now %.1f %%). Likely causes, and what to try:
- the learning rate is too high for a pretrained BERT or transformer, or starts without warm-up: a tenth of \
learning_rate, warmup_steps 0.1
- the pixels are on the wrong scale, such as images that are normalised twice: normalization checkpoint
- the batch is too small, or there were too few steps so far: a larger per_device_train_batch_size, more epochs
- one diagnosis outweighs the others: logit_adjustment 1"""


class TellEpoch(TrainerCallback):
    """Tells the training transform, or the loss, which epoch it is: both may differ from epoch to epoch."""

    def __init__(self, listener: TrainTransform | ClassificationLoss):
        self._listener = listener

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._listener.set_epoch(int(state.epoch))


class QuietProgress(ProgressCallback):
    """The Trainer's progress bars without a printed dictionary at every logging step."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class CollapseGuard(TrainerCallback):
    """Warns, once a run, when the answer no longer depends on the image; with `stop_on_collapse`, ends the training.

    What it knows is the Trainer's own log, which a checkpoint holds: a resumed run goes on where it was.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if args.stop_on_collapse and state.global_step in collapsed_steps(state.log_history):
            control.should_training_stop = True  # as it was decided before the process was killed

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        steps = collapsed_steps(state.log_history)
        if not steps or steps[-1] != state.global_step:
            return
        if len(steps) == 1:
            logger.warning(COLLAPSED, 100 * COLLAPSED_SHARE, 100 * metrics["eval_top_class_share"])
        if args.stop_on_collapse:
            logger.warning("Stopping after step %d, for --stop_on_collapse was asked for.", state.global_step)
            control.should_training_stop = True


class EarlyStopping(EarlyStoppingCallback):
    """The stock one forgets, when a run goes on, for how long it has waited and that it ended the training (5.24)."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        before = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = before["attributes"]["early_stopping_patience_counter"]
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


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
