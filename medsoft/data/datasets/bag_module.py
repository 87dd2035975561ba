"""The data module for slides: one bag of encoded tiles a row of the slide table, or one a patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medsoft.data.datasets.bag_dataset import BagAugmentation, BagDataset, collate_bags
from medsoft.data.datasets.bag_index import BagFiles, BagSummary
from medsoft.data.datasets.base import TableDataModule
from medsoft.data.datasets.sampling import BucketBatchSampler, EpochBatchSampler
from medsoft.data.facts.bags import bag_facts, source_facts
from medsoft.data.facts.pictures import Facts
from medsoft.data.features.encoded_folder import encode_settings, features_folder, portable
from medsoft.data.features.provenance import ImageProvenance
from medsoft.data.images.small import small_picture
from medsoft.data.tables.covariates import covariate_names, one_of_each, read_covariates
from medsoft.data.tables.joins import join_clinical
from medsoft.data.tables.problems import TableError
from medsoft.data.tables.reading import load_source, require_columns
from medsoft.data.tables.sample_table import SampleTable
from medsoft.errors import InputError, ReadError, check_range
from medsoft.specs import BagSpec
from medsoft.system.progress import progress

THUMBNAIL_PX = 512


class BagDataModule(TableDataModule[BagDataset]):
    """One bag of encoded tiles a slide, or a patient.

    Args:
        table: CSV, Parquet or Excel (.xlsx, or file.xlsx#Sheet) with one row per slide.
        features: folder with the feature files, which are named after the slides; or one table of all instances (.csv,
            .parquet) with a column bag. If not given, path names the feature files.
        root: folder that relative paths of feature files or slides start from; the table's own folder if not given.
        path: column with the slide's file or name, or with the feature file.
        clinical: CSV, Parquet or Excel with one row per patient, whose columns (such as the label, or covariates) are
            joined to the table by data.patient.
        group: slide makes one bag per slide; patient pools the tiles of all slides of a patient into one bag.
        covariates: numeric columns, such as age, and groups, as in sex=male, that join the bag's features at the head;
            missing values count as the mean.
        batch_size: bags per step; with more than 1, bags of similar length are batched together and padded.
        num_workers: processes that load bags; chosen automatically if not given (none on a CPU).
        cache: memory keeps all bags in memory; auto does so if they fit into cache_gib.
        stream_above: outside training, bags with more tiles than this are read in chunks, so that memory does not grow
            with their size; not for softmax, soft and soft_norm attention, which need all tiles at once.
        cache_gib: limit of the automatic cache in GiB.
        max_tiles: largest number of tiles per bag in training, drawn anew each epoch; all tiles if not given.
        tile_fraction: fraction of its tiles that each bag keeps in training, drawn anew each epoch.
        feature_dropout: probability, in training, that a feature is set to 0 in all tiles of a bag.
        pooled: give one vector a file, in place of its tiles: the file's own pooled vector, else the mean of its tiles.
        draw_views: in training, draw each bag among itself and the augmented views that its file holds, anew each epoch
            (a probe learns from all of them).
        unit: what messages and the report call a row: slide, image, volume, or bag for any other features.
    """

    def __init__(
        self,
        table: str,
        features: str | None = None,
        root: str | None = None,
        path: str = "path",
        clinical: str | None = None,
        group: Literal["slide", "patient"] = "slide",
        covariates: str | list[str] | None = None,
        batch_size: int = 1,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "none"] = "auto",
        stream_above: int = 50_000,
        cache_gib: float = 4.0,
        max_tiles: int | None = None,
        tile_fraction: float = 1.0,
        feature_dropout: float = 0.0,
        pooled: bool = False,
        draw_views: bool = True,
        unit: Literal["slide", "image", "volume", "bag"] = "slide",
        **rows: Any,
    ) -> None:
        super().__init__(table, root=root, batch_size=batch_size, num_workers=num_workers, **rows)
        self.unit, self.group = unit, group
        self.covariate_columns = covariate_names(covariates)
        check_range("data.cache_gib", cache_gib, 0)
        check_range("data.max_tiles", 1 if max_tiles is None else max_tiles, 1)
        _check_share("data.tile_fraction", tile_fraction, low_allowed=False)
        _check_share("data.feature_dropout", feature_dropout, low_allowed=True)
        patient = self._options["patient"]
        if group == "patient" and patient is None:
            raise InputError("data.group patient: name the column with the patient with data.patient")
        check_range("data.stream_above", stream_above, 0)
        if pooled and (max_tiles is not None or tile_fraction < 1):
            raise InputError("data.pooled leaves one vector a bag: leave out data.max_tiles and data.tile_fraction")
        self.pooled, self.draw_views = pooled, draw_views
        self.cache, self.cache_gib, self.stream_above = cache, cache_gib, stream_above
        self.augmentation = BagAugmentation(max_tiles, tile_fraction, feature_dropout)
        folder = features_folder(Path(features)) if features else Path(root or Path(table).parent)
        self.files = BagFiles(
            folder,
            features is not None,
            self.check_files,
            group == "patient",
            slides=Path(root or Path(table).parent) if features is not None else None,
            unit=self.unit,
            pooled=pooled,
        )
        source = load_source(table)
        if group == "patient":  # without which a table for prediction would be one bag
            require_columns(table, source.columns, {"patient": [str(patient)]})
        samples = self._read(
            source=source if clinical is None else join_clinical(source, clinical, patient),
            files=self.files,
            root=folder if folder.is_dir() else folder.parent,
            path=path,
            **({"id": path} if self._options["id"] is None and self.files.in_one_table else {}),
        )
        self._paths_of: dict[str, list[str]] = {}
        for _, row in samples.frame.iterrows():
            self._paths_of.setdefault(row["patient" if group == "patient" else "id"], []).append(row["path"])
        if group == "patient":
            samples = _one_row_a_patient(samples, self.covariate_columns)
        self._take(samples)
        self.notes += self.files.notes
        ids, summaries = self.samples.frame.set_index("path")["id"], self.files.summaries
        self.contents = {id: summaries[path].content for path, id in ids.items() if path in summaries}
        self._summaries = {path: self.files.summaries[path] for paths in self._paths_of.values() for path in paths}

    @property
    def spec(self) -> BagSpec:
        """What the model must know of the bags; class counts are those of the training part (else of all rows)."""
        summary = next(iter(self._summaries.values()))
        identity = asdict(summary.identity)
        return BagSpec(
            self.task,
            self.class_counts,
            self._width(summary),
            self._have_coordinates,
            identity,
            summary.slides,
            self.target_scale,
            summary.frame or "um",
            self._images(summary),
            self.event_times,
            self.covariates,
            self.group,
        )

    def _images(self, summary: BagSummary) -> dict[str, Any] | None:
        """How images became features, and what encodes others alike, where their folder says it."""
        if summary.images is None:
            return None
        settings = encode_settings(self.files.folder)
        return summary.images | {"encode": None if settings is None else portable(settings)}

    def _width(self, summary: BagSummary) -> int:
        """Features of what a bag is given as."""
        own = summary.num_pooled if self.pooled else None
        return summary.num_features if own is None else own

    @property
    def note(self) -> str:
        """What every picture must say of the data: whether it is phantoms."""
        return "phantom slides, no patients" if "phantom" in self.samples.frame else ""

    @property
    def eval_batch_size(self) -> int:
        """One: the answer about a bag then does not depend on its neighbours, not even in the last bit."""
        return 1

    @property
    def _have_coordinates(self) -> bool:
        if self.pooled:
            return False
        one_slide_a_bag = all(len(paths) == 1 for paths in self._paths_of.values())
        frames = {summary.frame for summary in self._summaries.values()}
        return one_slide_a_bag and "" not in frames and len(frames) == 1

    def load(self, splits: list[str]) -> None:
        """Make these parts ready; bags are read now where they fit into the cache.

        Raises:
            RunError: a file has changed since it was checked.
        """
        parts = {split: self.samples.subset(split) for split in splits}
        parts = {split: part for split, part in parts.items() if len(part)}
        files = {split: [self._paths_of[id] for id in part.frame["id"]] for split, part in parts.items()}
        streamed = {split: self._streamed(split, bags) for split, bags in files.items()}
        kept = [
            path
            for split, bags in files.items()
            for paths, pieces in zip(bags, streamed[split], strict=True)
            for path in ([] if pieces else paths)
        ]
        size = sum(self._size(self._summaries[path]) for path in kept)
        in_memory = self.cache == "memory" or (self.cache == "auto" and size <= self.cache_gib * 2**30)
        for split, part in parts.items():
            with progress("reading bags"):
                dataset = BagDataset(
                    files[split],
                    part.targets,
                    self.augmentation,
                    self.seed,
                    self._have_coordinates,
                    in_memory,
                    streamed[split],
                    self.pooled,
                    self._draws_views(split, files[split]),
                    self.covariates_of(part),
                )
            self._parts[split] = (part, dataset)

    def _size(self, summary: BagSummary) -> int:
        """Bytes of a file's features in memory."""
        versions = 1 + (summary.num_views if self.stage == "fit" and self.draw_views else 0)
        return versions * (1 if self.pooled else summary.num_tiles) * self._width(summary) * 4

    def _draws_views(self, split: str, bags: Sequence[Sequence[str]]) -> bool:
        there = any(self._summaries[path].num_views for paths in bags for path in paths)
        return there and self.draw_views and self.stage == "fit" and split == "train"

    def _facts_of_files(self, split: str) -> list[Facts]:
        found = []
        for id in self.part(split).frame["id"]:
            summaries = [self._summaries[path] for path in self._paths_of[id]]
            facts = bag_facts([one.num_tiles for one in summaries], [one.facts for one in summaries])
            sources = [self.files.sources[path] for path in self._paths_of[id] if path in self.files.sources]
            found.append(facts | (source_facts(sources[0]) if len(sources) == 1 else {}))
        return found

    def _streamed(self, split: str, bags: Sequence[Sequence[str]]) -> list[bool]:
        """Which bags of a part are read in pieces: none that the training learns from."""
        if self.pooled or (self.stage == "fit" and split == "train"):
            return [False] * len(bags)
        return [sum(self._summaries[path].num_tiles for path in paths) > self.stream_above for paths in bags]

    def thumbnail(self, id: str) -> np.ndarray | None:
        """The picture that a bag's features were made from, small; None of slides, volumes, and where it is gone."""
        file = self.file_of(id)
        facts = None if file is None else self._summaries[file].facts
        if file is None or not isinstance(facts, ImageProvenance) or len(facts.size) != 2:
            return None
        source = self.files.sources.get(file)
        try:
            return None if source is None else small_picture(source, THUMBNAIL_PX)
        except (ReadError, ValueError):
            return None

    def file_of(self, id: str) -> str | None:
        """The feature file of a bag; None where it has several."""
        paths = self._paths_of[id]
        return paths[0] if len(paths) == 1 else None

    def _order(self, part: SampleTable, dataset: BagDataset, weights: np.ndarray | None) -> EpochBatchSampler:
        if self.batch_size == 1:
            return super()._order(part, dataset, weights)
        lengths = [sum(self._summaries[path].num_tiles for path in self._paths_of[id]) for id in part.frame["id"]]
        kept = np.array([self.augmentation.tiles_kept(length) for length in lengths])
        return BucketBatchSampler(kept, self.batch_size, self.seed, weights, self._start)

    def _default_workers(self) -> int:
        cached = all(dataset.cache is not None for _, dataset in self._parts.values())
        # Each process holds bags, of which one can be gigabytes: two are enough to keep a GPU from waiting.
        return 2 if torch.cuda.is_available() and not cached else 0

    def _loader_options(self) -> dict[str, Any]:
        return super()._loader_options() | {"collate_fn": collate_bags}


def _check_share(name: str, value: float, low_allowed: bool) -> None:
    check_range(name, value, 0, 1)
    if value == 0 and not low_allowed:
        raise InputError(f"{name} 0 leaves nothing of a bag")
    if value == 1 and low_allowed:
        raise InputError(f"{name} 1 leaves nothing of a tile")


def _one_row_a_patient(samples: SampleTable, covariates: Sequence[str]) -> SampleTable:
    """The first row of each patient, named by the patient; all its slides bear the same label and split.

    Raises:
        TableError: a patient's slides have different covariates.
    """
    frame = samples.frame
    if covariates:
        rows = frame["row"].tolist()
        values, problems = one_of_each(
            read_covariates(samples, covariates), frame["patient"].tolist(), covariates, rows
        )
        if problems:
            raise TableError(str(samples.source), problems)
        frame = frame.assign(**dict(zip(covariates, values.T, strict=True)))
    first = frame.drop_duplicates("patient").reset_index(drop=True)
    return replace(samples, frame=first.assign(id=first["patient"], exam=""))
