"""A data set of images and boxes: on the model's grid for training, in pixels of the input for prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from medsoft.data.boxes.of_images import NONE, Boxes
from medsoft.data.boxes.place import LEAST_SEEN, to_prepared
from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.datasets.sampling import SampleKey, sample_seed
from medsoft.data.transforms.base import Placement

LISTS = ("boxes", "labels", "true", "placement", "stored", "name")
"""What a batch has as lists, as images differ in how many boxes they have."""


class DetectionDataset(ImageDataset):
    """Images and boxes of some rows of a table.

    A sample has ``image`` (C, h, w), ``boxes`` (n, 4) float32 in its pixels and ``labels`` (n,) int64. A sample as it
    is has besides what a prediction in the input's own pixels needs: ``placement``, ``stored`` (height, width),
    ``name`` for files, and ``true``, corners and classes of all its boxes in pixels of the input; None where nobody
    knows.

    Args:
        *args: see ``ImageDataset``.
        boxes: of each row; None where they are not known.
        names: unique names of the rows, for files.
        **options: see ``ImageDataset``.
    """

    def __init__(self, *args: Any, boxes: list[Boxes | None], names: list[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.boxes, self.names = boxes, names
        self._placed: dict[int, tuple[Placement, tuple[int, int]]] = {}

    def _place(self, index: int) -> tuple[np.ndarray, Placement, tuple[int, int]]:
        """The prepared image, where it lies in the stored one, and that one's (height, width)."""
        if index in self._placed and self.cache is not None:
            return self.prepared(index), *self._placed[index]
        stored = self.image_as_stored(index)
        prepared = self.prepared(index) if self.cache is not None else self.transforms.prepare(stored)
        placement, size = self.transforms.placement(stored), (int(stored.shape[0]), int(stored.shape[1]))
        self._placed[index] = placement, size
        return prepared, placement, size

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        index = key.sample if isinstance(key, SampleKey) else key
        image, placement, size = self._place(index)
        true = self.boxes[index]
        known = NONE if true is None else true
        corners, seen = to_prepared(known.corners_N4, placement, self.transforms.size)
        corners, labels = corners[seen >= LEAST_SEEN], known.class_N[seen >= LEAST_SEEN]
        if isinstance(key, SampleKey):
            image, corners, labels = self.transforms.augment_with_boxes(
                image, corners, labels, sample_seed(self.seed, key), LEAST_SEEN
            )
        sample = {
            "image": torch.from_numpy(self.transforms.finish(image)),
            "target": torch.as_tensor(self.targets[index]),
            "index": torch.tensor(index),
            "boxes": torch.from_numpy(corners.astype(np.float32)).reshape(-1, 4),
            "labels": torch.from_numpy(labels),
        }
        if isinstance(key, SampleKey):
            return sample
        return (
            sample
            | {"placement": placement, "stored": size, "name": self.names[index]}
            | {"true": None if true is None else (true.corners_N4, true.class_N)}
        )


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch; what differs in number stays a list."""
    shared = [{name: value for name, value in sample.items() if name not in LISTS} for sample in samples]
    batch: dict[str, Any] = default_collate(shared)
    return batch | {name: [sample[name] for sample in samples] for name in LISTS if name in samples[0]}
