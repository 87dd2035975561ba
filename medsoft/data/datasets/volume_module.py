"""The data module for volumes: one sample a row of the sample table, of one volume or several."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from medsoft.data.datasets.base import TableDataModule
from medsoft.data.datasets.volume_dataset import UNREADABLE, DiskCache, VolumeDataset, VolumeReader, reason_of
from medsoft.data.dicom.tell_apart import parse_select
from medsoft.data.facts.pictures import Facts
from medsoft.data.facts.volumes import VOLUME_FACTS, volume_file_facts
from medsoft.data.tables.covariates import covariate_names
from medsoft.data.tables.duplicates import Content
from medsoft.data.tables.labels import Uncertain
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import load_source
from medsoft.data.tables.sample_table import SampleTable, stem_of
from medsoft.data.transforms.views import AnyView
from medsoft.data.volumes.planes import montage
from medsoft.data.volumes.rows import VolumeFiles, VolumeRow, path_columns
from medsoft.data.volumes.transforms.recipe import Prepared, VolumeTransforms
from medsoft.data.volumes.volume import MAX_VOXELS
from medsoft.errors import InputError, ReadError, check_range
from medsoft.specs import DataSpec
from medsoft.system.cores import usable_cores
from medsoft.system.progress import progress

BYTES = 4  # of a voxel, float32


class VolumeDataModule(TableDataModule[VolumeDataset]):
    """One volume, or several that become channels, a row of a sample table.

    Args:
        transforms: how volumes become what the model sees; set under transforms.
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        path: column with the volumes (files, or folders with a DICOM series), or several, separated by commas, which
            become channels on the grid of the first; if the table has no column path, all columns path_... are used.
        missing: what to do if a row names some of its volumes but not all: error, or zeros for the missing channels.
        laterality: column with left or right, for transforms.half and transforms.sides mirror.
        box: six columns with x0, y0, z0, x1, y1, z1 in voxels of the volume as read, for transforms.crop box.
        mask: column with masks (segmentations) on the grid of the first volume, for transforms.crop mask.
        covariates: numeric columns, such as age, and groups, as in sex=male, that join the image features at the head;
            missing values count as the mean.
        batch_size: samples per step.
        num_workers: processes that load volumes; chosen automatically if not given (none if volumes are in memory and
            the model runs on a CPU).
        cache: where prepared volumes are kept: memory, disk or none; auto keeps them in memory if they fit into
            cache_gib.
        cache_gib: limit of the cache in GiB; disk is refused if it would need more.
        cache_dir: folder for prepared volumes if cache is disk; files are named by hashes and may be deleted at any
            time.
        max_voxels: volumes with more voxels than this are refused.
        select: which DICOM image to use where a series has several at each position, such as EchoTime=20, or a list of
            conditions that must all hold; names are DICOM keywords, or TimePoint.
        uncertain: what a label of -1 (CheXpert's uncertain) counts as in a multilabel task, for all labels or for each
            label, such as {Edema: one}; such a label is an error if this is not given.
    """

    unit = "volume"

    def __init__(
        self,
        transforms: VolumeTransforms,
        table: str,
        path: str | list[str] = "path",
        missing: Literal["error", "zeros"] = "error",
        laterality: str | None = None,
        box: list[str] | None = None,
        mask: str | None = None,
        covariates: str | list[str] | None = None,
        batch_size: int = 4,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "disk", "none"] = "auto",
        cache_gib: float = 4.0,
        cache_dir: str | None = None,
        max_voxels: int = MAX_VOXELS,
        select: str | list[str] | None = None,
        uncertain: Uncertain | dict[str, Uncertain] | None = None,
        **rows: Any,
    ) -> None:
        super().__init__(table, batch_size=batch_size, num_workers=num_workers, **rows)
        check_range("data.cache_gib", cache_gib, 0)
        check_range("data.max_voxels", max_voxels, 1)
        if cache == "disk" and cache_dir is None:
            raise InputError("data.cache disk: name a folder for the prepared volumes with data.cache_dir")
        _check_together(transforms, missing, laterality, box, mask)
        self.transforms = transforms
        self.cache, self.cache_gib, self.cache_dir = cache, cache_gib, cache_dir
        self.max_voxels = max_voxels
        self.select = parse_select(select)
        source = load_source(table)
        columns = path_columns(source, path)
        base = Path(os.path.abspath(self._options["root"] or Path(table).parent))  # noqa: PTH100 (as read_table does)
        self.files = VolumeFiles(table, source, base, columns, missing, laterality, box, mask)
        samples = self._read(
            source=source,
            files=self.files,
            path=columns[0],
            uncertain=uncertain,
        )
        if self._options["id"] is None and laterality is not None:
            samples = named_by_side(samples, self.files)
        self.covariate_columns = covariate_names(covariates)
        self._facts: dict[str, list[float]] = {}
        self._take(samples)

    @cached_property
    def reader(self) -> VolumeReader:
        """Reads and prepares; knows the channels of each column from the first volume that can be read.

        Raises:
            InputError: no volume of a column can be read; gives the reason of the first.
        """
        probe = VolumeReader(self.transforms, (), self.max_voxels, self.select)
        columns = zip(*(row.paths for row in self.rows_of(self.samples)), strict=True)
        return self._reader_of([channels_of_column(probe, column) for column in columns])

    def _reader_of(self, channels: Sequence[int]) -> VolumeReader:
        """Reads and prepares rows whose columns have so many channels."""
        return VolumeReader(self.transforms, channels, self.max_voxels, self.select)

    def rows_of(self, part: SampleTable) -> list[VolumeRow]:
        """What is read for each row of a part."""
        return [self.files.of(row) for row in part.frame["row"]]

    @property
    def spec(self) -> DataSpec:
        """What the model must know of the data; class counts are those of the training part (else of all rows)."""
        channels = self.transforms.channels(sum(self.reader.channels))
        return DataSpec(
            self.task,
            channels,
            self.transforms.size,
            self.class_counts,
            self.target_scale,
            self.covariates,
            self.event_times,
        )

    @property
    def views(self) -> tuple[AnyView, ...]:
        """What the recipe says of sides."""
        return self.transforms.views

    def load(self, splits: list[str]) -> None:
        """Read, check or cache every volume of these splits, so that a bad one is known before work starts.

        Raises:
            TableError: unreadable volumes (all listed). With ``on_error`` ``skip`` they go to ``errors`` instead,
                unless nothing is left of a split.
            InputError: the cache on disk would need more than its limit.
        """
        parts = {split: self.samples.subset(split) for split in splits}
        parts = {split: part for split, part in parts.items() if len(part)}
        place = self._place(sum(map(len, parts.values())))
        problems, read, contents = [], {}, {}
        self._cuts: list[float] = []
        for split, part in parts.items():
            of_part = self.rows_of(part)
            found: list[Content | None] = [None] * len(of_part)
            read[split] = (of_part, *self._read_all(of_part, place, found))
            contents[split] = found
            problems += _unreadable(part, read[split][2])
        twice = self._twice(parts, contents, problems)
        for split, part in parts.items():
            rows, prepared, reasons = read[split]
            reasons = twice.get(split, {}) | reasons
            part = self._leave_out(part, reasons)
            rows = [row for index, row in enumerate(rows) if index not in reasons]
            cache: list[Prepared] | DiskCache | None = None
            if place == "memory":
                cache = [one for i, one in enumerate(prepared) if one is not None and i not in reasons]
            elif place == "disk":
                cache = DiskCache(rows, self.reader, Path(str(self.cache_dir)))
            self._parts[split] = (part, self._dataset_of(split, part, rows, cache))
        self.notes += self._notes_of_cuts()
        if problems and (self.on_error == "error" or not all(len(part) for part, _ in self._parts.values())):
            raise TableError(str(self.samples.source), problems)

    def _dataset_of(
        self, split: str, part: SampleTable, rows: list[VolumeRow], cache: list[Prepared] | DiskCache | None
    ) -> VolumeDataset:
        """The data set of a part.

        Args:
            split: its name.
            part: its rows.
            rows: what is read for each.
            cache: prepared volumes, where they are kept.
        """
        covariates = self.covariates_of(part)
        return VolumeDataset(rows, part.targets, self.reader, self.seed, cache, covariates)

    def _facts_of_files(self, split: str) -> list[Facts]:
        dataset = self.dataset(split)
        found: list[Facts] = []
        for index, row in enumerate(dataset.rows):
            path = next(filter(None, row.paths))
            known = self._facts[path] if path in self._facts else dataset.prepared(index).facts.tolist()
            found.append(dict(zip(VOLUME_FACTS, known, strict=False)) | volume_file_facts(path))
        return found

    @property
    def note(self) -> str:
        """What every picture must say of the data: whether it is phantoms."""
        return "phantom volumes, no patients" if "phantom" in self.samples.frame else ""

    def prepared(self, id: str) -> Prepared | None:
        """A loaded sample as the model sees it; None for an unknown id."""
        for part, dataset in self._parts.values():
            found = np.flatnonzero(part.frame["id"] == id)
            if len(found):
                return dataset.prepared(int(found[0]))
        return None

    def thumbnail(self, id: str) -> np.ndarray | None:
        """Slices of a loaded sample's first channel as the model sees it, (H, W, 1) uint8; None for an unknown id."""
        found = self.prepared(id)
        return None if found is None else montage(found.image[0].numpy(), slices=4)

    def _default_workers(self) -> int:
        cached = all(isinstance(dataset.cache, list) for _, dataset in self._parts.values())
        # On a CPU the model needs the cores, and augmenting what is in memory is cheap beside it.
        if cached and not torch.cuda.is_available():
            return 0
        return min(8, max(1, usable_cores() - 1))

    @property
    def shown_size(self) -> tuple[int, ...]:
        """Voxels along X, Y and Z of a prepared volume."""
        return self.transforms.size

    @property
    def _bytes_each(self) -> int:
        """Memory of a prepared volume."""
        return self.spec.channels * math.prod(self.shown_size) * BYTES

    def _place(self, n: int) -> Literal["memory", "disk", "none"]:
        """Where prepared volumes are kept; says so in a note, with the size."""
        voxels = " x ".join(map(str, self.shown_size))
        gib = n * self._bytes_each / 2**30
        size = f"{n} volumes of {self.spec.channels} x {voxels}, {gib:.2f} GiB"
        fits = gib <= self.cache_gib
        if self.cache == "disk" and not fits:
            raise InputError(
                f"data.cache disk: {size}, would exceed data.cache_gib {self.cache_gib:g}; raise it, or lower "
                "transforms.size"
            )
        place: Literal["memory", "disk", "none"] = "none"
        if self.cache == "memory" or (self.cache == "auto" and fits):
            place = "memory"
        elif self.cache == "disk":
            place = "disk"
        where = {"memory": "kept in memory", "disk": f"kept in {self.cache_dir}", "none": "read anew in every epoch"}
        self.notes.append(f"prepared volumes: {size}, {where[place]}")
        return place

    def _read_all(
        self, rows: list[VolumeRow], place: str, contents: list[Content | None]
    ) -> tuple[list[Prepared | None], dict[int, str]]:
        """Prepared volumes where they are kept in memory, and the reasons of those that cannot be had.

        Fills ``contents``.
        """
        get: Callable[[int], Prepared]
        if place == "disk":
            get = DiskCache(rows, self.reader, Path(str(self.cache_dir))).__getitem__
        elif place == "memory" or self.check_files:
            get = lambda index: self.reader.prepared(rows[index])  # noqa: E731
        else:
            return [], {}

        def attempt(index: int) -> tuple[Prepared | None, str | None]:
            try:
                prepared = get(index)
            except UNREADABLE as error:
                return None, reason_of(error)
            contents[index] = Content(prepared.content)
            self._cuts.append(float(prepared.cut.max()))
            self._facts[next(filter(None, rows[index].paths))] = prepared.facts.tolist()
            return (prepared if place == "memory" else None), None

        # Decompression and PyTorch release the interpreter's lock, so that threads are enough; each holds a volume.
        found = []
        with progress("reading volumes", len(rows)) as step, ThreadPoolExecutor(_threads()) as pool:
            for one in pool.map(attempt, range(len(rows))):
                found.append(one)
                step()
        return [one for one, _ in found], {i: reason for i, (_, reason) in enumerate(found) if reason is not None}

    def _notes_of_cuts(self) -> list[str]:
        """What the cut to the model's size leaves out, where it leaves out anything."""
        cut = [share for share in self._cuts if share > 0]
        if not cut:
            return []
        size = " x ".join(map(str, self.transforms.size))
        return [
            f"cut about the middle to {size} voxels: {len(cut)} of {len(self._cuts)} volumes, which lose up to "
            f"{max(cut):.0%} of an axis. transforms.size, spacing_mm, crop and fit decide what is kept"
        ]

    def _leave_out(self, part: SampleTable, reasons: dict[int, str]) -> SampleTable:
        if not reasons:
            return part
        paths = part.frame["path"].tolist()
        left_out = [(paths[index], "read", reason) for index, reason in reasons.items()]
        more = pd.DataFrame(left_out, columns=["path", "stage", "reason"])
        self.errors = pd.concat([self.errors, more], ignore_index=True)
        return part.select(np.array([index not in reasons for index in range(len(part))]))


def _threads() -> int:
    return min(4, usable_cores())


def _check_together(
    transforms: VolumeTransforms, missing: str, laterality: str | None, box: list[str] | None, mask: str | None
) -> None:
    """Raise InputError where options of data and transforms need each other."""
    if transforms.needs_laterality and laterality is None:
        raise InputError("transforms.half and sides mirror need to know the side: name its column with data.laterality")
    if (transforms.crop == "box") != (box is not None):
        raise InputError("transforms.crop box and data.box go together: give both or neither")
    if (transforms.crop == "mask") != (mask is not None):
        raise InputError("transforms.crop mask and data.mask go together: give both or neither")
    if transforms.dynamic != "none" and missing == "zeros":
        raise InputError("data.missing zeros: a dynamic series needs all of its phases; leave it out")


def named_by_side(samples: SampleTable, files: VolumeFiles) -> SampleTable:
    """Two breasts of one volume have its name and their side, where that tells all rows apart."""
    rows = [files.of(row) for row in samples.frame["row"]]
    names = [f"{stem_of(next(filter(None, row.paths)))}-{row.side}" for row in rows]
    return replace(samples, frame=samples.frame.assign(id=names)) if len(set(names)) == len(names) else samples


def channels_of_column(probe: VolumeReader, column: Sequence[str]) -> int:
    """Channels of the first volume of a column that can be read.

    Raises:
        InputError: none can; gives the reason of the first.
    """
    reason = "every path is empty"
    for path in filter(None, column):
        try:
            return len(probe.read(path).array)
        except ReadError as error:
            reason = f"the first {error.reason}" if reason == "every path is empty" else reason
    raise InputError(f"no volume can be read: {reason}")


def _unreadable(part: SampleTable, reasons: dict[int, str]) -> list[Problem]:
    rows = part.frame["row"].tolist()
    advice = "export these volumes again, change the options that the reason names, or delete the rows"
    return [Problem("unreadable volume", (rows[index],), reason, advice) for index, reason in sorted(reasons.items())]
