"""What the data modules of images and of bags have in common: the parts of a sample table, and their loaders."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from medsoft.data.datasets.sampling import EpochBatchSampler, rows_of_process
from medsoft.data.facts.pictures import Facts
from medsoft.data.facts.table import facts_table
from medsoft.data.tables.covariates import read_covariates, require_known, scaled_by
from medsoft.data.tables.duplicates import Content, duplicate_problems, nearly_same, notes_on_near
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.sample_table import SampleTable, read_table, targets_of_rows
from medsoft.data.tables.split import UNUSED, apply_split_file, complete_splits
from medsoft.data.tables.targets import label_options
from medsoft.data.tables.values import Placeholder
from medsoft.data.transforms.views import AS_IT_IS, AnyView
from medsoft.errors import InputError, check_range
from medsoft.specs import Covariates
from medsoft.system.loader_processes import begin_loader_process
from medsoft.task import Task, TaskKind, task_class

Stage = Literal["fit", "validate", "test", "predict", "crossval"]
SPLIT_OF_STAGE: dict[str, str] = {"validate": "val", "test": "test", "predict": "", "crossval": ""}

SampleDataset = TypeVar("SampleDataset", bound=Dataset[dict[str, Tensor]])


class TableDataModule(LightningDataModule, Generic[SampleDataset]):
    """Parts of a sample table, shuffled in training and in the table's order otherwise.

    A subclass reads its table, hands it to ``_take``, and fills ``_parts`` in ``load``.

    Args:
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        root: Folder that paths in the table are relative to; the table's own folder if not given.
        label: column with the label, or several, separated by commas, for a multilabel task.
        time: column with the time until the event, or until a patient was last seen, of a survival task.
        event: column that says whether the event happened (1) or the patient was last seen without it (0).
        time_unit: unit of data.time: days, months or years.
        times: times, in this unit, at which survival is stated; by default quartiles of the training part's events.
        task: Kind of task, such as binary or regression; needed if the labels are numbers.
        targets: several targets at once, by name the kind of task, or label, task, positive, classes and weight, as in
            {MSI: {task: binary, positive: MSI-H}, age: regression}; where a label is missing, its target is left out.
        positive: label values that count as the positive class of a binary task, such as 2,3,4; values of data.event
            that mean that it happened.
        classes: names of the classes in order (a list, or separated by commas); any other label is an error.
        patient: column with the patient; the split keeps each patient in one part.
        site: column with the site, for the counts per site.
        exam: column that groups rows read together; it is copied into the predictions.
        id: Column with a unique id for each row; taken from the name of the row's file if not given.
        split: column with train, val and test; fit makes a split if the table has no such column.
        rename_splits: what other names in the split column stand for, such as {val: test}.
        splits_from: CSV with id and split that overrides the table's, such as the split.csv of a run.
        val_fraction: fraction of all rows for validation, or of the training rows if the table has a split without a
            validation part.
        test_fraction: fraction of the rows for the test part, if the table has no split.
        batch_size: samples per step.
        num_workers: processes that load samples; the subclass chooses if not given.
        balanced_sampling: draw training samples so that all classes occur equally often (not for multilabel).
        on_error: error refuses to start if files are unreadable or rows are bad; skip lists them in errors.csv and
            continues.
        check_files: Read every file before work starts, unless the samples are cached anyway.
        placeholders: how to read words such as N/A, ? or unknown in labels, patients, exams, sites and covariates:
            missing or value, for all words or for each word, such as {N/A: missing, none: value}; such words are an
            error if this is not given.
        stage: what the table is for; set by the verb. Only fit makes a split, only predict takes rows without labels.
        seed: of split, order and augmentation; seed_everything if not given.

    Attributes:
        samples: the table, with the splits that the stage needs.
        contents: by id, a hash of what is in each sample that was read (``medsoft.storage.fingerprints``), for
            the parts that were loaded.
        table_splits: by id, the split that the table itself names.
        set_aside: the rows that ``splits_from`` leaves out, with the columns of ``samples.frame``.
        keeps_facts: whether ``load`` takes note of trivial facts of each sample, for ``facts``; set before ``load``.
    """

    samples: SampleTable
    contents: dict[str, str]
    covariate_columns: tuple[str, ...] = ()
    keeps_facts = False
    reads_masks = False
    reads_boxes = False
    unit = "sample"
    """What a row is, in the report's words."""
    element = "pixel"
    """What a mask has a class of."""

    def __init__(
        self,
        table: str,
        root: str | None = None,
        label: str | list[str] = "label",
        time: str | None = None,
        event: str | None = None,
        time_unit: Literal["days", "months", "years"] | None = None,
        times: str | list[float] | None = None,
        task: TaskKind | None = None,
        targets: dict[str, Any] | None = None,
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
        batch_size: int = 1,
        num_workers: int | None = None,
        balanced_sampling: bool = False,
        on_error: Literal["error", "skip"] = "error",
        check_files: bool = True,
        placeholders: Placeholder | dict[str, Placeholder] | None = None,
        stage: Stage = "fit",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if task is not None and task_class(task).has_masks and not self.reads_masks:
            raise InputError(f"data.task {task} learns masks, which --config {task} reads")
        if task is not None and task_class(task).has_boxes and not self.reads_boxes:
            raise InputError(f"data.task {task} learns boxes, which --config {task} reads")
        check_range("data.batch_size", batch_size, 1)
        check_range("data.num_workers", num_workers or 0, 0)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.balanced_sampling = balanced_sampling
        self.on_error, self.check_files = on_error, check_files
        self.stage, self.seed = stage, seed
        self._table = table
        asked = {"task": task, "positive": positive, "classes": classes, "time_unit": time_unit, "times": times}
        self._options: dict[str, Any] = label_options(label, time, event, targets, **asked) | {
            "root": root,
            "patient": patient,
            "site": site,
            "exam": exam,
            "id": id,
            "split": split,
            "rename_splits": rename_splits,
            "placeholders": placeholders,
        }
        self._splits = (splits_from, val_fraction, test_fraction)
        self._start = (0, 0)
        self._rank, self._processes = 0, 1
        self._parts: dict[str, tuple[SampleTable, SampleDataset]] = {}
        self.contents: dict[str, str] = {}
        self.table_splits: dict[str, str] = {}
        self.set_aside = pd.DataFrame()

    def _read(self, **own: Any) -> SampleTable:
        """The table, read with the shared options and a subclass's ``own`` (see ``read_table``)."""
        options = self._options | own
        return read_table(self._table, **options, require_labels=self.stage != "predict", on_error=self.on_error)

    def _take(self, samples: SampleTable) -> None:
        """Accept the table that was read, with the splits that the stage needs."""
        splits_from, val_fraction, test_fraction = self._splits
        if samples.task is None:
            own = ("id", "path", "row", "patient", "exam", "site", "split")
            others = [str(column) for column in samples.frame if column not in own]
            there = f" (there are {', '.join(others)})" if others else ""
            raise InputError(
                f"{samples.source}: no labels were found: name their column with data.label{there}; or, to go on "
                "without labels, the question with data.task and data.classes"
            )
        self.samples = samples
        self.table_splits = dict(zip(samples.frame["id"], samples.frame["split"], strict=True))
        self.notes = list(samples.notes)
        self.errors = samples.dropped
        if splits_from:
            self.samples = apply_split_file(self.samples, Path(splits_from))
            unused = ~samples.frame["id"].isin(self.samples.frame["id"])
            self.set_aside = samples.frame[unused].assign(split=UNUSED)
            if len(self.set_aside):
                self.notes.append(f"rows left out as {splits_from} calls them {UNUSED}: {len(self.set_aside)}")
        if self.stage == "fit":
            self.samples, done = complete_splits(self.samples, val_fraction, test_fraction, self.seed, splits_from)
            self.notes.append(done)
            self._settle(self.samples.subset("train"))
            if "val" not in self.samples.splits:
                raise InputError("data.val_fraction: fit chooses its checkpoint on a validation part; give it a share")
            if self.balanced_sampling:
                self.task.sampling_weights(self.samples.subset("train").targets)  # raises where there are none
            self.notes += [note for part in ("val", "test") for note in self._notes_on(part)]
        elif self.stage == "crossval":
            self._settle(self.samples)
        if self.stage != "fit" and not self.samples.has_split:
            self.samples = self.samples.with_split(SPLIT_OF_STAGE[self.stage])

    def _settle(self, part: SampleTable) -> None:
        """Let the part that is learnt from decide what is still open of the question."""
        self.samples = replace(self.samples, task=self.task.settled(part.targets))

    def _notes_on(self, split: str) -> list[str]:
        part = self.samples.subset(split)
        return self.task.part_notes(part.frame, split) if len(part) else []

    def _twice(
        self, parts: dict[str, SampleTable], contents: dict[str, list[Content | None]], problems: list[Problem]
    ) -> dict[str, dict[int, str]]:
        """Look for samples of the same content in all parts that were read.

        Args:
            parts: by split.
            contents: of their rows; None where nothing was read.
            problems: found before, which are told too where the work stops; rows that are left out are added.

        Returns:
            By split, rows that ``on_error`` ``skip`` leaves out, with reasons.

        Raises:
            TableError: rows have the same content, and are not left out; or have two labels.
        """
        if not parts:
            return {}
        frames = pd.concat([part.frame for part in parts.values()], ignore_index=True)
        of_row = [content for found in contents.values() for content in found]
        split_of = [split for split, part in parts.items() for _ in range(len(part))]
        rows, ids = frames["row"].tolist(), frames["id"].tolist()
        self.contents |= {id: content.exact for id, content in zip(ids, of_row, strict=True) if content}
        keys = [content.exact if content else "" for content in of_row]
        found = duplicate_problems(
            keys, rows, targets_of_rows(frames[self.task.target_columns]), frames["path"].tolist()
        )
        self.notes += notes_on_near(nearly_same(of_row, split_of), rows, split_of)
        skipped = {problem.rows[0]: f"{problem.kind}: {problem.message}" for problem in found if problem.skippable}
        skipped = skipped if self.on_error == "skip" else {}
        if stopping := [problem for problem in found if problem.rows[0] not in skipped or not problem.skippable]:
            also = problems if self.on_error == "error" else []
            raise TableError(str(self.samples.source), [*also, *stopping])
        problems += found
        return {
            split: {i: skipped[row] for i, row in enumerate(part.frame["row"]) if row in skipped}
            for split, part in parts.items()
        }

    @property
    def all_rows(self) -> pd.DataFrame:
        """The table's rows, those set aside at the end: what a run must know to find them neither missing nor new."""
        return pd.concat([self.samples.frame, self.set_aside], ignore_index=True)

    @abstractmethod
    def load(self, splits: list[str]) -> None:
        """Make these parts ready, so that what cannot be read is known before work starts."""

    @abstractmethod
    def thumbnail(self, id: str) -> np.ndarray | None:
        """A picture of a loaded sample, (H, W, C) uint8; None where there is none."""

    @abstractmethod
    def _default_workers(self) -> int:
        """Processes that load samples where the user has not said how many."""

    @property
    @abstractmethod
    def note(self) -> str:
        """What every picture must say of the data, such as that it is phantoms; "" for nothing."""

    @property
    def task(self) -> Task:
        """The question, with the classes' names in order."""
        assert self.samples.task is not None
        return self.samples.task

    @property
    def class_counts(self) -> np.ndarray:
        """As ``Task.class_counts``, of the training part (else of all rows)."""
        train = self.samples.subset("train") if self.stage == "fit" else self.samples
        return self.task.class_counts(train.targets)

    @property
    def target_scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation of a regression's training targets; None for classes, and outside of fit.

        A trained model brings its own.
        """
        return self.task.target_scale(self.samples.subset("train").targets) if self.stage == "fit" else None

    @property
    def event_times(self) -> np.ndarray | None:
        """Times of events that are learnt from, rising, of a survival task; None of others, and for prediction.

        Before a table is divided into folds they are those of all of it.
        """
        if self.stage not in ("fit", "crossval"):
            return None
        part = self.samples.subset("train") if self.stage == "fit" else self.samples
        return self.task.event_times(part.targets)

    @property
    def covariates(self) -> Covariates | None:
        """Clinical covariates with the training part's scale; without it outside of fit, where a checkpoint brings it.

        Raises:
            InputError: a column does not exist, holds other things than numbers, is constant, or is missing in a whole
                part.
        """
        if not self.covariate_columns or self.stage == "fit":
            return self.covariates_in(self.samples.frame["split"].to_numpy())
        read_covariates(self.samples, self.covariate_columns)
        return Covariates(self.covariate_columns, None)

    def covariates_in(self, split_N: np.ndarray) -> Covariates | None:
        """Clinical covariates with the scale of the training part of a split; None without any.

        Args:
            split_N: the part of each row.

        Raises:
            InputError: as ``covariates``.
        """
        if not self.covariate_columns:
            return None
        values_NK = read_covariates(self.samples, self.covariate_columns)
        require_known(values_NK, self.covariate_columns, split_N)
        return scaled_by(values_NK[split_N == "train"], self.covariate_columns)

    def covariates_of(self, part: SampleTable) -> np.ndarray | None:
        """Values of a part's rows, (N, K) float32, NaN where missing; None without covariates."""
        return read_covariates(part, self.covariate_columns) if self.covariate_columns else None

    def of_target(self, name: str) -> Self:
        """The same samples, loaded as they are, with one of several targets."""
        one = copy.copy(self)
        one.samples = self.samples.of_target(name)
        one._parts = {split: (part.of_target(name), dataset) for split, (part, dataset) in self._parts.items()}
        return one

    def facts(self, split: str) -> pd.DataFrame:
        """Trivial facts of a loaded part, by which a shortcut could be taken; see ``medsoft.data.facts``."""
        part = self.part(split)
        values_NK = self.covariates_of(part)
        covariates = {} if values_NK is None else dict(zip(self.covariate_columns, values_NK.T, strict=True))
        return facts_table(part, self._facts_of_files(split), covariates, self.label_columns)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of ``data.label``."""
        label = self._options["label"]  # of a survival task the columns of time and event
        return tuple(word.strip() for word in label.split(",")) if isinstance(label, str) else tuple(label or ())

    def _facts_of_files(self, split: str) -> list[Facts]:
        """Facts of the files of a loaded part, a row each."""
        return [{} for _ in range(len(self.part(split)))]

    @property
    def eval_batch_size(self) -> int:
        """Samples a batch in ``split_dataloader``."""
        return self.batch_size

    @property
    def views(self) -> tuple[AnyView, ...]:
        """Mirrored and turned views of a sample that keep its label; the sample as it is first, and often alone."""
        return (AS_IT_IS,)

    @property
    def loaded_splits(self) -> list[str]:
        """Names of the parts that are loaded and not empty."""
        return list(self._parts)

    def part(self, split: str) -> SampleTable:
        """A loaded part, its rows in the order of its loader."""
        return self._parts[split][0]

    def dataset(self, split: str) -> SampleDataset:
        """A loaded part's data set, its samples in the order of ``part``."""
        return self._parts[split][1]

    def divide(self, rank: int, processes: int) -> None:
        """Let the loaders give this process, one of several, its share.

        Of a training batch that is a part; ``split_dataloader`` gives some of the batches, in which a row may come
        again that another batch or process has too.
        """
        self._rank, self._processes = rank, processes

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented; see ``medsoft.data.datasets.sampling``."""
        part, dataset = self._parts["train"]
        weights = None
        if self.balanced_sampling:
            weights = self.task.sampling_weights(part.targets)
        order = self._order(part, dataset, weights)
        order.divide(self._rank, self._processes)
        return DataLoader(dataset, batch_sampler=order, **self._loader_options())

    def _order(self, part: SampleTable, dataset: SampleDataset, weights: np.ndarray | None) -> EpochBatchSampler:
        return EpochBatchSampler(len(part), self.batch_size, self.seed, weights, self._start)

    def state_dict(self) -> dict[str, int]:
        """Where a resumed run goes on: the epoch, and the batch within it. Saved with every checkpoint."""
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        learnt = int(progress.processed)
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        at_end = learnt >= self.trainer.num_training_batches
        return {"epoch": int(epochs.processed), "batch": 0 if at_end else learnt, "processes": self._processes}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Lightning would begin the epoch's batches anew after a checkpoint in its middle.

        Raises:
            InputError: the run has had another number of processes, so that its steps were others.
        """
        before = state_dict.get("processes", 1)
        if before != self._processes:
            raise InputError(
                f"this run has trained on {before} process(es), not {self._processes}: go on with the same "
                "trainer.devices and trainer.num_nodes"
            )
        self._start = (state_dict["epoch"], state_dict["batch"])

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation part, in the table's order."""
        return self.split_dataloader("val")

    def split_dataloader(self, split: str) -> DataLoader[Any]:
        """A part as it is, in the table's order."""
        dataset: Dataset[dict[str, Tensor]] = self._parts[split][1]
        if self._processes > 1:
            rows = rows_of_process(len(self.part(split)), self.eval_batch_size, self._rank, self._processes)
            dataset = Subset(dataset, rows.tolist())
        return DataLoader(dataset, batch_size=self.eval_batch_size, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        workers = self._default_workers() if self.num_workers is None else self.num_workers
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": begin_loader_process,
        }
