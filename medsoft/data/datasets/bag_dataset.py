"""A dataset of bags and targets, whole or augmented as a function of seed, epoch and bag."""

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

from medsoft.data.datasets.bag_index import read_good
from medsoft.data.datasets.feature_scale import Scale
from medsoft.data.datasets.sampling import SampleKey, for_torch, sample_seed
from medsoft.data.features.open import Bag, open_bag
from medsoft.errors import BagError, RunError

Arrays = tuple[np.ndarray, np.ndarray | None]
"""Features (N, F) float32 of a bag, and places (N, axes) float32 where all are known (``Bag.places``)."""


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
        features_NF, places_NA = bag
        keep = self.tiles_kept(len(features_NF))
        if keep < len(features_NF):
            rows = np.sort(rng.choice(len(features_NF), keep, replace=False))
            features_NF = features_NF[rows]
            places_NA = None if places_NA is None else places_NA[rows]
        if self.feature_dropout:
            kept_F = np.asarray(rng.random(features_NF.shape[1]) >= self.feature_dropout)
            features_NF = features_NF * np.float32(1 / (1 - self.feature_dropout)) * kept_F.astype(np.float32)
        return features_NF, places_NA

    def tiles_kept(self, num_tiles: int) -> int:
        """Tiles that are left of a bag, at least 1."""
        return min(math.ceil(self.tile_fraction * num_tiles), self.max_tiles or num_tiles)


def pieces_of(bag: Bag) -> Iterator[tuple[Tensor, Tensor | None]]:
    """An open bag piece by piece: features (n, F) and places (n, axes), or None, of the good tiles.

    Raises:
        BagError: the file is damaged.
    """
    for features_nF, coords_nA in bag.chunks():
        yield torch.from_numpy(features_nF), None if coords_nA is None else torch.from_numpy(coords_nA)


def pieces_of_all(bags: Sequence[Bag]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Some open files as one bag, piece by piece; of several without places, which have no common frame.

    Raises:
        BagError: a file is damaged.
    """
    for bag in bags:
        for features_nF, coords_nA in pieces_of(bag):
            yield features_nF, coords_nA if len(bags) == 1 else None


class BagPieces:
    """A bag that is read from its files piece by piece, as often as it is called.

    Not a dataclass: Lightning would look for tensors in its fields, to move them to the device.

    Args:
        files: of its slides, one after the other.
        with_coordinates: give the tiles' places too.
    """

    def __init__(self, files: Sequence[str], with_coordinates: bool) -> None:
        self.files, self.with_coordinates = files, with_coordinates

    def __call__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Features (n, F) and places (n, axes), or None, of the good tiles.

        Raises:
            RunError: a file can no longer be read.
        """
        for path in self.files:
            try:
                with open_bag(Path(path)) as bag:
                    for features_nF, coords_nA in pieces_of(bag):
                        yield features_nF, coords_nA if self.with_coordinates else None
            except BagError as error:
                raise RunError(f"a feature file can no longer be read: it {error}") from error


class BagDataset(Dataset[dict[str, Any]]):
    """Bags and targets of some rows of a table.

    Indexed by an int for the whole bag, by a SampleKey for an augmented one, which is a function of (seed, epoch, row)
    alone. A sample has ``features`` (N, F) float32, ``coords`` (N, axes) float32 where asked for, ``covariates``
    (K,) float32 where there are some, ``target`` and ``index``. A whole bag that is not to be held in memory has its
    ``pieces`` in place of features and places.

    Args:
        files: of each bag, one slide after the other.
        targets: (n,) class indices, or (n, L) floats with NaN for missing labels.
        augmentation: of the training.
        seed: of the augmentation.
        with_coordinates: give the tiles' places too.
        in_memory: keep all bags in memory from the start; else each is read when it is asked for.
        streamed: of each bag, whether it is handed on in pieces, and never kept; None: no bag is.
        pooled: give one vector a file in place of its tiles.
        with_views: draw each augmented bag among itself and the augmented views that its file holds.
        covariates: (n, K) float32, NaN where missing, or None.

    Raises:
        RunError: a feature file can no longer be read.
    """

    def __init__(
        self,
        files: Sequence[Sequence[str]],
        targets: np.ndarray,
        augmentation: BagAugmentation,
        seed: int,
        with_coordinates: bool,
        in_memory: bool,
        streamed: Sequence[bool] | None = None,
        pooled: bool = False,
        with_views: bool = False,
        covariates: np.ndarray | None = None,
    ) -> None:
        self.files, self.augmentation, self.pooled, self.with_views = files, augmentation, pooled, with_views
        self.streamed = [False] * len(files) if streamed is None else list(streamed)
        self.targets = for_torch(targets)
        self.covariates = covariates
        self.seed, self.with_coordinates = seed, with_coordinates
        self.cache: list[Arrays | None] | None = None
        if in_memory:
            self.cache = [None if streamed else self.read(index) for index, streamed in enumerate(self.streamed)]
        self.views_cache: list[list[np.ndarray] | None] | None = None
        if in_memory and with_views:
            self.views_cache = [self._views(index) for index in range(len(files))]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Arrays:
        """All good tiles of a bag."""
        if self.cache is not None and (kept := self.cache[index]) is not None:
            return kept
        slides = [_read(path, self.pooled) for path in self.files[index]]
        features_NF = slides[0][0] if len(slides) == 1 else np.concatenate([slide[0] for slide in slides])
        # Places of several slides have no common frame: bags with places are of one slide.
        return features_NF, slides[0][1] if self.with_coordinates else None

    def vectors(self) -> np.ndarray:
        """The mean of each bag, (n, F) float64."""
        return np.stack([self.read(index)[0].mean(axis=0, dtype=np.float64) for index in range(len(self))])

    def scale(self) -> Scale:
        """Mean and standard deviation of each feature over the tiles of all bags, each bag as it is."""
        count, total_F, squares_F = 0, np.zeros(1), np.zeros(1)
        centre_F = self.read(0)[0].mean(axis=0, dtype=np.float64)  # squares of what is far from 0 would lose digits
        for index in range(len(self)):
            features_NF = self.read(index)[0] - centre_F
            count += len(features_NF)
            total_F, squares_F = total_F + features_NF.sum(axis=0), squares_F + (features_NF**2).sum(axis=0)
        mean_F = total_F / count
        return Scale.from_moments(mean_F + centre_F, np.sqrt(np.maximum(squares_F / count - mean_F**2, 0)))

    def view_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The means of the augmented views of all bags, (M, F) float64, and whose each is, (M,)."""
        if not self.with_views:
            return np.zeros((0, self.read(0)[0].shape[1])), np.zeros(0, np.intp)
        views = [self._views(index) for index in range(len(self))]
        of = np.repeat(np.arange(len(views)), [len(one) for one in views])
        return np.array([view.mean(axis=0, dtype=np.float64) for one in views for view in one]), of

    def _drawn(self, index: int, bag: Arrays, rng: np.random.Generator) -> Arrays:
        """The bag itself or one of its augmented views, each as likely; their tokens lie at the same places."""
        if not self.with_views or not (views := self._views(index)):
            return bag
        drawn = int(rng.integers(len(views) + 1))
        return (views[drawn - 1], bag[1]) if drawn else bag

    def _views(self, index: int) -> list[np.ndarray]:
        """The augmented views of a bag, (N, F) each: those that all of its files have."""
        if self.views_cache is not None and (kept := self.views_cache[index]) is not None:
            return kept
        of_files = [_read_views(path, self.pooled) for path in self.files[index]]
        return [np.concatenate(parts) for parts in zip(*of_files, strict=False)]

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        index = key.sample if isinstance(key, SampleKey) else key
        sample: dict[str, Any] = {"target": torch.as_tensor(self.targets[index]), "index": torch.tensor(index)}
        if self.covariates is not None:
            sample["covariates"] = torch.from_numpy(self.covariates[index])
        if self.streamed[index] and not isinstance(key, SampleKey):
            return {"pieces": BagPieces(self.files[index], self.with_coordinates), **sample}
        bag = self.read(index)
        if isinstance(key, SampleKey):
            rng = np.random.default_rng(sample_seed(self.seed, key))
            bag = self.augmentation(self._drawn(index, bag, rng), rng)
        sample = {"features": torch.from_numpy(bag[0]), **sample}
        return sample if bag[1] is None else sample | {"coords": torch.from_numpy(bag[1])}


def _read_views(path: str, pooled: bool) -> list[np.ndarray]:
    """Features (N, F) of each augmented view of a file, or its vector (1, F)."""
    try:
        with open_bag(Path(path)) as bag:
            if not pooled:
                return [bag.read_view(view)[bag.good_N] for view in range(bag.num_views)]
            return [view_F[None] for view_F in bag.read_pooled_views()]
    except BagError as error:
        raise RunError(f"a feature file can no longer be read: it {error}") from error


def _read(path: str, pooled: bool) -> Arrays:
    try:
        with open_bag(Path(path)) as bag:
            return (pooled_vector(bag)[None], None) if pooled else read_good(bag)
    except BagError as error:
        raise RunError(f"a feature file can no longer be read: it {error}") from error


def pooled_vector(bag: Bag) -> np.ndarray:
    """The vector (F,) float32 of a bag: the file's own, else the mean of its good tiles.

    Raises:
        BagError: the file is damaged.
    """
    if bag.pooled is not None:
        own: np.ndarray = bag.pooled[0]
        return own
    total_F = np.zeros(bag.num_features)
    for features_nF, _ in bag.chunks():
        total_F += features_nF.sum(axis=0, dtype=np.float64)
    mean: np.ndarray = (total_F / bag.good_N.sum()).astype(np.float32)
    return mean


def collate_bags(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: bags padded at their end to the longest, with ``mask`` (B, N) True where a tile is real.

    One bag alone has nothing to pad, and no mask; only one alone may come in pieces.
    """
    if len(samples) == 1:
        return {name: value[None] if isinstance(value, Tensor) else value for name, value in samples[0].items()}
    of_tiles = samples[0].keys() & {"features", "coords"}
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0].keys() - of_tiles}
    for name in of_tiles:
        batch[name] = pad_sequence([sample[name] for sample in samples], batch_first=True)
    lengths = torch.tensor([len(sample["features"]) for sample in samples])
    return batch | {"mask": torch.arange(int(lengths.max())) < lengths[:, None]}
