"""The images of a pretraining: rows of a table or files of a folder, without labels, some of them held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.datasets.image_dataset import ImageDataset
from medsoft.data.datasets.image_module import ImageDataModule
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.tables.duplicates import Content
from medsoft.data.tables.reading import load_source, require_columns
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.tables.split import apply_split_file, split_holdout
from medsoft.data.transforms.base import Transforms
from medsoft.errors import InputError
from medsoft.pretraining.options import ImageOptions
from medsoft.pretraining.views import AugmentedImages
from medsoft.registry import DEFAULTS, find_class
from medsoft.storage.walk import passed_in_words, walk

PICTURES = (".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".avif", ".tif", ".tiff", ".dcm")
"""Suffixes of what is taken from a folder."""
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
LEAST_HELD_OUT = 2
"""Held-out images: with one alone there are no neighbours."""


def make_transforms(options: ImageOptions) -> Transforms:
    """The transforms of the modality, for square images.

    Args:
        options: resolved.

    Raises:
        InputError: there are none of this name, or they do not take the settings.
    """
    name = options.transforms or DEFAULTS["transforms"]
    recipe_class: type[Transforms] = find_class("transforms", name, Transforms, trusted=False)
    try:
        return recipe_class(size=options.px, **(options.transforms_args or {}))
    except TypeError as error:
        raise InputError(f"--transforms-args: {name} does not take these settings: {error}") from None


class UnlabelledImages(ImageDataModule):
    """Images of a table or a folder, without their labels: those that are learnt from, and those held out.

    Args:
        options: which images.
        transforms: of the modality.
        batch_size: images a step.
        num_workers: processes that load; None: chosen.
        seed: of held-out images, order and augmentation.
        dataset: what is made of an image: a view of it, or several.

    Attributes:
        left_out: how many images of each excluded part were left out.

    Raises:
        InputError: no such table or folder, nothing in it to learn from, or volumes.
        TableError: rows are wrong in a way that concerns others.
    """

    def __init__(
        self,
        options: ImageOptions,
        transforms: Transforms,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        dataset: type[AugmentedImages],
        **dataset_options: Any,
    ) -> None:
        assert options.table is not None
        self._chosen = options
        self._dataset, self._dataset_options = dataset, dataset_options
        self.left_out: dict[str, int] = {}
        super().__init__(
            transforms,
            options.table,
            path=options.path,
            batch_size=batch_size,
            num_workers=num_workers,
            cache_gib=options.cache_gib,
            max_pixels=options.max_pixels,
            root=options.root,
            patient=options.patient,
            id=options.id,
            split=options.split,
            rename_splits=options.rename_splits,
            on_error="skip",
            seed=seed,
        )

    def _read(self, **own: Any) -> SampleTable:
        options, place = self._chosen, Path(self._table)
        root, path, splits = options.root, options.path, options.split
        if place.is_dir():
            source, root = files_of(place), root or str(place)
            path, splits = "path", "split"
        else:
            source = load_source(place)
        if options.patient is not None:
            require_columns(place, source.columns, {"patient": [options.patient]})
        return read_table(
            place,
            source=source,
            root=root,
            path=path,
            label=None,
            patient=options.patient,
            id=options.id,
            split=splits,
            rename_splits=options.rename_splits,
            require_labels=False,
            on_error="skip",
        )

    def _take(self, samples: SampleTable) -> None:
        """Leave out the excluded parts, and hold some images out."""
        options = self._chosen
        volumes = [path for path in samples.frame["path"] if path.lower().partition("#")[0].endswith(VOLUMES)]
        if volumes:
            raise InputError(
                f"{samples.source}: {len(volumes)} rows name volumes: medsoft pretrain learns from images. Export "
                "slices as images to pretrain on them"
            )
        self.notes, self.errors = list(samples.notes), samples.dropped
        if options.splits_from:
            samples = apply_split_file(samples, options.splits_from)
        samples = self._without_excluded(samples)
        if "val" not in samples.splits:
            shares = {"train": 1 - options.val_fraction, "val": options.val_fraction}
            parts = split_holdout(np.zeros(len(samples), int), samples.groups, shares, self.seed)
            samples = samples.with_split(parts)
            by = "" if samples.grouped_by == "sample" else f" by {samples.grouped_by}"
            self.notes.append(f"{(parts == 'val').sum()} of {len(parts)} images are held out{by}, seed {self.seed}")
        else:
            samples = samples.with_split(samples.frame["split"].replace("", "train").to_numpy(dtype=object))
            self.notes.append(f"held out: the val part, {len(samples.subset('val'))} of {len(samples)} images")
        self.samples = samples
        self.table_splits = dict(zip(samples.frame["id"], samples.frame["split"], strict=True))
        if "train" not in samples.splits:
            raise InputError(f"{samples.source}: no image is left to learn from: all are held out or left out")

    def _without_excluded(self, samples: SampleTable) -> SampleTable:
        excluded = self._chosen.excluded
        counts = samples.frame["split"].value_counts()
        self.left_out = {part: int(counts[part]) for part in excluded if part in counts}
        if self.left_out:
            said = ", ".join(f"{n} of the part {part}" for part, n in self.left_out.items())
            self.notes.append(f"left out, so that evaluation stays honest: {said} (--exclude)")
            samples = samples.select(~samples.frame["split"].isin(excluded).to_numpy())
        elif not samples.has_split:
            self.notes.append(
                "there is no split: all images are used. Those of a later test part should not be: leave them out with "
                "a column split, or with --splits-from"
            )
        if not len(samples):
            raise InputError(f"{samples.source}: no image is left to learn from: --exclude leaves out all")
        return samples

    def load(self, splits: Sequence[str] = ("train", "val")) -> None:
        """Read every image, so that a bad file is known before work starts; unreadable ones go to ``errors``.

        A held-out image with the pixels of one that is learnt from is left out too.

        Raises:
            InputError: too few images can be read.
        """
        facts = PixelFacts()
        in_memory = self._fits_in_memory(len(self.samples))
        learnt: set[str] = set()
        first = ""
        for split in splits:
            part = self.samples.subset(split)
            paths = part.frame["path"].tolist()
            found: list[Content | None] = [None] * len(paths)
            cache, sizes, reasons = (
                self._read_all(paths, found, facts) if in_memory else (None, None, self._check_all(paths, found, facts))
            )
            first = first or next(iter(reasons.values()), "")
            if split == "train":
                learnt = {content.exact for content in found if content}
            else:
                same = "has the pixels of an image that is learnt from, and cannot be held out"
                reasons |= {i: same for i, content in enumerate(found) if content and content.exact in learnt}
            ids = part.frame["id"].tolist()
            self.contents |= {
                id: content.exact
                for i, (id, content) in enumerate(zip(ids, found, strict=True))
                if content and i not in reasons
            }
            part, cache, sizes = self._leave_out(part, cache, sizes, reasons)
            nothing = np.zeros(len(part), np.int64)
            dataset: ImageDataset = self._dataset(
                part.frame["path"].tolist(),
                nothing,
                self.transforms,
                self.seed,
                self.max_pixels,
                cache,
                **self._dataset_options,
            )
            self._parts[split] = (part, dataset)
        self._check_numbers(first)
        if note := self.depth_note(facts):
            self.notes.append(note)

    def _check_numbers(self, reason: str) -> None:
        n_train, n_val = (len(self.part(split)) for split in ("train", "val"))
        source = self.samples.source
        if not n_train:
            raise InputError(f"{source}: no image can be read; the first {reason}")
        if n_train < self.batch_size:
            raise InputError(
                f"{source}: {n_train} images are left to learn from, fewer than a batch of {self.batch_size}: lower "
                "--batch-size, or add images"
            )
        if n_val < LEAST_HELD_OUT:
            why = f"; the first {reason}" if reason else ""
            raise InputError(
                f"{source}: {n_val} held-out images are too few to measure the result{why}: raise --val-fraction"
            )

    def seen(self) -> pd.DataFrame:
        """Every image that the network was shown: ``id``, ``part`` and ``content``, the hash of its pixels."""
        frames = [self.part(split).frame[["id"]].assign(part=split) for split in ("train", "val")]
        seen = pd.concat(frames, ignore_index=True)
        return seen.assign(content=seen["id"].map(self.contents))


def files_of(folder: Path) -> pd.DataFrame:
    """A table of the images in a folder and below it: ``path``, relative to the folder.

    Raises:
        InputError: there is none, or a folder below cannot be opened.
    """
    found = walk(folder)
    found.keep(lambda path: path.suffix.lower() in PICTURES)
    if found.problems:
        path, reason = found.problems[0]
        raise InputError(f"{path}: {reason}")
    if not found.files:
        raise InputError(f"{folder}: no images in this folder ({' '.join(PICTURES)})")
    frame = pd.DataFrame({"path": [str(file.relative_to(folder)) for file in found.files]})
    if line := passed_in_words(found.passed):
        frame.attrs["notes"] = [line]
    return frame
