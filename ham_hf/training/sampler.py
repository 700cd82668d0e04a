"""Which images an epoch shows, where rare diagnoses are to be seen more often than they are."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import datasets
import torch
from torch.utils.data import Dataset, Sampler

REPEAT = "repeat"  # a column for transforms: how often the epoch has drawn the image before


class WeightedSampler(Sampler[int]):
    """As many images as there are, drawn with replacement, anew every epoch.

    The draw depends on (seed, epoch) alone: every process draws the same, and takes its own batches of it; a resumed
    run goes on in the draw that was broken off. torch's WeightedRandomSampler draws from a state that moves on.
    """

    def __init__(self, weights: Sequence[float] | torch.Tensor, seed: int, number_repeats: bool = False):
        """
        Args:
            weights: of each image, (N,), in any scale.
            number_repeats: image i is number i + k * N where the epoch has drawn it k times before: see `Repeats`.
        """
        self._number_repeats = number_repeats
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
        drawn: Counter[int] = Counter()
        for row in torch.multinomial(self._weights, len(self), replacement=True, generator=generator).tolist():
            yield row + drawn[row] * len(self) * self._number_repeats
            drawn[row] += 1


class Repeats(Dataset):
    """Images by a `WeightedSampler`'s numbers, for a `transform` that shows an image otherwise at every REPEAT."""

    def __init__(self, rows: datasets.Dataset, transform: Callable[[dict], dict]):
        self._rows, self._transform = rows, transform

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, numbers: list[int]) -> list[dict]:
        batch = self._rows[[number % len(self) for number in numbers]]
        columns = self._transform({**batch, REPEAT: [number // len(self) for number in numbers]})
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
