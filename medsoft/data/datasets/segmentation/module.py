"""The data module for images with masks: one image and its mask a row of the sample table."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medsoft.data.datasets.base import TableDataModule
from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.datasets.image_module import ImageDataModule
from medsoft.data.datasets.segmentation.dataset import SegmentationDataset, collate, wrong_size
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import MAX_PIXELS
from medsoft.data.masks.read import BACKGROUND, MaskValues, read_mask
from medsoft.data.tables.duplicates import Content
from medsoft.data.tables.sample_table import Problem, SampleTable
from medsoft.data.transforms.base import Transforms
from medsoft.data.transforms.views import AS_IT_IS, View
from medsoft.errors import InputError, ReadError, check_range
from medsoft.specs import SegmentationSpec
from medsoft.system.progress import progress

NAME = re.compile(r"[^\w.-]+")


class SegmentationDataModule(ImageDataModule):
    """One image and its mask a row of a sample table.

    Args:
        transforms: how images become what the model sees; set under transforms.
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        path: column with the image paths.
        mask: column with the paths of the masks, of the size of their images.
        classes: names of the classes beside the background, in the order of their values; foreground if not given.
        mask_values: values of the classes in the masks, in the order of data.classes; 1, 2, … if not given, and for a
            single class 255 too. 0 is the background.
        ignore_value: value of pixels that are neither learnt from nor scored.
        mask_threshold: value from which a pixel of a soft mask belongs to the single class, such as 128.
        patches: show the model parts of the images at their own resolution, and predict large images window by window;
            otherwise whole images are scaled to the size of the recipe.
        foreground: share of the parts that are centred on a pixel of a class.
        batch_size: images per step.
        num_workers: processes that load images; chosen automatically if not given.
        cache: memory keeps prepared images in memory; auto does so if they fit into cache_gib.
        cache_gib: limit of the automatic cache in GiB.
        max_pixels: images with more pixels than this are refused (decompression bombs).
        voi: apply the window of greyscale DICOM images (VOI LUT, or the first window) before the transforms.
        task: kind of task; always segmentation.
    """

    reads_masks = True

    def __init__(
        self,
        transforms: Transforms,
        table: str,
        path: str = "path",
        mask: str = "mask",
        classes: str | list[str] | None = None,
        mask_values: list[int] | None = None,
        ignore_value: int | None = None,
        mask_threshold: float | None = None,
        patches: bool = False,
        foreground: float = 0.5,
        batch_size: int = 8,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "none"] = "auto",
        cache_gib: float = 4.0,
        max_pixels: int = MAX_PIXELS,
        voi: bool = False,
        task: Literal["segmentation"] = "segmentation",
        **rows: Any,
    ) -> None:
        check_range("data.foreground", foreground, 0, 1)
        self.patches, self.foreground = patches, foreground
        self._stored: dict[str, tuple[int, int]] = {}
        super().__init__(
            transforms,
            table,
            path=path,
            covariates=None,
            batch_size=batch_size,
            num_workers=num_workers,
            cache="none" if patches else cache,
            cache_gib=cache_gib,
            max_pixels=max_pixels,
            voi=voi,
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
        self.values = MaskValues(self.task.classes, given, ignore_value, mask_threshold)

    @property
    def spec(self) -> SegmentationSpec:
        """What the model must know of the data."""
        transforms = self.transforms
        return SegmentationSpec(self.task, transforms.channels, transforms.size, self.class_counts, self.values)

    @property
    def views(self) -> tuple[View, ...]:
        """The image as it is alone: views of masks would have to be turned back."""
        return (AS_IT_IS,)

    @property
    def eval_batch_size(self) -> int:
        """1 where images keep their own size."""
        return 1 if self.patches else self.batch_size

    def mask_paths(self, part: SampleTable) -> list[str]:
        """The masks' files, "" where there is none; relative ones from where the images' start."""
        return mask_paths(part, self._options["root"] or Path(self._table).parent)

    def _look(self, path: str, image: np.ndarray, facts: PixelFacts) -> Content:
        self._stored[path] = (int(image.shape[0]), int(image.shape[1]))
        return super()._look(path, image, facts)

    def _more_problems(self, part: SampleTable, unreadable: dict[int, str]) -> list[Problem]:
        masks, images, rows = self.mask_paths(part), part.frame["path"].tolist(), part.frame["row"].tolist()

        def wrong(index: int) -> str | None:
            if not masks[index] or index in unreadable:
                return None
            try:
                found = read_mask(masks[index], self.values, self.max_pixels)
            except ReadError as error:
                return f"the mask {error.reason}"
            size = self._stored.get(images[index])
            return None if size is None or size == found.shape else wrong_size(found.shape, size)

        with progress("reading masks", len(masks)) as step, ThreadPoolExecutor(4) as pool:
            reasons = []
            for reason in pool.map(wrong, range(len(masks))):
                reasons.append(reason)
                step()
        advice = "correct these masks or delete the rows"
        return [
            Problem("unusable mask", (rows[index],), reason, advice)
            for index, reason in enumerate(reasons)
            if reason is not None
        ]

    def _dataset_of(
        self, split: str, part: SampleTable, cache: np.ndarray | None, sizes: np.ndarray | None
    ) -> ImageDataset:
        self._require_foreground(split, part)
        return SegmentationDataset(
            part.frame["path"].tolist(),
            part.targets,
            self.transforms,
            self.seed,
            self.max_pixels,
            cache,
            self.voi,
            None,
            sizes,
            masks=self.mask_paths(part),
            values=self.values,
            names=file_names(split, part.frame["id"].tolist()),
            patches=self.patches,
            foreground=self.foreground,
        )

    def _require_foreground(self, split: str, part: SampleTable) -> None:
        """Check that there is something to learn, and to choose the checkpoint by.

        Raises:
            InputError: every mask of the training or of the validation part is empty.
        """
        if self.stage != "fit" or split not in ("train", "val") or not self.check_files:
            return
        for path in self.mask_paths(part):
            try:
                if path and (read_mask(path, self.values, self.max_pixels) > BACKGROUND).any():
                    return
            except ReadError:  # told of by load
                return
        raise nothing_to_learn(self, split, len(part))

    def _loader_options(self) -> dict[str, Any]:
        return super()._loader_options() | {"collate_fn": collate}


def mask_paths(part: SampleTable, base: str | Path) -> list[str]:
    """The files of the column ``mask``, "" where there is none.

    Args:
        part: of a table.
        base: folder that relative paths start from.
    """
    start = Path(os.path.abspath(base))  # noqa: PTH100 (as read_table does)
    return [os.path.normpath(start / str(one)) if one else "" for one in part.frame["mask"].fillna("")]


def nothing_to_learn(data: TableDataModule[Any], split: str, rows: int) -> InputError:
    """What is said where every mask of a part is empty."""
    return InputError(
        f"{data.samples.source}: every mask of the part {split} is empty ({rows} rows): there is no {data.element} of "
        f"{', '.join(data.task.classes)} to learn from; check data.mask, or split otherwise"
    )


def file_names(split: str, ids: list[str]) -> list[str]:
    """Unique names of files for samples: their split and id, with a hash where a character had to be replaced."""
    names = []
    for id in ids:
        name = NAME.sub("_", f"{split}_{id}" if split else id)
        same = name == (f"{split}_{id}" if split else id) and not name.startswith(".")
        names.append(name if same else f"{name.lstrip('.')}-{hashlib.sha256(id.encode()).hexdigest()[:8]}")
    return names
