"""The data module for photographs, radiographs and tiles: one image a row of the sample table."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pandas as pd
import torch

from medsoft.data.covariates import covariate_names
from medsoft.data.image_dataset import ImageDataset
from medsoft.data.labels import Uncertain
from medsoft.data.read import MAX_PIXELS, ReadError, check_images, read_image
from medsoft.data.table import Problem, SampleTable, TableError, read_table
from medsoft.data.table_module import Stage, TableDataModule
from medsoft.data.transforms.base import Transforms
from medsoft.data.transforms.views import View, views_of
from medsoft.errors import check_range
from medsoft.task import DataSpec, TaskKind


class ImageDataModule(TableDataModule[ImageDataset]):
    """One image a row of a sample table.

    Args:
        transforms: how images become what the model sees; set under transforms.
        table: CSV, Parquet or MedMNIST-style .npz with one row a sample.
        root: folder that image paths are relative to; the table's own folder if not given.
        path: column with the image paths.
        covariates: numeric columns, such as age, that join the image at the head; empty ones stand at the mean.
        label: column with the label, or several, separated by commas, for multilabel.
        task: binary, multiclass, multilabel, ordinal or regression; needed where labels are numbers.
        positive: label values that make the positive class of a binary question, such as 2,3,4.
        classes: names of the classes in order (a list, or with commas between); other labels are an error.
        patient: column with the patient; the split keeps each patient in one part.
        site: column with the site, for the counts.
        exam: column that groups rows read together, carried into the predictions.
        id: column with a key for each row; made from the file name if not given.
        split: column with train, val and test; without it fit makes a split.
        rename_splits: other names in the split column, such as {val: test}.
        splits_from: CSV with id and split that overrides the table's, such as the split.csv of a run.
        val_fraction: share of all rows for validation, or of the training rows where the table has a split without.
        test_fraction: share of the rows for the test where the table has no split at all.
        batch_size: images a step.
        num_workers: processes that load images; chosen by itself if not given (none where images are cached on a CPU).
        cache: memory keeps prepared images in memory; auto does so while they fit into cache_gib.
        cache_gib: limit of the automatic cache in GiB.
        balanced_sampling: draw training samples so that classes come equally often (not for multilabel).
        on_error: error refuses to start with unreadable files or bad rows; skip lists them in errors.csv and goes on.
        check_files: decode every file before work starts where images are not cached anyway.
        max_pixels: larger images are refused (decompression bombs).
        voi: show grey DICOM images by their own window (VOI LUT, or the first window) before the transforms.
        uncertain: what a label of -1 (CheXpert's uncertain) counts as in a multilabel task, for all labels or by
            label, such as {Edema: one}; an error if not given.
        stage: what the table is for; set by the verb. Only fit makes a split, only predict takes rows without labels.
        seed: of split, order and augmentation; seed_everything if not given.
    """

    unit = "image"

    def __init__(
        self,
        transforms: Transforms,
        table: str,
        root: str | None = None,
        path: str = "path",
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
        batch_size: int = 32,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "none"] = "auto",
        cache_gib: float = 4.0,
        balanced_sampling: bool = False,
        on_error: Literal["error", "skip"] = "error",
        check_files: bool = True,
        max_pixels: int = MAX_PIXELS,
        voi: bool = False,
        uncertain: Uncertain | dict[str, Uncertain] | None = None,
        stage: Stage = "fit",
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, balanced_sampling, stage, seed)
        check_range("data.cache_gib", cache_gib, 0)
        check_range("data.max_pixels", max_pixels, 1)
        self.transforms = transforms
        self.cache, self.cache_gib = cache, cache_gib
        self.on_error, self.check_files = on_error, check_files
        self.max_pixels, self.voi = max_pixels, voi
        samples = read_table(
            table,
            root=root,
            path=path,
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
        self.covariate_columns = covariate_names(covariates)
        self._take(samples, splits_from, val_fraction, test_fraction)

    @property
    def spec(self) -> DataSpec:
        """What the model must know of the data; class counts are those of the training part (else of all rows)."""
        image = (self.transforms.channels, self.transforms.size)
        return DataSpec(self.task, *image, self.class_counts, self.target_scale, self.covariates)

    def load(self, splits: list[str]) -> None:
        """Read or check every image of these splits, so that a bad file is known before work starts.

        Raises:
            TableError: unreadable files (all listed). With ``on_error`` ``skip`` they go to ``errors`` instead, unless
                nothing is left of a split.
        """
        parts = {split: self.samples.subset(split) for split in splits}
        parts = {split: part for split, part in parts.items() if len(part)}
        in_memory = self._fits_in_memory(sum(map(len, parts.values())))
        problems = []
        for split, part in parts.items():
            paths = part.frame["path"].tolist()
            cache, reasons = self._read_all(paths) if in_memory else (None, self._check_all(paths))
            problems += _unreadable(part, reasons)
            part, cache = self._leave_out(part, cache, reasons)
            dataset = ImageDataset(
                part.frame["path"].tolist(),
                part.targets,
                self.transforms,
                self.seed,
                self.max_pixels,
                cache,
                self.voi,
                self.covariates_of(part),
            )
            self._parts[split] = (part, dataset)
        if problems and (self.on_error == "error" or not all(len(part) for part, _ in self._parts.values())):
            raise TableError(str(self.samples.source), problems)

    @property
    def views(self) -> tuple[View, ...]:
        """What the recipe's symmetry allows."""
        return views_of(self.transforms.symmetry, self.transforms.size)

    @property
    def note(self) -> str:
        """What every picture must say of the data: whether it is phantoms."""
        return "phantom images, no patients" if "phantom" in self.samples.frame else ""

    def thumbnail(self, id: str) -> np.ndarray | None:
        """The image of a loaded sample as the model sees it, (H, W, C) uint8; None for an unknown id."""
        for part, dataset in self._parts.values():
            found = np.flatnonzero(part.frame["id"] == id)
            if len(found):
                return dataset.prepared(int(found[0]))
        return None

    def _default_workers(self) -> int:
        cached = all(dataset.cache is not None for _, dataset in self._parts.values())
        # On a CPU the model needs the cores, and augmenting what is in memory is cheap beside it.
        if cached and not torch.cuda.is_available():
            return 0
        return min(8, max(1, len(os.sched_getaffinity(0)) - 1))

    def _fits_in_memory(self, n: int) -> bool:
        size = n * self.transforms.size[0] * self.transforms.size[1] * self.transforms.channels
        return self.cache == "memory" or (self.cache == "auto" and size <= self.cache_gib * 2**30)

    def _read_all(self, paths: list[str]) -> tuple[np.ndarray, dict[int, str]]:
        """(n, H, W, C) prepared images, and the reasons of those that cannot be had."""
        cache = np.zeros((len(paths), *self.transforms.size, self.transforms.channels), np.uint8)

        def read(index: int) -> str | None:
            try:
                cache[index] = self.transforms.prepare(
                    read_image(paths[index], max_pixels=self.max_pixels, voi=self.voi)
                )
            except ReadError as error:
                return error.reason
            except ValueError as error:  # of the transforms
                return str(error)
            return None

        # Decoding releases the interpreter's lock, so that threads are enough.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)) + 1) as pool:
            reasons = enumerate(pool.map(read, range(len(paths))))
            return cache, {index: reason for index, reason in reasons if reason is not None}

    def _check_all(self, paths: list[str]) -> dict[int, str]:
        if not self.check_files:
            return {}
        failures = check_images(paths, max_pixels=self.max_pixels, voi=self.voi)
        reason_of = dict(zip(failures["path"], failures["reason"], strict=True))
        return {index: reason_of[path] for index, path in enumerate(paths) if path in reason_of}

    def _leave_out(
        self, part: SampleTable, cache: np.ndarray | None, reasons: dict[int, str]
    ) -> tuple[SampleTable, np.ndarray | None]:
        if not reasons:
            return part, cache
        paths = part.frame["path"].tolist()
        left_out = [(paths[index], "read", reason) for index, reason in reasons.items()]
        more = pd.DataFrame(left_out, columns=["path", "stage", "reason"])
        self.errors = pd.concat([self.errors, more], ignore_index=True)
        keep = np.array([index not in reasons for index in range(len(part))])
        return part.select(keep), None if cache is None else cache[keep]


def _unreadable(part: SampleTable, reasons: dict[int, str]) -> list[Problem]:
    rows = part.frame["row"].tolist()
    advice = "export these pictures again or delete the rows"
    return [Problem("unreadable picture", (rows[index],), reason, advice) for index, reason in sorted(reasons.items())]
