"""The data module for photographs, radiographs and tiles: one image a row of the sample table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from medsoft.data.datasets.base import TableDataModule
from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.facts.pictures import Facts, picture_facts
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import MAX_PIXELS, check_images, read_sample
from medsoft.data.tables.covariates import covariate_names
from medsoft.data.tables.duplicates import Content, content_of
from medsoft.data.tables.labels import Uncertain
from medsoft.data.tables.sample_table import Problem, SampleTable, TableError
from medsoft.data.transforms.base import Transforms
from medsoft.data.transforms.views import View, views_of
from medsoft.errors import ReadError, check_range
from medsoft.specs import DataSpec
from medsoft.system.cores import usable_cores
from medsoft.system.progress import progress


class ImageDataModule(TableDataModule[ImageDataset]):
    """One image a row of a sample table.

    Args:
        transforms: how images become what the model sees; set under transforms.
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        path: column with the image paths.
        covariates: numeric columns, such as age, and groups, as in sex=male, that join the image features at the head;
            missing values count as the mean.
        batch_size: images per step.
        num_workers: processes that load images; chosen automatically if not given (none if images are cached and the
            model runs on a CPU).
        cache: memory keeps prepared images in memory; auto does so if they fit into cache_gib.
        cache_gib: limit of the automatic cache in GiB.
        max_pixels: images with more pixels than this are refused (decompression bombs).
        voi: apply the window of greyscale DICOM images (VOI LUT, or the first window) before the transforms.
        uncertain: what a label of -1 (CheXpert's uncertain) counts as in a multilabel task, for all labels or for each
            label, such as {Edema: one}; such a label is an error if this is not given.
    """

    unit = "image"

    def __init__(
        self,
        transforms: Transforms,
        table: str,
        path: str = "path",
        covariates: str | list[str] | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "none"] = "auto",
        cache_gib: float = 4.0,
        max_pixels: int = MAX_PIXELS,
        voi: bool = False,
        uncertain: Uncertain | dict[str, Uncertain] | None = None,
        **rows: Any,
    ) -> None:
        super().__init__(table, batch_size=batch_size, num_workers=num_workers, **rows)
        check_range("data.cache_gib", cache_gib, 0)
        check_range("data.max_pixels", max_pixels, 1)
        self.transforms = transforms
        self.cache, self.cache_gib = cache, cache_gib
        self.max_pixels, self.voi = max_pixels, voi
        samples = self._read(
            path=path,
            uncertain=uncertain,
        )
        self.covariate_columns = covariate_names(covariates)
        self._facts: dict[str, Facts] = {}
        self._take(samples)

    @property
    def spec(self) -> DataSpec:
        """What the model must know of the data; class counts are those of the training part (else of all rows)."""
        channels, size = self.transforms.channels, self.transforms.size
        counts, scale = self.class_counts, self.target_scale
        return DataSpec(self.task, channels, size, counts, scale, self.covariates, self.event_times)

    def load(self, splits: list[str]) -> None:
        """Read or check every image of these splits, so that a bad file is known before work starts.

        Raises:
            TableError: unreadable files (all listed). With ``on_error`` ``skip`` they go to ``errors`` instead, unless
                nothing is left of a split.
        """
        parts = {split: self.samples.subset(split) for split in splits}
        parts = {split: part for split, part in parts.items() if len(part)}
        in_memory = self._fits_in_memory(sum(map(len, parts.values())))
        problems, read, contents, facts = [], {}, {}, PixelFacts()
        for split, part in parts.items():
            paths = part.frame["path"].tolist()
            found: list[Content | None] = [None] * len(paths)
            cache, sizes, reasons = (
                self._read_all(paths, found, facts) if in_memory else (None, None, self._check_all(paths, found, facts))
            )
            problems += unreadable_pictures(part, reasons)
            more = self._more_problems(part, reasons)
            problems += more
            reasons |= {part.frame["row"].tolist().index(p.rows[0]): f"{p.kind}: {p.message}" for p in more}
            read[split], contents[split] = (cache, sizes, reasons), found
        for split, again in self._twice(parts, contents, problems).items():
            cache, sizes, reasons = read[split]
            read[split] = cache, sizes, again | reasons
        for split, part in parts.items():
            part, cache, sizes = self._leave_out(part, *read[split])
            self._parts[split] = (part, self._dataset_of(split, part, cache, sizes))
        if problems and (self.on_error == "error" or not all(len(part) for part, _ in self._parts.values())):
            raise TableError(str(self.samples.source), problems)
        if note := self.depth_note(facts):
            self.notes.append(note)

    def _more_problems(self, part: SampleTable, unreadable: dict[int, str]) -> list[Problem]:
        """What is wrong with what belongs to the pictures of a part, such as their masks; of one row each.

        Args:
            part: of the table, whose pictures were read.
            unreadable: reasons of those that cannot be had, by place in the part.
        """
        return []

    def _dataset_of(
        self, split: str, part: SampleTable, cache: np.ndarray | None, sizes: np.ndarray | None
    ) -> ImageDataset:
        """The data set of a part.

        Args:
            split: its name.
            part: its rows.
            cache: (n, H, W, C) prepared images; None where they are read when asked for.
            sizes: (n, 2) of the images as stored, where they are known.
        """
        return ImageDataset(
            part.frame["path"].tolist(),
            part.targets,
            self.transforms,
            self.seed,
            self.max_pixels,
            cache,
            self.voi,
            self.covariates_of(part),
            sizes,
        )

    def _facts_of_files(self, split: str) -> list[Facts]:
        paths = self.part(split).frame["path"].tolist()
        unseen = [path for path in paths if path not in self._facts]
        if unseen:  # with data.check_files false nobody has looked at them yet

            def seen(path: str, image: np.ndarray) -> None:
                self._facts[path] = picture_facts(path, image)

            with progress("looking at pictures", len(unseen)) as step:
                check_images(unseen, max_pixels=self.max_pixels, voi=self.voi, progress=step, seen=seen)
        return [self._facts.get(path, {}) for path in paths]

    def _look(self, path: str, image: np.ndarray, facts: PixelFacts) -> Content:
        """Take note of a picture as read, while it is at hand; from any thread."""
        facts.look(path, image)
        if self.keeps_facts:
            self._facts[path] = picture_facts(path, image)
        return content_of(image)

    def depth_note(self, facts: PixelFacts) -> str:
        """A sentence where 16-bit pictures use a few bits and the recipe takes them as they are, else ""."""
        return facts.depth_note(bool(self.transforms.window) if hasattr(self.transforms, "window") else None)

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
        return min(8, max(1, usable_cores() - 1))

    def _fits_in_memory(self, n: int) -> bool:
        size = n * self.transforms.size[0] * self.transforms.size[1] * self.transforms.channels
        return self.cache == "memory" or (self.cache == "auto" and size <= self.cache_gib * 2**30)

    def _read_all(
        self, paths: list[str], contents: list[Content | None], facts: PixelFacts
    ) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Read and prepare all images; fills ``contents`` and ``facts``.

        Returns:
            (n, H, W, C) prepared images, (n, 2) stored sizes, and the reasons of those that cannot be had.
        """
        sizes = np.zeros((len(paths), 2), np.int64)
        cache = np.zeros((len(paths), *self.transforms.size, self.transforms.channels), np.uint8)

        def read(index: int) -> str | None:
            try:
                image = read_sample(paths[index], max_pixels=self.max_pixels, voi=self.voi)
                contents[index] = self._look(paths[index], image, facts)
                cache[index], sizes[index] = self.transforms.prepare(image), image.shape[:2]
            except ReadError as error:
                return error.reason
            except ValueError as error:  # of the transforms
                return str(error)
            return None

        # Decoding releases the interpreter's lock, so that threads are enough.
        kept = {}
        with progress("reading pictures", len(paths)) as step, ThreadPoolExecutor(_threads()) as pool:
            for index, reason in enumerate(pool.map(read, range(len(paths)))):
                if reason is not None:
                    kept[index] = reason
                step()
        return cache, sizes, kept

    def _check_all(self, paths: list[str], contents: list[Content | None], facts: PixelFacts) -> dict[int, str]:
        if not self.check_files:
            return {}
        place = {path: index for index, path in enumerate(paths)}

        def seen(path: str, image: np.ndarray) -> None:
            contents[place[path]] = self._look(path, image, facts)

        with progress("checking pictures", len(paths)) as step:
            failures = check_images(paths, max_pixels=self.max_pixels, voi=self.voi, progress=step, seen=seen)
        reason_of = dict(zip(failures["path"], failures["reason"], strict=True))
        return {index: reason_of[path] for index, path in enumerate(paths) if path in reason_of}

    def _leave_out(
        self, part: SampleTable, cache: np.ndarray | None, sizes: np.ndarray | None, reasons: dict[int, str]
    ) -> tuple[SampleTable, np.ndarray | None, np.ndarray | None]:
        if not reasons:
            return part, cache, sizes
        paths = part.frame["path"].tolist()
        left_out = [(paths[index], "read", reason) for index, reason in reasons.items()]
        more = pd.DataFrame(left_out, columns=["path", "stage", "reason"])
        self.errors = pd.concat([self.errors, more], ignore_index=True)
        keep = np.array([index not in reasons for index in range(len(part))])
        return part.select(keep), None if cache is None else cache[keep], None if sizes is None else sizes[keep]


def _threads() -> int:
    return usable_cores() + 1


def unreadable_pictures(part: SampleTable, reasons: dict[int, str]) -> list[Problem]:
    """The problems of rows whose pictures cannot be had.

    Args:
        part: of a table.
        reasons: by place in it, from 0.
    """
    rows = part.frame["row"].tolist()
    advice = "export these pictures again or delete the rows"
    return [Problem("unreadable picture", (rows[index],), reason, advice) for index, reason in sorted(reasons.items())]
