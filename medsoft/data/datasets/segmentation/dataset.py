"""A data set of images and masks: on the model's grid for training, with the mask as stored for prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.datasets.sampling import SampleKey, sample_seed
from medsoft.data.masks.place import choose_part, to_prepared
from medsoft.data.masks.read import BACKGROUND, Mask, MaskValues, read_mask
from medsoft.data.transforms.pixels import to_channels, to_uint8
from medsoft.errors import ReadError, RunError

LISTS = ("truth", "placement", "name", "grid", "source")
"""What a batch has as lists, as images differ in size."""


class SegmentationDataset(ImageDataset):
    """Images and masks of some rows of a table.

    A sample for training has ``image`` (C, h, w) and ``target`` (h, w), int64: 0 the background, then the classes, -1
    where nothing is known. A sample as it is has besides what a prediction on the input's own grid needs:
    ``placement``, ``truth`` (H, W) uint8 as ``medsoft.data.masks`` keeps masks (all 0 where no mask is known) and
    ``name``, for files.

    Args:
        *args: see ``ImageDataset``.
        masks: files, "" where there is none.
        values: what the masks' values mean.
        names: unique names of the rows, for files.
        patches: whether a training sample is a part of the image at its own resolution, of the recipe's size.
        foreground: share of the parts that are centred on a pixel of a class.
        **options: see ``ImageDataset``.
    """

    def __init__(
        self,
        *args: Any,
        masks: list[str],
        values: MaskValues,
        names: list[str],
        patches: bool = False,
        foreground: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.masks, self.values, self.names = masks, values, names
        self.patches, self.foreground = patches, foreground

    def truth(self, index: int) -> Mask | None:
        """The mask as stored, (H, W); None where there is none.

        Raises:
            RunError: it can no longer be read.
        """
        if not self.masks[index]:
            return None
        try:
            return read_mask(self.masks[index], self.values, self.max_pixels)
        except ReadError as error:
            raise RunError(f"a mask can no longer be read: it {error.reason}") from None

    def with_masks(self, index: int, folder: Path) -> tuple[np.ndarray, Mask, Mask] | None:
        """A picture (H, W, 3) uint8, its true and its predicted mask (H, W); None where one of them is not there.

        Args:
            index: of the sample.
            folder: with the predicted masks.
        """
        truth, file = self.truth(index), folder / f"{self.names[index]}.png"
        if truth is None or not file.is_file():
            return None
        picture = to_channels(to_uint8(self.image_as_stored(index)), 3)
        return picture, truth, read_mask(str(file), self.values.of_predictions)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        index = key.sample if isinstance(key, SampleKey) else key
        stored = self.image_as_stored(index)
        truth = self.truth(index)
        if truth is None:
            truth = np.zeros(stored.shape[:2], np.uint8)
        if truth.shape != stored.shape[:2]:
            raise RunError(wrong_size(truth.shape, stored.shape[:2]))
        recipe = self.transforms.of_size(self._native(stored)) if self.patches else self.transforms
        prepared = self.prepared(index) if self.cache is not None else recipe.prepare(stored)
        placement = recipe.placement(stored)
        mask = to_prepared(truth, placement, recipe.size)
        if isinstance(key, SampleKey):
            seed = sample_seed(self.seed, key)
            if self.patches:
                part = choose_part(mask, self.transforms.size, self.foreground, np.random.default_rng([seed, 1]))
                prepared, mask = prepared[part], mask[part]
            prepared, mask = self.transforms.augment_with_mask(prepared, mask, seed)
        sample = {
            "image": torch.from_numpy(self.transforms.finish(prepared)),
            "target": torch.from_numpy(mask.astype(np.int64) - BACKGROUND),
            "index": torch.tensor(index),
        }
        if isinstance(key, SampleKey):
            return sample
        return sample | {"truth": torch.from_numpy(truth), "placement": placement, "name": self.names[index]}

    def _native(self, stored: np.ndarray) -> tuple[int, int]:
        """The size of an image as it is, and no less than a part."""
        height, width = self.transforms.size
        return max(stored.shape[0], height), max(stored.shape[1], width)


def wrong_size(mask: tuple[int, ...], image: tuple[int, ...]) -> str:
    """What is said of a mask that does not fit its image; both (height, width)."""
    return (
        f"the mask has {mask[1]} x {mask[0]} px and the image {image[1]} x {image[0]}: export both at one size "
        "(masks without smoothing)"
    )


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch; what differs in size stays a list."""
    shared = [{name: value for name, value in sample.items() if name not in LISTS} for sample in samples]
    batch: dict[str, Tensor] = default_collate(shared)
    lists = {name: [sample[name] for sample in samples] for name in LISTS if name in samples[0]}
    return batch | lists
