"""Callbacks of a run: pass on the epoch, log a line per evaluation, warn of a collapse, stop early."""

import logging

from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback

from ham_hf.evaluation.metrics import COLLAPSED_SHARE, collapsed_steps
from ham_hf.training.losses import ClassificationLoss
from ham_hf.training.transforms import TrainTransform

logger = logging.getLogger(__name__)

COLLAPSED = """\
The model has collapsed: at two consecutive evaluations, at least %.1f %% of the images got the same prediction \
(now %.1f %%). Likely causes, and what to try:
- the learning rate is too high for a pretrained BERT or transformer, or has no warm-up: a tenth of learning_rate, \
warmup_steps 0.1
- the pixels are on the wrong scale, such as images that are normalized twice: normalization checkpoint
- the batch is too small, or there were too few steps: a larger per_device_train_batch_size, more epochs
- one diagnosis dominates: logit_adjustment 1"""


class TellEpoch(TrainerCallback):
    """Tell the training transform, or the loss, which epoch it is."""

    def __init__(self, listener: TrainTransform | ClassificationLoss):
        self._listener = listener

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._listener.set_epoch(int(state.epoch))


class QuietProgress(ProgressCallback):
    """Show the Trainer's progress bars without printing a dictionary at every logging step."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class CollapseGuard(TrainerCallback):
    """Warn once when predictions no longer depend on the image; with `stop_on_collapse`, stop the training.

    It reads the Trainer's log, which checkpoints hold, so that a resumed run continues where it was.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if args.stop_on_collapse and state.global_step in collapsed_steps(state.log_history):
            control.should_training_stop = True  # as decided before the process was killed

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        steps = collapsed_steps(state.log_history)
        if not steps or steps[-1] != state.global_step:
            return
        if len(steps) == 1:
            logger.warning(COLLAPSED, 100 * COLLAPSED_SHARE, 100 * metrics["eval_top_class_share"])
        if args.stop_on_collapse:
            logger.warning("Stopping after step %d, because of --stop_on_collapse.", state.global_step)
            control.should_training_stop = True


class EarlyStopping(EarlyStoppingCallback):
    """Remember in a resumed run how long it has waited, and that it stopped, unlike the stock callback (5.24)."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        before = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = before["attributes"]["early_stopping_patience_counter"]
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class EpochLine(TrainerCallback):
    """Log one line at every evaluation, with the losses and the main validation metrics."""

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
