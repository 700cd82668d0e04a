"""Keep an exponential moving average of the weights, which is evaluated, saved and published in their place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, TrainerCallback, TrainerState

# In a checkpoint of a run with averaged weights: the weights being trained, which --resume needs
TRAINED_WEIGHTS = "trained_weights.safetensors"


class AveragedWeights(TrainerCallback):
    """Average the weights of a model after every step; `decay` (below 1) is the share of the old average."""

    def __init__(self, model: PreTrainedModel, decay: float):
        rule = exponential_average(decay, lambda: int(self._average.n_averaged))
        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=rule, use_buffers=True)

    def on_step_end(self, args, state, control, model: nn.Module, **kwargs):
        self._average.update_parameters(model)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Let the model have the averaged weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        averaged = self._average.module.state_dict()
        for name, trained in self._model.state_dict().items():
            kept = trained.clone()
            trained.copy_(averaged[name])
            averaged[name].copy_(kept)

    def save_trained(self, checkpoint: Path) -> None:
        """Save the weights being trained beside the averaged ones in a checkpoint."""
        save_model(self._model, str(checkpoint / TRAINED_WEIGHTS))

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint whose averaged weights the model has already loaded."""
        self._average.module.load_state_dict(self._model.state_dict())
        step = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).global_step
        self._average.n_averaged.fill_(step)
        load_model(self._model, checkpoint / TRAINED_WEIGHTS)


def exponential_average(decay: float, count: Callable[[], int]) -> Callable:
    """Return a rule for `AveragedModel`: a moving average that starts fast, as TensorFlow's and timm's do.

    `count` returns the number of updates so far. `AveragedModel` passes that number on the device, where reading it
    would wait for the device at every step.
    """

    @torch.no_grad()
    def update(averaged: list[torch.Tensor], trained: list[torch.Tensor], _on_device: torch.Tensor) -> None:
        if not averaged[0].is_floating_point():  # batch norm counts its batches
            for mean, value in zip(averaged, trained, strict=True):
                mean.copy_(value)
            return
        updates = count()
        torch._foreach_lerp_(averaged, trained, 1 - min(decay, (1 + updates) / (10 + updates)))

    return update
