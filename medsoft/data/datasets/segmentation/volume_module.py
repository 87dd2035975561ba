"""The data module for volumes with masks: one volume, or several as channels, and its mask a row of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medsoft.data.datasets.sampling import EpochBatchSampler
from medsoft.data.datasets.segmentation.dataset import collate
from medsoft.data.datasets.segmentation.module import file_names, mask_paths, nothing_to_learn
from medsoft.data.datasets.segmentation.volume_dataset import MaskedVolumeDataset, MaskedVolumeReader
from medsoft.data.datasets.volume_dataset import UNREADABLE, DiskCache, VolumeDataset
from medsoft.data.datasets.volume_module import BYTES, VolumeDataModule
from medsoft.data.masks.dicom_seg import check_seg_available, why_no_seg
from medsoft.data.masks.read import BACKGROUND, MaskValues
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.transforms.views import AS_IT_IS, AnyView
from medsoft.data.volumes.rows import VolumeRow
from medsoft.data.volumes.transforms.recipe import Prepared, VolumeTransforms
from medsoft.data.volumes.volume import MAX_VOXELS
from medsoft.errors import InputError, check_range
from medsoft.specs import SegmentationSpec


class MaskedVolumeDataModule(VolumeDataModule):
    """One volume, or several that become channels, and a mask a row of a sample table.

    Args:
        transforms: how volumes become what the model sees; set under transforms. The size is that of the parts.
        table: CSV, Parquet or Excel (.xlsx) with one row per sample.
        path: column with the volumes (files, or folders with a DICOM series), or several, separated by commas, which
            become channels on the grid of the first.
        mask: column with the paths of the masks (NIfTI, NRRD), on the grid of the first volume.
        classes: names of the classes beside the background, in the order of their values; foreground if not given.
        mask_values: values of the classes in the masks, in the order of data.classes; 1, 2, … if not given. 0 is the
            background.
        ignore_value: value of voxels that are neither learnt from nor scored.
        resample_masks: take masks on another grid than their volume's, by nearest neighbour; they are refused
            otherwise.
        foreground: share of the training parts that are centred on a voxel of a class.
        parts: training parts that each volume gives in an epoch.
        dicom_seg: write predicted masks as DICOM SEG too, beside the NIfTI; for DICOM series alone.
        missing: what to do if a row names some of its volumes but not all: error, or zeros for the missing channels.
        batch_size: parts per step.
        num_workers: processes that load volumes; chosen automatically if not given.
        cache: where prepared volumes are kept: memory, disk or none; auto keeps them in memory if they fit into
            cache_gib.
        cache_gib: limit of the cache in GiB; disk is refused if it would need more.
        cache_dir: folder for prepared volumes if cache is disk.
        max_voxels: volumes with more voxels than this are refused.
        select: which DICOM image to use where a series has several at each position, such as EchoTime=20, or a list of
            conditions.
        task: kind of task; always segmentation_volume.
    """

    reads_masks = True
    element = "voxel"

    def __init__(
        self,
        transforms: VolumeTransforms,
        table: str,
        path: str | list[str] = "path",
        mask: str = "mask",
        classes: str | list[str] | None = None,
        mask_values: list[int] | None = None,
        ignore_value: int | None = None,
        resample_masks: bool = False,
        foreground: float = 0.5,
        parts: int = 1,
        dicom_seg: bool = False,
        missing: Literal["error", "zeros"] = "error",
        batch_size: int = 2,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "disk", "none"] = "auto",
        cache_gib: float = 4.0,
        cache_dir: str | None = None,
        max_voxels: int = MAX_VOXELS,
        select: str | list[str] | None = None,
        task: Literal["segmentation_volume"] = "segmentation_volume",
        **rows: Any,
    ) -> None:
        check_range("data.foreground", foreground, 0, 1)
        check_range("data.parts", parts, 1)
        _check_recipe(transforms)
        if dicom_seg:
            check_seg_available()
        self.foreground, self.parts = foreground, parts
        self.resample_masks, self.dicom_seg = resample_masks, dicom_seg
        super().__init__(
            transforms.uncut(),
            table,
            path=path,
            missing=missing,
            laterality=None,
            box=None,
            mask=None,
            covariates=None,
            batch_size=batch_size,
            num_workers=num_workers,
            cache=cache,
            cache_gib=cache_gib,
            cache_dir=cache_dir,
            max_voxels=max_voxels,
            select=select,
            uncertain=None,
            label=mask,
            task=task,
            classes=classes,
            positive=None,
            time=None,
            event=None,
            time_unit=None,
            times=None,
            balanced_sampling=False,
            **rows,
        )
        given = None if mask_values is None else tuple(mask_values)
        self.values = MaskValues(self.task.classes, given, ignore_value)

    @property
    def spec(self) -> SegmentationSpec:
        """What the model must know of the data."""
        channels = self.transforms.channels(sum(self.reader.channels))
        return SegmentationSpec(self.task, channels, self.transforms.size, self.class_counts, self.values)

    @property
    def views(self) -> tuple[AnyView, ...]:
        """The volume as it is alone: views of masks would have to be turned back."""
        return (AS_IT_IS,)

    @property
    def eval_batch_size(self) -> int:
        """1, as volumes keep their own size."""
        return 1

    def rows_of(self, part: SampleTable) -> list[VolumeRow]:
        """What is read for each row of a part, with its mask."""
        masks = mask_paths(part, self._options["root"] or Path(self._table).parent)
        return [replace(row, mask=mask) for row, mask in zip(super().rows_of(part), masks, strict=True)]

    @cached_property
    def shown_size(self) -> tuple[int, ...]:
        """Of the first volume that can be prepared: volumes keep their own size."""
        for row in self.rows_of(self.samples):
            try:
                return tuple(self.reader.prepared(row).image.shape[1:])
            except UNREADABLE:  # told of by load
                continue
        return self.transforms.size

    @property
    def _bytes_each(self) -> int:
        return math.prod(self.shown_size) * (self.spec.channels * BYTES + 2)

    def load(self, splits: list[str]) -> None:
        """See ``VolumeDataModule.load``.

        Raises:
            TableError: unreadable volumes or masks, or no series to which a DICOM SEG could refer.
            InputError: there is nothing to learn.
        """
        if self.dicom_seg:
            self._require_series(splits)
        super().load(splits)

    def _require_series(self, splits: list[str]) -> None:
        advice = "leave out data.dicom_seg (NIfTI masks are written in any case), or name complete DICOM series"
        problems = [
            Problem("no DICOM SEG possible", (number,), f"the volume {reason}", advice)
            for part in map(self.samples.subset, splits)
            for number, row in zip(part.frame["row"].tolist(), self.rows_of(part), strict=True)
            if (reason := why_no_seg(source_of(row), self.select))
        ]
        if problems:
            raise TableError(str(self.samples.source), problems)

    def _reader_of(self, channels: Sequence[int]) -> MaskedVolumeReader:
        return MaskedVolumeReader(
            self.transforms, channels, self.max_voxels, self.select, values=self.values, resample=self.resample_masks
        )

    def _dataset_of(
        self, split: str, part: SampleTable, rows: list[VolumeRow], cache: list[Prepared] | DiskCache | None
    ) -> MaskedVolumeDataset:
        dataset = MaskedVolumeDataset(
            rows,
            part.targets,
            self.reader,
            self.seed,
            cache,
            names=file_names(split, part.frame["id"].tolist()),
            foreground=self.foreground,
            parts=self.parts,
            sources=[(source_of(row), *self.select) if self.dicom_seg else () for row in rows],
        )
        self._require_foreground(split, dataset)
        return dataset

    def _require_foreground(self, split: str, dataset: MaskedVolumeDataset) -> None:
        """Check that there is something to learn, and to choose the checkpoint by.

        Raises:
            InputError: every mask of the training or of the validation part is empty.
        """
        if self.stage != "fit" or split not in ("train", "val") or not self.check_files or not len(dataset):
            return
        for row in range(len(dataset)):
            found: Any = dataset.prepared(row)
            if bool((found.truth > BACKGROUND).any()):
                return
        raise nothing_to_learn(self, split, len(dataset))

    def _order(self, part: SampleTable, dataset: VolumeDataset, weights: np.ndarray | None) -> EpochBatchSampler:
        return EpochBatchSampler(len(part) * self.parts, self.batch_size, self.seed, weights, self._start)

    def _loader_options(self) -> dict[str, Any]:
        return super()._loader_options() | {"collate_fn": collate}


def source_of(row: VolumeRow) -> str:
    """The path of a row's first volume, whose grid its mask has."""
    return next(filter(None, row.paths), "")


def _check_recipe(transforms: VolumeTransforms) -> None:
    """Raise InputError where options of the recipe have no meaning for masks."""
    wrong = {
        f"crop {transforms.crop}": transforms.crop in ("box", "mask"),
        "fit stretch": transforms.fit == "stretch",
        "half": transforms.half,
        "sides mirror": transforms.sides == "mirror",
    }
    if said := [option for option, is_given in wrong.items() if is_given]:
        raise InputError(
            f"transforms.{said[0]}: a segmentation shows parts of whole volumes (or of their foreground), at their own "
            "or at the stated spacing; leave it out"
        )
