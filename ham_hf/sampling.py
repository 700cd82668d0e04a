"""Which images an epoch shows, where rare diagnoses are to be seen more often than they are."""

import zlib
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class WeightedSampler(Sampler[int]):
    """As many images as there are, drawn with replacement, anew every epoch.

    The draw depends on (seed, epoch) alone: every process draws the same, and takes its own batches of it; a resumed
    run goes on in the draw that was broken off. torch's WeightedRandomSampler draws from a state that moves on.
    """

    def __init__(self, weights: Sequence[float] | torch.Tensor, seed: int):
        """`weights`: of each image, (N,), in any scale."""
        self._weights = torch.as_tensor(weights, dtype=torch.float64)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loaders at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {self._epoch}".encode()))
        return iter(torch.multinomial(self._weights, len(self), replacement=True, generator=generator).tolist())
