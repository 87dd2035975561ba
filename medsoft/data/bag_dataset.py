"""Bags of features with their targets: whole, or changed at random as a function of seed, epoch and bag."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from medsoft.data.bag_files import read_good
from medsoft.data.bags.bag_file import BagError, open_bag
from medsoft.data.sampling import SampleKey, for_torch, sample_seed
from medsoft.errors import RunError

Arrays = tuple[np.ndarray, np.ndarray | None]
"""Features (N, F) float32 of a bag, and places (N, 2) float32 in µm where all are known."""


@dataclass(frozen=True)
class BagAugmentation:
    """Random changes of a bag in training.

    Attributes:
        max_tiles: a longer bag is cut to as many tiles, drawn at random; None for no limit.
        tile_fraction: share of its tiles that each bag keeps, drawn at random, before ``max_tiles``.
        feature_dropout: chance of each feature to be 0 in all tiles of the bag; the others are scaled up for it.
    """

    max_tiles: int | None = None
    tile_fraction: float = 1.0
    feature_dropout: float = 0.0

    def __call__(self, bag: Arrays, rng: np.random.Generator) -> Arrays:
        """A changed bag; tiles keep their order, and ``bag`` stays as it is."""
        features_NF, coords_N2_um = bag
        keep = self.tiles_kept(len(features_NF))
        if keep < len(features_NF):
            rows = np.sort(rng.choice(len(features_NF), keep, replace=False))
            features_NF = features_NF[rows]
            coords_N2_um = None if coords_N2_um is None else coords_N2_um[rows]
        if self.feature_dropout:
            kept_F = np.asarray(rng.random(features_NF.shape[1]) >= self.feature_dropout)
            features_NF = features_NF * np.float32(1 / (1 - self.feature_dropout)) * kept_F.astype(np.float32)
        return features_NF, coords_N2_um

    def tiles_kept(self, num_tiles: int) -> int:
        """Tiles that are left of a bag, at least 1."""
        return min(math.ceil(self.tile_fraction * num_tiles), self.max_tiles or num_tiles)


class BagPieces:
    """A bag that is read from its files piece by piece, as often as it is called.

    Not a dataclass: Lightning would look for tensors in its fields, to move them to the device.

    Args:
        files: of its slides, one after the other.
        with_places: give the tiles' places too.
    """

    def __init__(self, files: Sequence[str], with_places: bool) -> None:
        self.files, self.with_places = files, with_places

    def __call__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Features (n, F) and places (n, 2) in µm, or None, of the good tiles.

        Raises:
            RunError: a file can no longer be read.
        """
        for path in self.files:
            try:
                with open_bag(Path(path)) as bag:
                    for features_nF, coords_n2_um in bag.chunks():
                        places = coords_n2_um if self.with_places else None
                        yield torch.from_numpy(features_nF), None if places is None else torch.from_numpy(places)
            except BagError as error:
                raise RunError(f"a feature file can no longer be read: it {error}") from error


class BagDataset(Dataset[dict[str, Any]]):
    """Bags and targets of some rows of a table.

    Indexed by an int for the whole bag, by a SampleKey for an augmented one, which is a function of (seed, epoch, row)
    alone. A sample has ``features`` (N, F) float32, ``coords_um`` (N, 2) float32 where asked for, ``target`` and
    ``index``. A whole bag that is not to be held in memory has its ``pieces`` in place of features and places.

    Args:
        files: of each bag, one slide after the other.
        targets: (n,) class indices, or (n, L) floats with NaN for missing labels.
        augmentation: of the training.
        seed: of the augmentation.
        with_places: give the tiles' places too.
        in_memory: keep all bags in memory from the start; else each is read when it is asked for.
        streamed: of each bag, whether it is handed on in pieces, and never kept; None: no bag is.

    Raises:
        RunError: a feature file can no longer be read.
    """

    def __init__(
        self,
        files: Sequence[Sequence[str]],
        targets: np.ndarray,
        augmentation: BagAugmentation,
        seed: int,
        with_places: bool,
        in_memory: bool,
        streamed: Sequence[bool] | None = None,
    ) -> None:
        self.files, self.augmentation = files, augmentation
        self.streamed = [False] * len(files) if streamed is None else list(streamed)
        self.targets = for_torch(targets)
        self.seed, self.with_places = seed, with_places
        self.cache: list[Arrays | None] | None = None
        if in_memory:
            self.cache = [None if streamed else self.read(index) for index, streamed in enumerate(self.streamed)]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Arrays:
        """All good tiles of a bag."""
        if self.cache is not None and (kept := self.cache[index]) is not None:
            return kept
        slides = [_read(path) for path in self.files[index]]
        features_NF = slides[0][0] if len(slides) == 1 else np.concatenate([slide[0] for slide in slides])
        # Places of several slides have no common frame: bags with places are of one slide.
        return features_NF, slides[0][1] if self.with_places else None

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        index = key.sample if isinstance(key, SampleKey) else key
        if self.streamed[index] and not isinstance(key, SampleKey):
            pieces = BagPieces(self.files[index], self.with_places)
            return {"pieces": pieces, "target": torch.as_tensor(self.targets[index]), "index": torch.tensor(index)}
        bag = self.read(index)
        if isinstance(key, SampleKey):
            bag = self.augmentation(bag, np.random.default_rng(sample_seed(self.seed, key)))
        sample = {
            "features": torch.from_numpy(bag[0]),
            "target": torch.as_tensor(self.targets[index]),
            "index": torch.tensor(index),
        }
        return sample if bag[1] is None else sample | {"coords_um": torch.from_numpy(bag[1])}


def _read(path: str) -> Arrays:
    try:
        with open_bag(Path(path)) as bag:
            return read_good(bag)
    except BagError as error:
        raise RunError(f"a feature file can no longer be read: it {error}") from error


def collate_bags(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: bags padded at their end to the longest, with ``mask`` (B, N) True where a tile is real.

    One bag alone has nothing to pad, and no mask; only one alone may come in pieces.
    """
    if len(samples) == 1:
        return {name: value[None] if isinstance(value, Tensor) else value for name, value in samples[0].items()}
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in ("target", "index")}
    for name in samples[0].keys() - batch.keys():
        batch[name] = pad_sequence([sample[name] for sample in samples], batch_first=True)
    lengths = torch.tensor([len(sample["features"]) for sample in samples])
    return batch | {"mask": torch.arange(int(lengths.max())) < lengths[:, None]}
