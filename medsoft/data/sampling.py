"""Which sample comes when: a function of (seed, epoch, position) alone, so that a stopped run resumes exactly.

Every key that reaches the data set carries its epoch, so that augmentation is a function of (seed, epoch, sample):
the number of workers, their order and a restart change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """One sample of one epoch."""

    epoch: int
    sample: int


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches of near-equal size; no sample is dropped and no batch is a rest of one.

    Args:
        n: number of samples.
        batch_size: largest batch.
        seed: of the order.
        weights: (n,) chances of being drawn, with replacement (balanced sampling); None for each sample once.
        start: (epoch, batch) to begin with; a resumed run skips what it has learnt from.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, weights: np.ndarray | None = None, start: tuple[int, int] = (0, 0)
    ) -> None:
        self.n, self.seed = n, seed
        self.batches = -(-n // batch_size)
        self.chances = None if weights is None else weights / weights.sum()
        self.epoch, self.start = start
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning ahead of each epoch; a position within this epoch is kept."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def order(self, epoch: int) -> np.ndarray:
        """(n,) indices of the samples in the order of the epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.chances is None:
            return rng.permutation(self.n)
        return rng.choice(self.n, size=self.n, p=self.chances)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, start = self.epoch, self.start
        for part in np.array_split(self.order(epoch), self.batches)[start:]:
            yield [SampleKey(epoch, int(i)) for i in part]

    def __len__(self) -> int:
        return self.batches
