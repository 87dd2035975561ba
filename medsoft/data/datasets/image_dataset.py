"""A dataset of images and targets, plain or augmented as a function of seed, epoch and sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medsoft.data.datasets.sampling import SampleKey, for_torch, sample_seed
from medsoft.data.images.read import read_sample
from medsoft.data.transforms.base import Transforms
from medsoft.errors import ReadError, RunError


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Images and targets of some rows of a table.

    Indexed by an int for the image as it is, by a SampleKey for an augmented one, which is a function of
    (seed, epoch, row) alone.

    Args:
        paths: of the images.
        targets: (n,) class indices, or (n, L) floats with NaN for missing labels.
        transforms: the modality's.
        seed: of the augmentation.
        max_pixels: limit for an image.
        cache: (n, H, W, C) prepared images, or None to read each when it is asked for.
        voi: as for ``read_image``.
        covariates: (n, K) float32, NaN where missing, or None; a sample then has ``covariates`` (K,).
        stored_sizes: (n, 2) height and width of the files' images, where they are known; a sample as it is then has
            ``stored_size`` (2,).
    """

    def __init__(
        self,
        paths: list[str],
        targets: np.ndarray,
        transforms: Transforms,
        seed: int,
        max_pixels: int,
        cache: np.ndarray | None = None,
        voi: bool = False,
        covariates: np.ndarray | None = None,
        stored_sizes: np.ndarray | None = None,
    ) -> None:
        self.paths, self.transforms = paths, transforms
        self.targets = for_torch(targets)
        self.covariates, self.stored_sizes = covariates, stored_sizes
        self.seed, self.max_pixels, self.cache, self.voi = seed, max_pixels, cache, voi

    def __len__(self) -> int:
        return len(self.paths)

    def prepared(self, index: int) -> np.ndarray:
        """The image as the model sees it without augmentation, (H, W, C) uint8.

        Raises:
            RunError: it can no longer be read.
        """
        if self.cache is not None:
            image: np.ndarray = self.cache[index]
            return image
        return self.transforms.prepare(self.image_as_stored(index))

    def image_as_stored(self, index: int) -> np.ndarray:
        """The image, (H, W, C).

        Raises:
            RunError: it can no longer be read.
        """
        try:
            return read_sample(self.paths[index], max_pixels=self.max_pixels, voi=self.voi)
        except ReadError as error:
            raise RunError(f"a picture can no longer be read: it {error.reason}") from None

    def __getitem__(self, key: int | SampleKey) -> dict[str, Tensor]:
        index = key.sample if isinstance(key, SampleKey) else key
        image = self.prepared(index)
        if isinstance(key, SampleKey):
            image = self.transforms.augment(image, seed=sample_seed(self.seed, key))
        sample = {
            "image": torch.from_numpy(self.transforms.finish(image)),
            "target": torch.as_tensor(self.targets[index]),
            "index": torch.tensor(index),
        }
        if self.stored_sizes is not None and not isinstance(key, SampleKey):
            sample["stored_size"] = torch.from_numpy(self.stored_sizes[index])
        return sample if self.covariates is None else sample | {"covariates": torch.from_numpy(self.covariates[index])}
