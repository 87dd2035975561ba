"""The order of samples: a function of (seed, epoch, position) alone, so that a stopped run resumes exactly.

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


def sample_seed(seed: int, key: SampleKey) -> int:
    """What a sample's augmentation is seeded with: a function of seed, epoch and sample alone."""
    return int(np.random.SeedSequence((seed, key.epoch, key.sample)).generate_state(1)[0])


def for_torch(targets: np.ndarray) -> np.ndarray:
    """A copy of targets (those of a data frame are read-only, which torch warns of); numbers as float32."""
    return np.array(targets, np.float32 if targets.dtype.kind == "f" else np.int64)


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches of near-equal size; no sample is dropped and no batch is a rest of one.

    With ``divide``, several processes step together, each with a part of near-equal size of every batch.

    Args:
        n: number of samples.
        batch_size: largest batch of one process.
        seed: of the order.
        weights: (n,) chances of being drawn, with replacement (balanced sampling); None for each sample once.
        start: (epoch, batch) to begin with; a resumed run skips what it has learnt from.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, weights: np.ndarray | None = None, start: tuple[int, int] = (0, 0)
    ) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.processes = 0, 1
        self.chances = None if weights is None else weights / weights.sum()
        self.epoch, self.start = start
        self.sampler = self  # where Lightning looks for set_epoch

    def divide(self, rank: int, processes: int) -> None:
        """Give this process its part of each batch.

        Args:
            rank: of this process, from 0.
            processes: in all; together they hold ``processes * batch_size`` samples at most.
        """
        self.rank, self.processes = rank, processes

    @property
    def batches(self) -> int:
        """Batches an epoch, of all processes together."""
        return -(-self.n // (self.batch_size * self.processes))

    def share(self, epoch: int, batch: int) -> float:
        """What the mean over this process's part of a batch counts in the mean over the processes' means.

        It makes that the mean over the batch, whose parts differ by up to one sample. A part of no sample is filled up
        with one that counts 0.
        """
        samples = self.parts(epoch)[batch]
        return len(self._own(samples)) * self.processes / len(samples)

    def _own(self, samples: np.ndarray) -> np.ndarray:
        own: np.ndarray = np.array_split(samples, self.processes)[self.rank]
        return own

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

    def parts(self, epoch: int) -> list[np.ndarray]:
        """The samples of each batch of the epoch, of all processes together."""
        return np.array_split(self.order(epoch), self.batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, start = self.epoch, self.start
        for samples in self.parts(epoch)[start:]:
            own = self._own(samples)
            yield [SampleKey(epoch, int(i)) for i in (own if len(own) else samples[:1])]

    def __len__(self) -> int:
        return self.batches


class BucketBatchSampler(EpochBatchSampler):
    """Batches of bags of similar length, so that little is padded; which bags meet changes from epoch to epoch.

    An epoch's bags are sorted by length times a random factor between 1 and 2, cut into batches of near-equal size, and
    the batches are shuffled.

    Args:
        lengths: (n,) tiles of each bag, at least 1.
        batch_size: largest batch of one process.
        seed: of the order.
        weights: as for ``EpochBatchSampler``.
        start: as for ``EpochBatchSampler``.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(len(lengths), batch_size, seed, weights, start)
        self.lengths = lengths

    def parts(self, epoch: int) -> list[np.ndarray]:
        """The samples of each batch of the epoch."""
        order = self.order(epoch)
        rng = np.random.default_rng((self.seed, epoch, 1))
        by_length = order[np.argsort(np.log2(self.lengths[order]) + rng.random(self.n), kind="stable")]
        batches = np.array_split(by_length, self.batches)
        return [batches[i] for i in rng.permutation(self.batches)]


def rows_of_process(n: int, batch_size: int, rank: int, processes: int) -> np.ndarray:
    """Rows that one of several processes predicts, in batches as a single process would make them.

    Every ``processes``-th batch of the n rows, so that answers do not depend on the number of processes. All get the
    same number of batches: where one lacks a batch, it takes its first, or the first of all, once more.
    """
    batches = np.split(np.arange(n), range(batch_size, n, batch_size))
    own = batches[rank::processes]
    missing = -(-len(batches) // processes) - len(own)
    # What is repeated goes ahead: a batch that is not full must stay the last.
    return np.concatenate([*((own or batches)[:1] * missing), *own])
