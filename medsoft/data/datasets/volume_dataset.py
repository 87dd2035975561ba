"""A dataset of volumes and targets, plain or augmented as a function of seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.data.utils import json_hashing
from monai.transforms import Compose, Transform
from torch import Tensor
from torch.utils.data import Dataset

from medsoft import __version__
from medsoft.data.datasets.sampling import SampleKey, for_torch, sample_seed
from medsoft.data.facts.volumes import volume_facts
from medsoft.data.images.read import locate
from medsoft.data.volumes.mask import read_mask
from medsoft.data.volumes.read import Time, Volume, locate_series, read_volume
from medsoft.data.volumes.rows import VolumeRow
from medsoft.data.volumes.transforms.geometry import located
from medsoft.data.volumes.transforms.recipe import Prepared, VolumeTransforms
from medsoft.data.volumes.volume import check_varies
from medsoft.errors import ReadError, RunError
from medsoft.storage.walk import walk

UNREADABLE = (ReadError, ValueError, RuntimeError)
"""What a volume that cannot be had raises: in reading, in preparing, and through MONAI, which wraps both."""


def reason_of(error: Exception) -> str:
    """What is wrong with a volume, in words without its path."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) and not isinstance(error, ReadError) else error
    return cause.reason if isinstance(cause, ReadError) else str(cause)


class VolumeReader(Transform):
    """Reads and prepares the volumes of a row.

    Args:
        transforms: the recipe.
        channels: that each path column has; stands in for a missing volume.
        max_voxels: volumes with more voxels than this are refused.
        select: as for ``read_volume``.
    """

    gives: type[Prepared] = Prepared
    """What a prepared row is kept as."""

    def __init__(
        self, transforms: VolumeTransforms, channels: Sequence[int], max_voxels: int, select: Sequence[str] = ()
    ) -> None:
        self.transforms, self.channels, self.max_voxels = transforms, channels, max_voxels
        self.select = tuple(select)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a prepared row besides its files, the recipe, and what is read of them; plain values."""
        return {}

    @property
    def time(self) -> Time:
        """What becomes of several time points: channels where the recipe announces a dynamic series."""
        return "refuse" if self.transforms.dynamic == "none" else "phases"

    def read(self, path: str) -> Volume:
        """One volume.

        Raises:
            ReadError: it cannot be read, or has the same value in every voxel.
        """
        volume = read_volume(path, time=self.time, max_voxels=self.max_voxels, select=self.select)
        check_varies(volume)
        return volume

    def mask(self, row: VolumeRow, first: Volume) -> np.ndarray | None:
        """A row's mask, (X, Y, Z) bool on the voxels of its first volume; None where none is asked for.

        Raises:
            ReadError: see ``read_mask``.
        """
        if not row.mask:
            return None
        return read_mask(row.mask, first, self.transforms.mask_values, max_voxels=self.max_voxels)

    def outlined(self, row: VolumeRow, first: Volume) -> np.ndarray | None:
        """What is outlined where a row is drawn, (X, Y, Z) bool on the voxels of its first volume; None for nothing.

        Raises:
            ReadError: see ``read_mask``.
        """
        return self.mask(row, first)

    def prepared(self, row: VolumeRow) -> Prepared:
        """What the model is shown of a row.

        Raises:
            ReadError: a volume or the mask cannot be read.
            ValueError: it cannot be prepared, or has other channels than those of the first rows.
        """
        volumes: list[Any] = []
        modalities = []
        arrays = []
        first = None
        for path, channels in zip(row.paths, self.channels, strict=True):
            if not path:
                volumes.append(channels)
                modalities.append("")
                continue
            volume = self.read(path)
            first = first or volume
            if self.transforms.needs_laterality and volume.meta.get("orientation") == "unknown":
                raise ValueError(
                    "does not state its orientation in the patient, so that left and right are unknown: save it as "
                    "NIfTI or NRRD with its orientation, or leave out transforms.half and transforms.sides mirror"
                )
            if len(volume.array) != channels:
                raise ValueError(f"has {len(volume.array)} channels or phases, where the first sample has {channels}")
            arrays.append(volume.array)
            volumes.append(located(volume.array, volume.affine))
            modalities.append(volume.modality or "")
        inside = self.mask(row, first) if first else None
        mask = None if first is None or inside is None else located(inside[np.newaxis], first.affine)
        content = row.known_by(arrays, inside)  # before the arrays are worked on
        facts = torch.from_numpy(volume_facts(first)) if first else torch.zeros(0, dtype=torch.float64)
        prepared = replace(
            self.transforms.prepare(volumes, modalities, row.box, row.side, mask), content=content, facts=facts
        )
        return prepared if first is None else self.completed(prepared, row, first)

    def completed(self, prepared: Prepared, row: VolumeRow, first: Volume) -> Prepared:
        """What belongs to a prepared row beside its image; here nothing.

        Args:
            prepared: the row.
            row: its files.
            first: its first volume, as read.

        Raises:
            ReadError: it cannot be had.
        """
        return prepared

    def __call__(self, item: dict[str, Any]) -> dict[str, Tensor | str]:
        """For MONAI's PersistentDataset: a row as plain values to tensors."""
        prepared = self.prepared(item["row"])
        return vars(prepared)


class DiskCache:
    """Prepared volumes in files, made by MONAI's PersistentDataset when they are first asked for.

    A file's name is a hash of the paths, sizes and times of the row's files and of everything that decides how they are
    prepared: a changed file or option makes new ones. It names nobody.

    Args:
        rows: the samples.
        reader: prepares them.
        folder: for the files.
    """

    def __init__(self, rows: Sequence[VolumeRow], reader: VolumeReader, folder: Path) -> None:
        settings = {
            "recipe": reader.transforms.recipe(),
            "channels": list(reader.channels),
            "select": list(reader.select),
            "medsoft": __version__,
            "holds": [field.name for field in fields(reader.gives)],
        } | reader.settings
        items = [{"row": row, "key": settings | _stamp(row)} for row in rows]
        self._gives = reader.gives
        self._files = PersistentDataset(items, Compose([reader]), folder, hash_func=_hash_of_key, track_meta=False)

    def __getitem__(self, index: int) -> Prepared:
        found: Any = self._files[index]
        return self._gives(**found)


def _hash_of_key(item: dict[str, Any]) -> bytes:
    digest: bytes = json_hashing(item["key"])
    return digest


def _stamp(row: VolumeRow) -> dict[str, Any]:
    """Which bytes a row stands for, without reading them."""
    files = []
    for path in filter(None, (*row.paths, row.mask)):
        place = Path(locate_series(locate(path)[0])[0])
        inside = walk(place).files if place.is_dir() else [place]
        stats = [file.stat() for file in inside if file.is_file()]
        files.append([path, len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)])
    return {"files": files, "box": row.box, "side": row.side, "missing": [not path for path in row.paths]}


class VolumeDataset(Dataset[dict[str, Tensor]]):
    """Volumes and targets of some rows of a table.

    Indexed by an int for the volume as it is, by a SampleKey for an augmented one, which is a function of (seed, epoch,
    row) alone. A sample has ``image`` (C, X, Y, Z) float32, ``target`` and ``index``.

    Args:
        rows: what is read for each sample.
        targets: (n,) class indices or numbers, or (n, L) floats with NaN for missing labels.
        reader: reads and prepares.
        seed: of the augmentation.
        cache: prepared volumes by index: a list in memory, files, or None to prepare each when it is asked for.
        covariates: (n, K) float32, NaN where missing, or None; a sample then has ``covariates`` (K,).
    """

    def __init__(
        self,
        rows: Sequence[VolumeRow],
        targets: np.ndarray,
        reader: VolumeReader,
        seed: int,
        cache: Sequence[Prepared] | DiskCache | None,
        covariates: np.ndarray | None = None,
    ) -> None:
        self.rows, self.reader, self.seed, self.cache = rows, reader, seed, cache
        self.targets = for_torch(targets)
        self.covariates = covariates

    def __len__(self) -> int:
        return len(self.rows)

    def prepared(self, index: int) -> Prepared:
        """The volume as the model sees it without augmentation.

        Raises:
            RunError: it can no longer be read.
        """
        try:
            return self.reader.prepared(self.rows[index]) if self.cache is None else self.cache[index]
        except UNREADABLE as error:
            raise RunError(f"a volume can no longer be read: it {reason_of(error)}") from None

    def __getitem__(self, key: int | SampleKey) -> dict[str, Tensor]:
        index = key.sample if isinstance(key, SampleKey) else key
        image = self.prepared(index).image
        if isinstance(key, SampleKey):
            image = self.reader.transforms.augment(image, sample_seed(self.seed, key))
        sample = {"image": image, "target": torch.as_tensor(self.targets[index]), "index": torch.tensor(index)}
        return sample if self.covariates is None else sample | {"covariates": torch.from_numpy(self.covariates[index])}
