"""What the network is shown of an image: one augmented view, or several crops of it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.datasets.sampling import SampleKey

GLOBAL_AREA = (0.4, 1.0)
"""Of the image, of a large view. As in DINO (Caron et al. 2021, arXiv 2104.14294), which takes 0.4 to 1 too."""
LOCAL_AREA = (0.1, 0.4)
"""Of a small view. DINO takes 0.05 to 0.4 of photographs; smaller parts of a fundus or radiograph may show nothing."""
LONGEST = 4 / 3
"""Ratio of the sides of a crop, at most."""
LOCAL_SIDE = 3 / 7
"""Side of a small view, as a fraction of a large one's (DINO: 96 of 224)."""


class AugmentedImages(ImageDataset):
    """One view of an image as 8 bits (C, H, W): augmented in training, as it is otherwise.

    It is not normalised: student and teacher each do so in their own way.
    """

    def __getitem__(self, key: int | SampleKey) -> dict[str, Tensor]:
        index = key.sample if isinstance(key, SampleKey) else key
        image = self.prepared(index)
        if isinstance(key, SampleKey):
            image = self.transforms.augment(image, seed=seed_of(self.seed, key, 0))
        return {"image": channels_first(image), "index": torch.tensor(index)}


class CroppedImages(AugmentedImages):
    """Random crops of an image, each augmented: two large ones, and small ones in training.

    Held-out images have the same two crops in every epoch.

    Args:
        *args: as for ``ImageDataset``.
        local_views: small crops.
        local_px: their side.
        **kwargs: as for ``ImageDataset``.
    """

    def __init__(self, *args: Any, local_views: int, local_px: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.local_views, self.local_px = local_views, local_px

    def __getitem__(self, key: int | SampleKey) -> dict[str, Tensor]:
        training = isinstance(key, SampleKey)
        of = key if isinstance(key, SampleKey) else SampleKey(0, key)
        image = self.prepared(of.sample)
        large = [self._view(image, of, view, GLOBAL_AREA) for view in range(2)]
        sample = {"image": torch.stack(list(map(channels_first, large))), "index": torch.tensor(of.sample)}
        if training and self.local_views:
            small = [self._view(image, of, 2 + view, LOCAL_AREA) for view in range(self.local_views)]
            size = (self.local_px, self.local_px)
            small = [cv2.resize(view, size, interpolation=cv2.INTER_AREA) for view in small]
            sample["local"] = torch.stack(list(map(channels_first, small)))
        return sample

    def _view(self, image: np.ndarray, key: SampleKey, view: int, area: tuple[float, float]) -> np.ndarray:
        seed = seed_of(self.seed, key, view)
        return self.transforms.augment(crop(image, np.random.default_rng(seed), area), seed=seed)


def seed_of(seed: int, key: SampleKey, view: int) -> int:
    """What one of a sample's views is made from: a function of seed, epoch, sample and view alone."""
    return int(np.random.SeedSequence((seed, key.epoch, key.sample, view)).generate_state(1)[0])


def crop(image: np.ndarray, rng: np.random.Generator, area: tuple[float, float]) -> np.ndarray:
    """A random rectangle of an image, scaled to the image's own size.

    Args:
        image: (H, W, C) uint8.
        rng: what is random.
        area: smallest and largest part of the image.

    Returns:
        (H, W, C) uint8.
    """
    height, width = image.shape[:2]
    part, ratio = rng.uniform(*area), np.exp(rng.uniform(-np.log(LONGEST), np.log(LONGEST)))
    h = int(np.clip(round(height * np.sqrt(part * ratio)), 1, height))
    w = int(np.clip(round(width * np.sqrt(part / ratio)), 1, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    cut = image[top : top + h, left : left + w]
    return cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR).reshape(image.shape)


def channels_first(image: np.ndarray) -> Tensor:
    """(H, W, C), or (H, W) of a grey image that OpenCV gave, to a tensor (C, H, W) of its own memory."""
    image = image[:, :, np.newaxis] if image.ndim == 2 else image
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
