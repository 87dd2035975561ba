"""A data set of volumes and masks: parts for training, whole volumes with the way back for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medsoft.data.datasets.sampling import SampleKey, sample_seed
from medsoft.data.datasets.volume_dataset import VolumeDataset, VolumeReader
from medsoft.data.masks.place import choose_part
from medsoft.data.masks.place_volumes import placement_of, to_prepared_volume
from medsoft.data.masks.read import BACKGROUND, IGNORED, Mask, MaskValues
from medsoft.data.volumes.mask import read_label_map
from medsoft.data.volumes.mask_slices import slices_through
from medsoft.data.volumes.rows import VolumeRow
from medsoft.data.volumes.transforms.geometry import padded
from medsoft.data.volumes.transforms.intensity import background
from medsoft.data.volumes.transforms.recipe import Prepared
from medsoft.data.volumes.volume import Volume
from medsoft.errors import ReadError, RunError


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedVolume(Prepared):
    """A prepared volume with its mask.

    Attributes:
        mask: (X, Y, Z) uint8 on the grid of ``image``, as ``medsoft.data.masks`` keeps masks.
        truth: the same on the grid of the volume as read; all 0 where no mask is known.
        grid: (4, 4) float64, from the voxels of ``truth`` to mm, RAS+.
    """

    mask: Tensor
    truth: Tensor
    grid: Tensor


class MaskedVolumeReader(VolumeReader):
    """Reads and prepares volumes with their masks.

    Args:
        *args: see ``VolumeReader``.
        values: what the masks' values mean.
        resample: whether masks on other grids are taken.
        **options: see ``VolumeReader``.
    """

    gives = MaskedVolume

    def __init__(self, *args: Any, values: MaskValues, resample: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.values, self.resample = values, resample

    @property
    def settings(self) -> dict[str, Any]:
        return {"values": repr(self.values), "resample": self.resample}

    def mask(self, row: VolumeRow, first: Volume) -> None:
        """None: a mask is what is learnt, and nothing is cut out by it."""
        return

    def truth(self, row: VolumeRow, first: Volume) -> Mask:
        """The mask of a row, on the voxels of its first volume; all 0 where there is none.

        Raises:
            ReadError: it cannot be read, lies on another grid, or has values without a name.
        """
        if not row.mask:
            return np.full(first.shape, IGNORED, np.uint8)
        labels, known = read_label_map(row.mask, first, resample=self.resample, max_voxels=self.max_voxels)
        try:
            mask = self.values.encoded(labels)
        except ReadError as error:
            raise ReadError(f"has a mask that {error.reason}") from None
        if known is not None:
            mask[~known] = IGNORED
        return mask

    def outlined(self, row: VolumeRow, first: Volume) -> np.ndarray | None:
        """All classes together; None where no mask is known."""
        return self.truth(row, first) > BACKGROUND if row.mask else None

    def completed(self, prepared: Prepared, row: VolumeRow, first: Volume) -> MaskedVolume:
        """See ``VolumeReader.completed``."""
        truth = self.truth(row, first)
        placement = placement_of(prepared.affine.numpy(), first.affine)
        mask = to_prepared_volume(truth, placement, tuple(prepared.image.shape[1:]))
        return MaskedVolume(
            **vars(prepared),
            mask=torch.from_numpy(mask),
            truth=torch.from_numpy(truth),
            grid=torch.from_numpy(np.asarray(first.affine, np.float64)),
        )


class MaskedVolumeDataset(VolumeDataset):
    """Volumes and masks of some rows of a table.

    A sample for training is a part of the recipe's size: ``image`` (C, x, y, z) and ``target`` (x, y, z), int64: 0 the
    background, then the classes, -1 where nothing is known. A sample as it is is the whole volume, no smaller than a
    part, with what a prediction on the input's own grid needs: ``placement``, ``truth`` (X, Y, Z) uint8, ``grid``, its
    affine, ``name``, for files, and ``source``: where a DICOM SEG is asked for, the path of its series, and what is
    selected of it.

    Args:
        *args: see ``VolumeDataset``.
        names: unique names of the rows, for files.
        foreground: share of the parts that are centred on a voxel of a class.
        parts: of each volume in an epoch.
        sources: of each row a DICOM series and what is selected of it, or nothing.
        **options: see ``VolumeDataset``.
    """

    def __init__(
        self,
        *args: Any,
        names: Sequence[str],
        foreground: float,
        parts: int,
        sources: Sequence[tuple[str, ...]],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.names, self.foreground, self.parts, self.sources = list(names), foreground, parts, list(sources)

    @property
    def values(self) -> MaskValues:
        """What the masks' values mean."""
        reader: Any = self.reader
        values: MaskValues = reader.values
        return values

    def with_masks(self, index: int, folder: Path) -> tuple[np.ndarray, Mask, Mask] | None:
        """Axial slices through what is there, with the true and the predicted mask of them.

        Args:
            index: of the sample.
            folder: with the predicted masks.

        Returns:
            (H, W, 3) uint8 and twice (H, W); None where one of the masks is not there.
        """
        row, file = self.rows[index], folder / f"{self.names[index]}.nii.gz"
        if not row.mask or not file.is_file():
            return None
        reader: Any = self.reader
        try:
            volume = reader.read(next(filter(None, row.paths)))
            truth = reader.truth(row, volume)
            labels, _ = read_label_map(str(file), volume, max_voxels=reader.max_voxels)
        except ReadError as error:
            raise RunError(f"a volume can no longer be read: it {error.reason}") from None
        return slices_through(volume, truth, self.values.of_predictions.encoded(labels))

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        index = key.sample % len(self) if isinstance(key, SampleKey) else key
        found: Any = self.prepared(index)
        image, mask, affine = self._at_least_a_part(found)
        if isinstance(key, SampleKey):
            transforms, seed = self.reader.transforms, sample_seed(self.seed, key)
            part = choose_part(mask.numpy(), transforms.size, self.foreground, np.random.default_rng([seed, 1]))
            image, mask = transforms.augment_with_mask(image[(slice(None), *part)], mask[part], seed)
        sample = {
            "image": image.contiguous(),
            "target": mask.long() - BACKGROUND,
            "index": torch.tensor(index),
        }
        if isinstance(key, SampleKey):
            return sample
        more = {"name": self.names[index], "source": self.sources[index], "grid": found.grid.numpy()}
        placement = placement_of(affine, found.grid.numpy())
        return sample | {"truth": found.truth, "placement": placement} | more

    def _at_least_a_part(self, found: MaskedVolume) -> tuple[Tensor, Tensor, np.ndarray]:
        """Image, mask and affine, filled up to the size of a part where the volume is smaller."""
        transforms = self.reader.transforms
        size = np.maximum(found.image.shape[1:], transforms.size)
        if tuple(size) == tuple(found.image.shape[1:]):
            return found.image, found.mask, found.affine.numpy()
        image = MetaTensor(found.image, affine=found.affine)
        mask = MetaTensor(found.mask[None], affine=found.affine)
        filled = padded(image, size.tolist(), background(found.image, transforms.dynamic))
        unknown = padded(mask, size.tolist(), torch.full((1,), IGNORED, dtype=torch.uint8))
        return filled.as_tensor(), unknown.as_tensor()[0], np.asarray(filled.affine, np.float64)
