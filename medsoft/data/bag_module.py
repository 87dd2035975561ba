"""The data module for slides: one bag of encoded tiles a row of the slide table, or one a patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medsoft.data.bag_dataset import BagAugmentation, BagDataset, collate_bags
from medsoft.data.bag_files import BagFiles
from medsoft.data.clinical import join_clinical
from medsoft.data.sampling import BucketBatchSampler, EpochBatchSampler
from medsoft.data.source import load_source
from medsoft.data.table import SampleTable, read_table
from medsoft.data.table_module import Stage, TableDataModule
from medsoft.errors import InputError, check_range
from medsoft.task import BagSpec, TaskKind


class BagDataModule(TableDataModule[BagDataset]):
    """One bag of encoded tiles a slide, or a patient.

    Args:
        table: CSV or Parquet with one row a slide.
        features: folder with the feature files, which bear the names of the slides; if not given, path names them.
        root: folder that relative paths start from where path names feature files; else the table's own folder.
        path: column with the slide file, its name, or the feature file.
        label: column with the label, or several, separated by commas, for multilabel.
        task: binary, multiclass, multilabel, ordinal or regression; needed where labels are numbers.
        positive: label values that make the positive class of a binary question, such as 2,3,4.
        classes: names of the classes in order (a list, or with commas between); other labels are an error.
        patient: column with the patient; the split keeps each patient in one part.
        site: column with the site, for the counts.
        exam: column that groups rows read together, carried into the predictions.
        id: column with a key for each row; made from the name of the feature file if not given.
        split: column with train, val and test; without it fit makes a split.
        rename_splits: other names in the split column, such as {val: test}.
        splits_from: CSV with id and split that overrides the table's, such as the split.csv of a run.
        clinical: CSV or Parquet with one row a patient, whose columns (the label) are joined by data.patient.
        group: slide for a bag a slide; patient to pool the tiles of all slides of a patient into one bag.
        val_fraction: share of all rows for validation, or of the training rows where the table has a split without.
        test_fraction: share of the rows for the test where the table has no split at all.
        batch_size: bags a step; with more than 1, bags of similar length meet and are padded.
        num_workers: processes that load bags; chosen by itself if not given (none on a CPU).
        cache: memory keeps all bags in memory; auto does so while they fit into cache_gib.
        stream_above: outside of training, bags with more tiles are read from their files in pieces, so that memory does
            not grow with them; not with softmax, soft and soft_norm attention, which need all tiles at once.
        cache_gib: limit of the automatic cache in GiB.
        balanced_sampling: draw training bags so that classes come equally often (not for multilabel).
        max_tiles: in training, cut longer bags to as many tiles, drawn anew each epoch; all tiles if not given.
        tile_fraction: in training, share of its tiles that each bag keeps, drawn anew each epoch.
        feature_dropout: in training, chance of each feature to be set to 0 in all tiles of a bag.
        on_error: error refuses to start with bad rows or files; skip lists them in errors.csv and goes on.
        check_files: read every feature file to its end before work starts.
        stage: what the table is for; set by the verb. Only fit makes a split, only predict takes rows without labels.
        seed: of split, order and augmentation; seed_everything if not given.
    """

    unit = "slide"

    def __init__(
        self,
        table: str,
        features: str | None = None,
        root: str | None = None,
        path: str = "path",
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
        clinical: str | None = None,
        group: Literal["slide", "patient"] = "slide",
        val_fraction: float = 0.15,
        test_fraction: float = 0.2,
        batch_size: int = 1,
        num_workers: int | None = None,
        cache: Literal["auto", "memory", "none"] = "auto",
        stream_above: int = 50_000,
        cache_gib: float = 4.0,
        balanced_sampling: bool = False,
        max_tiles: int | None = None,
        tile_fraction: float = 1.0,
        feature_dropout: float = 0.0,
        on_error: Literal["error", "skip"] = "error",
        check_files: bool = True,
        stage: Stage = "fit",
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, balanced_sampling, stage, seed)
        check_range("data.cache_gib", cache_gib, 0)
        check_range("data.max_tiles", 1 if max_tiles is None else max_tiles, 1)
        _check_share("data.tile_fraction", tile_fraction, low_allowed=False)
        _check_share("data.feature_dropout", feature_dropout, low_allowed=True)
        if group == "patient" and patient is None:
            raise InputError("data.group patient: name the column with the patient with data.patient")
        check_range("data.stream_above", stream_above, 0)
        self.cache, self.cache_gib, self.stream_above = cache, cache_gib, stream_above
        self.augmentation = BagAugmentation(max_tiles, tile_fraction, feature_dropout)
        folder = Path(features or root or Path(table).parent)
        self.files = BagFiles(folder, features is not None, check_files, group == "patient")
        source = load_source(table)
        samples = read_table(
            table,
            source=source if clinical is None else join_clinical(source, clinical, patient),
            files=self.files,
            root=folder,
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
            require_labels=stage != "predict",
            on_error=on_error,
        )
        self._paths_of: dict[str, list[str]] = {}
        for _, row in samples.frame.iterrows():
            self._paths_of.setdefault(row["patient" if group == "patient" else "id"], []).append(row["path"])
        if group == "patient":
            samples = _one_row_a_patient(samples)
        self._take(samples, splits_from, val_fraction, test_fraction)
        self._summaries = {path: self.files.summaries[path] for paths in self._paths_of.values() for path in paths}

    @property
    def spec(self) -> BagSpec:
        """What the model must know of the bags; class counts are those of the training part (else of all rows)."""
        summary = next(iter(self._summaries.values()))
        identity = asdict(summary.identity)
        return BagSpec(
            self.task,
            self.class_counts,
            summary.num_features,
            self._have_places,
            identity,
            summary.slides,
            self.target_scale,
        )

    @property
    def note(self) -> str:
        """What every picture must say of the data: whether it is phantoms."""
        return "phantom slides, no patients" if "phantom" in self.samples.frame else ""

    @property
    def eval_batch_size(self) -> int:
        """One: the answer about a bag then does not depend on its neighbours, not even in the last bit."""
        return 1

    @property
    def _have_places(self) -> bool:
        one_slide_a_bag = all(len(paths) == 1 for paths in self._paths_of.values())
        return one_slide_a_bag and all(summary.has_places for summary in self._summaries.values())

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
        size = sum(self._summaries[path].num_tiles * self._summaries[path].num_features * 4 for path in kept)
        in_memory = self.cache == "memory" or (self.cache == "auto" and size <= self.cache_gib * 2**30)
        for split, part in parts.items():
            dataset = BagDataset(
                files[split],
                part.targets,
                self.augmentation,
                self.seed,
                self._have_places,
                in_memory,
                streamed[split],
            )
            self._parts[split] = (part, dataset)

    def _streamed(self, split: str, bags: Sequence[Sequence[str]]) -> list[bool]:
        """Which bags of a part are read in pieces: none that the training learns from."""
        if self.stage == "fit" and split == "train":
            return [False] * len(bags)
        return [sum(self._summaries[path].num_tiles for path in paths) > self.stream_above for paths in bags]

    def thumbnail(self, id: str) -> np.ndarray | None:
        """None: a bag has no picture."""
        return None

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


def _one_row_a_patient(samples: SampleTable) -> SampleTable:
    """The first row of each patient, named by the patient; all its slides bear the same label and split."""
    first = samples.frame.drop_duplicates("patient").reset_index(drop=True)
    return replace(samples, frame=first.assign(id=first["patient"], exam=""))
