"""The data module for volumes: one sample a row of the sample table, of one volume or several."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from medsoft.data.covariates import covariate_names
from medsoft.data.decode import ReadError
from medsoft.data.labels import Uncertain
from medsoft.data.problems import Problem, TableError
from medsoft.data.source import load_source
from medsoft.data.table import SampleTable, read_table, stem_of
from medsoft.data.table_module import Stage, TableDataModule
from medsoft.data.transforms.views import AnyView
from medsoft.data.volumes.dataset import UNREADABLE, DiskCache, VolumeDataset, VolumeReader, reason_of
from medsoft.data.volumes.files import VolumeFiles, VolumeRow, path_columns
from medsoft.data.volumes.planes import montage
from medsoft.data.volumes.transforms import Prepared, VolumeTransforms
from medsoft.data.volumes.volume import MAX_VOXELS
from medsoft.errors import InputError, check_range
from medsoft.task import DataSpec, TaskKind

BYTES = 4  # of a voxel, float32


class VolumeDataModule(TableDataModule[VolumeDataset]):
    """One volume, or several that become channels, a row of a sample table.

    Args:
        transforms: how volumes become what the model sees; set under transforms.
        table: CSV, Parquet or MedMNIST-style .npz with one row a sample.
        root: folder that paths are relative to; the table's own folder if not given.
        path: column with the volumes (files, or folders of a DICOM series), or several, separated by commas, which
            become channels on the grid of the first; all columns path_... where the table has no column path.
        missing: an empty path beside another is an error, or its channels are zeros.
        laterality: column with left or right, for transforms.half and transforms.sides mirror.
        box: six columns with x0, y0, z0, x1, y1, z1 in voxels of the volume as read, for transforms.crop box.
        mask: column with masks (segmentations) on the grid of the first volume, for transforms.crop mask.
        covariates: numeric columns, such as age, that join the image at the head; empty ones stand at the mean.
        label: column with the label, or several, separated by commas, for multilabel.
        task: binary, multiclass, multilabel, ordinal or regression; needed where labels are numbers.
        positive: label values that make the positive class of a binary question, such as 2,3,4.
        classes: names of the classes in order (a list, or with commas between); other labels are an error.
        patient: column with the patient; the split keeps each patient in one part.
        site: column with the site, for the counts.
        exam: column that groups rows read together, carried into the predictions.
        id: column with a key for each row; made from the name of the first file or folder if not given.
        split: column with train, val and test; without it fit makes a split.
        rename_splits: other names in the split column, such as {val: test}.
        splits_from: CSV with id and split that overrides the table's, such as the split.csv of a run.
        val_fraction: share of all rows for validation, or of the training rows where the table has a split without.
        test_fraction: share of the rows for the test where the table has no split at all.
        batch_size: samples a step.
        num_workers: processes that load volumes; chosen by itself if not given (none with those in memory on a CPU).
        cache: memory or disk keeps prepared volumes; auto does so in memory while they fit into cache_gib.
        cache_gib: limit of the cache in GiB; disk is refused where it would need more.
        cache_dir: folder for prepared volumes under disk; files are named by hashes and may be deleted at any time.
        balanced_sampling: draw training samples so that classes come equally often (not for multilabel).
        on_error: error refuses to start with unreadable files or bad rows; skip lists them in errors.csv and goes on.
        check_files: read every volume before work starts where they are not cached anyway.
        max_voxels: larger volumes are refused.
        uncertain: what a label of -1 (CheXpert's uncertain) counts as in a multilabel task, for all labels or by
            label, such as {Edema: one}; an error if not given.
        stage: what the table is for; set by the verb. Only fit makes a split, only predict takes rows without labels.
        seed: of split, order and augmentation; seed_everything if not given.
    """

    unit = "volume"

    def __init__(
        self,
        transforms: VolumeTransforms,
        table: str,
        root: str | None = None,
        path: str | list[str] = "path",
        missing: Literal["error", "zeros"] = "error",
        laterality: str | None = None,
        box: list[str] | None = None,
        mask: str | None = None,
        covariates: str | list[str] | None = None,
        label: str | list[str] = "label",
        task: TaskKind | None = None,
        positive: str | int | list[str | int] | None = None,
        classes: str | list[str] | None = None,
        patient: str | None = None,
        site: str | None = None,
        exam: str | None = None,
        id: str | None = None,
        split: str = "split",
        rename_splits: dict[str, str] | None = None,
        splits_from: str | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.2,
        batch_size: int = 4,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "disk", "none"] = "auto",
        cache_gib: float = 4.0,
        cache_dir: str | None = None,
        balanced_sampling: bool = False,
        on_error: Literal["error", "skip"] = "error",
        check_files: bool = True,
        max_voxels: int = MAX_VOXELS,
        uncertain: Uncertain | dict[str, Uncertain] | None = None,
        stage: Stage = "fit",
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, balanced_sampling, stage, seed)
        check_range("data.cache_gib", cache_gib, 0)
        check_range("data.max_voxels", max_voxels, 1)
        if cache == "disk" and cache_dir is None:
            raise InputError("data.cache disk: name a folder for the prepared volumes with data.cache_dir")
        _check_together(transforms, missing, laterality, box, mask)
        self.transforms = transforms
        self.cache, self.cache_gib, self.cache_dir = cache, cache_gib, cache_dir
        self.on_error, self.check_files, self.max_voxels = on_error, check_files, max_voxels
        source = load_source(table)
        columns = path_columns(source, path)
        base = Path(os.path.abspath(root or Path(table).parent))  # noqa: PTH100 (as read_table does)
        self.files = VolumeFiles(table, source, base, columns, missing, laterality, box, mask)
        samples = read_table(
            table,
            source=source,
            files=self.files,
            root=root,
            path=columns[0],
            label=label,
            task=task,
            positive=positive,
            classes=classes,
            patient=patient,
            site=site,
            exam=exam,
            id=id,
            split=split,
            rename_splits=rename_splits,
            uncertain=uncertain,
            require_labels=stage != "predict",
            on_error=on_error,
        )
        if id is None and laterality is not None:
            samples = _named_by_side(samples, self.files)
        self.covariate_columns = covariate_names(covariates)
        self._take(samples, splits_from, val_fraction, test_fraction)

    @cached_property
    def reader(self) -> VolumeReader:
        """Reads and prepares; knows the channels of each column from the first volume that can be read.

        Raises:
            InputError: no volume of a column can be read; gives the reason of the first.
        """
        probe = VolumeReader(self.transforms, (), self.max_voxels)
        rows = [self.files.of(row) for row in self.samples.frame["row"]]
        columns = zip(*(row.paths for row in rows), strict=True)
        return VolumeReader(self.transforms, [_channels(probe, column) for column in columns], self.max_voxels)

    @property
    def spec(self) -> DataSpec:
        """What the model must know of the data; class counts are those of the training part (else of all rows)."""
        channels = self.transforms.channels(sum(self.reader.channels))
        return DataSpec(
            self.task, channels, self.transforms.size, self.class_counts, self.target_scale, self.covariates
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
        problems = []
        self._cuts: list[float] = []
        for split, part in parts.items():
            rows = [self.files.of(row) for row in part.frame["row"]]
            prepared, reasons = self._read_all(rows, place)
            problems += _unreadable(part, reasons)
            part = self._leave_out(part, reasons)
            rows = [row for index, row in enumerate(rows) if index not in reasons]
            cache: list[Prepared] | DiskCache | None = None
            if place == "memory":
                cache = [one for one in prepared if one is not None]
            elif place == "disk":
                cache = DiskCache(rows, self.reader, Path(str(self.cache_dir)))
            covariates = self.covariates_of(part)
            self._parts[split] = (part, VolumeDataset(rows, part.targets, self.reader, self.seed, cache, covariates))
        self.notes += self._said_of_cuts()
        if problems and (self.on_error == "error" or not all(len(part) for part, _ in self._parts.values())):
            raise TableError(str(self.samples.source), problems)

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
        return min(8, max(1, len(os.sched_getaffinity(0)) - 1))

    def _place(self, n: int) -> Literal["memory", "disk", "none"]:
        """Where prepared volumes are kept; says so in a note, with the size."""
        x, y, z = self.transforms.size
        gib = n * self.spec.channels * x * y * z * BYTES / 2**30
        size = f"{n} volumes of {self.spec.channels} x {x} x {y} x {z}, {gib:.2f} GiB"
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

    def _read_all(self, rows: list[VolumeRow], place: str) -> tuple[list[Prepared | None], dict[int, str]]:
        """Prepared volumes where they are kept in memory, and the reasons of those that cannot be had."""
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
            self._cuts.append(float(prepared.cut.max()))
            return (prepared if place == "memory" else None), None

        # Decompression and PyTorch release the interpreter's lock, so that threads are enough; each holds a volume.
        with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
            found = list(pool.map(attempt, range(len(rows))))
        return [one for one, _ in found], {i: reason for i, (_, reason) in enumerate(found) if reason is not None}

    def _said_of_cuts(self) -> list[str]:
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


def _named_by_side(samples: SampleTable, files: VolumeFiles) -> SampleTable:
    """Two breasts of one volume have its name and their side, where that tells all rows apart."""
    rows = [files.of(row) for row in samples.frame["row"]]
    names = [f"{stem_of(next(filter(None, row.paths)))}-{row.side}" for row in rows]
    return replace(samples, frame=samples.frame.assign(id=names)) if len(set(names)) == len(names) else samples


def _channels(probe: VolumeReader, column: tuple[str, ...]) -> int:
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
