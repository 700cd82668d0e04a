"""Draw the images of an epoch so that rare diagnoses are seen more often."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import datasets
import torch
from torch.utils.data import Dataset, Sampler

REPEAT = "repeat"  # a column for transforms: how often the epoch has drawn the image before


class WeightedSampler(Sampler[int]):
    """Draw as many images as there are, with replacement, anew in every epoch.

    The draw depends only on (seed, epoch): all processes draw the same and take their own batches from it, and a
    resumed run continues the interrupted draw. torch's WeightedRandomSampler draws from a state that changes.
    """

    def __init__(self, weights: Sequence[float] | torch.Tensor, seed: int, number_repeats: bool = False):
        """
        Args:
            weights: (N,) for N images, in any scale.
            number_repeats: yield i + k * N for image i if the epoch has drawn it k times before: see `Repeats`.
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
    """Images by the numbers of a `WeightedSampler`, with a `transform` that augments each repeat differently."""

    def __init__(self, rows: datasets.Dataset, transform: Callable[[dict], dict]):
        self._rows, self._transform = rows, transform

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, numbers: list[int]) -> list[dict]:
        batch = self._rows[[number % len(self) for number in numbers]]
        columns = self._transform({**batch, REPEAT: [number // len(self) for number in numbers]})
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
