"""The data module for images with boxes: one image a row of the sample table, the boxes in a file of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medsoft.data.boxes.of_images import Boxes, by_image, counts
from medsoft.data.boxes.read import FirstPixel, read_boxes
from medsoft.data.datasets.detection.dataset import DetectionDataset, collate
from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.datasets.image_module import ImageDataModule
from medsoft.data.datasets.segmentation.module import file_names
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import MAX_PIXELS
from medsoft.data.tables.duplicates import Content
from medsoft.data.tables.labels import words
from medsoft.data.tables.reading import load_source, text
from medsoft.data.tables.sample_table import Problem, SampleTable
from medsoft.data.transforms.base import Transforms
from medsoft.data.transforms.views import AS_IT_IS, View
from medsoft.errors import InputError
from medsoft.text.sheets import split_sheet


class DetectionDataModule(ImageDataModule):
    """One image a row of a sample table, and a file with the boxes of all images.

    Args:
        transforms: how images become what the model sees; set under transforms.
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        path: column with the image paths.
        boxes: file with the true boxes: a table (.csv, .parquet, .xlsx) with the columns file, x_min, y_min, x_max,
            y_max and label and one row per box, a COCO file (.json), or a folder of Pascal VOC files (.xml). Images of
            the table without a box in it are negatives; predict needs none.
        first_pixel: 0 if coordinates are continuous and begin with 0, so that x_max is where the box ends; 1 if pixels
            are counted from 1 and x_max is the last pixel of the box.
        classes: names of the classes in order; the labels of the boxes, sorted, if not given.
        batch_size: images per step.
        num_workers: processes that load images; chosen automatically if not given.
        cache: memory keeps prepared images in memory; auto does so if they fit into cache_gib.
        cache_gib: limit of the automatic cache in GiB.
        max_pixels: images with more pixels than this are refused (decompression bombs).
        voi: apply the window of greyscale DICOM images (VOI LUT, or the first window) before the transforms.
        task: kind of task; always detection.
    """

    reads_boxes = True

    def __init__(
        self,
        transforms: Transforms,
        table: str,
        path: str = "path",
        boxes: str | None = None,
        first_pixel: FirstPixel = 0,
        classes: str | list[str] | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "none"] = "auto",
        cache_gib: float = 4.0,
        max_pixels: int = MAX_PIXELS,
        voi: bool = False,
        task: Literal["detection"] = "detection",
        **rows: Any,
    ) -> None:
        self._boxes_file, self._first_pixel = boxes, first_pixel
        self._boxes: dict[str, Boxes] = {}
        self._notes_on_boxes: list[str] = []
        self._stored: dict[str, tuple[int, int]] = {}
        super().__init__(
            transforms,
            table,
            path=path,
            covariates=None,
            batch_size=batch_size,
            num_workers=num_workers,
            cache=cache,
            cache_gib=cache_gib,
            max_pixels=max_pixels,
            voi=voi,
            uncertain=None,
            label="boxes",
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
        self.notes += self._notes_on_boxes
        if self.stage == "fit":
            self._require_each_class()

    def _read(self, **own: Any) -> SampleTable:
        """The table, with the number of boxes of each image as its label."""
        file, _ = split_sheet(self._table)
        source = load_source(self._table)
        base = Path(os.path.abspath(self._options["root"] or file.parent))  # noqa: PTH100 (as read_table does)
        paths: list[str] = []
        if own["path"] in source:
            paths = [os.path.normpath(base / value) if value else "" for value in text(source[own["path"]])]
        source["boxes"] = self._count(paths, base) if paths else ""
        return super()._read(source=source, **own)

    def _count(self, paths: list[str], base: Path) -> Any:
        """Read the boxes, and how many each image has; settles the classes.

        Raises:
            InputError: they cannot be read, or do not belong to these images and classes.
        """
        named = words(self._options["classes"])
        if self._boxes_file is None:
            if self.stage != "predict":
                raise InputError(
                    "data.boxes: name the file with the true boxes: a table, a COCO file, or a folder (VOC)"
                )
            return ""
        found = read_boxes(self._boxes_file, self._first_pixel)
        if not named and not found.labels:
            raise InputError(f"{found.source}: has no box: there is nothing to learn")
        classes = named or found.labels
        self._options["classes"] = classes
        self._boxes, notes = by_image(found, paths, base, classes, self.on_error == "skip")
        all_ = np.concatenate([np.zeros(0, np.int64), *(of.class_N for of in self._boxes.values())])
        each = np.bincount(all_, minlength=len(classes))
        told = ", ".join(f"{name} {count}" for name, count in zip(classes, each, strict=True))
        empty = sum(not len(of) for of in self._boxes.values())
        self._notes_on_boxes = [f"boxes: {told}; images without a box: {empty}", *notes]
        return counts(self._boxes, paths)

    def _require_each_class(self) -> None:
        of_train = [self._boxes[path].class_N for path in self.samples.subset("train").frame["path"]]
        there = np.bincount(np.concatenate(of_train), minlength=len(self.task.classes))
        if lacking := [name for name, count in zip(self.task.classes, there, strict=True) if not count]:
            raise InputError(
                f"{self._boxes_file}: no image of the part train has a box of {', '.join(lacking)}: split otherwise, "
                "or leave the class out"
            )

    @property
    def views(self) -> tuple[View, ...]:
        """The image as it is alone: boxes of views would have to be turned back and joined."""
        return (AS_IT_IS,)

    def boxes_of(self, path: str) -> Boxes | None:
        """The true boxes of an image of the table; None where they are not known."""
        return self._boxes.get(path)

    def _look(self, path: str, image: np.ndarray, facts: PixelFacts) -> Content:
        self._stored[path] = (int(image.shape[0]), int(image.shape[1]))
        return super()._look(path, image, facts)

    def _more_problems(self, part: SampleTable, unreadable: dict[int, str]) -> list[Problem]:
        advice = "correct these boxes or delete the rows of their images"
        found = []
        for index, (path, row) in enumerate(zip(part.frame["path"], part.frame["row"], strict=True)):
            if index in unreadable or (boxes := self.boxes_of(path)) is None:
                continue
            if reason := boxes.wrong(self._stored.get(path)):
                found.append(Problem("unusable box", (int(row),), reason, advice))
        return found

    def _dataset_of(
        self, split: str, part: SampleTable, cache: np.ndarray | None, sizes: np.ndarray | None
    ) -> ImageDataset:
        return DetectionDataset(
            part.frame["path"].tolist(),
            part.targets,
            self.transforms,
            self.seed,
            self.max_pixels,
            cache,
            self.voi,
            None,
            sizes,
            boxes=[self.boxes_of(path) for path in part.frame["path"]],
            names=file_names(split, part.frame["id"].tolist()),
        )

    def _loader_options(self) -> dict[str, Any]:
        return super()._loader_options() | {"collate_fn": collate}
