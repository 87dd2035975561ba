"""What the data modules of images and of bags have in common: the parts of a sample table, and their loaders."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from medsoft.data.covariates import read_covariates, scaled_by
from medsoft.data.sampling import EpochBatchSampler, rows_of_process
from medsoft.data.split import apply_split_file, complete_splits
from medsoft.data.table import SampleTable
from medsoft.data.transforms.views import AS_IT_IS, AnyView
from medsoft.errors import InputError, check_range
from medsoft.task import Covariates, Task

Stage = Literal["fit", "validate", "test", "predict", "crossval"]
SPLIT_OF_STAGE: dict[str, str] = {"validate": "val", "test": "test", "predict": "", "crossval": ""}

SampleDataset = TypeVar("SampleDataset", bound=Dataset[dict[str, Tensor]])


class TableDataModule(LightningDataModule, Generic[SampleDataset]):
    """Parts of a sample table, shuffled in training and in the table's order otherwise.

    A subclass reads its table, hands it to ``_take``, and fills ``_parts`` in ``load``.

    Args:
        batch_size: samples a step.
        num_workers: processes that load samples; None leaves the choice to the subclass.
        balanced_sampling: draw training samples so that classes come equally often.
        stage: what the table is for. Only fit makes a split.
        seed: of split, order and augmentation.
    """

    samples: SampleTable
    covariate_columns: tuple[str, ...] = ()
    unit = "sample"
    """What a row is, in the report's words."""

    def __init__(
        self, batch_size: int, num_workers: int | None, balanced_sampling: bool, stage: Stage, seed: int
    ) -> None:
        super().__init__()
        check_range("data.batch_size", batch_size, 1)
        check_range("data.num_workers", num_workers or 0, 0)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.balanced_sampling = balanced_sampling
        self.stage, self.seed = stage, seed
        self._start = (0, 0)
        self._rank, self._processes = 0, 1
        self._parts: dict[str, tuple[SampleTable, SampleDataset]] = {}

    def _take(self, samples: SampleTable, splits_from: str | None, val_fraction: float, test_fraction: float) -> None:
        """Accept the table that was read, with the splits that the stage needs."""
        if samples.task is None:
            own = ("id", "path", "row", "patient", "exam", "site", "split")
            others = [str(column) for column in samples.frame if column not in own]
            there = f" (there are {', '.join(others)})" if others else ""
            raise InputError(
                f"{samples.source}: no labels were found: name their column with data.label{there}; or, to go on "
                "without labels, the question with data.task and data.classes"
            )
        self.samples = samples
        self.notes = list(samples.notes)
        self.errors = samples.dropped
        if splits_from:
            self.samples = apply_split_file(self.samples, Path(splits_from))
        if self.stage == "fit":
            self.samples, done = complete_splits(self.samples, val_fraction, test_fraction, self.seed, splits_from)
            self.notes.append(done)
            if "val" not in self.samples.splits:
                raise InputError("data.val_fraction: fit chooses its checkpoint on a validation part; give it a share")
            if self.balanced_sampling and self.task.kind == "multilabel":
                raise InputError("data.balanced_sampling: not for multilabel tasks; use model.class_weights")
            if self.balanced_sampling and self.task.kind == "regression":
                raise InputError("data.balanced_sampling: a regression has no classes to balance; leave it out")
        elif not self.samples.has_split:
            self.samples = self.samples.with_split(SPLIT_OF_STAGE[self.stage])

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
        """As ``count_classes``, of the training part (else of all rows)."""
        train = self.samples.subset("train") if self.stage == "fit" else self.samples
        return count_classes(self.task, train.targets)

    @property
    def target_scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation of a regression's training targets; None for classes, and outside of fit.

        A trained model brings its own.
        """
        if self.task.kind != "regression" or self.stage != "fit":
            return None
        targets = self.samples.subset("train").targets
        return float(targets.mean()), float(targets.std())

    @property
    def covariates(self) -> Covariates | None:
        """Clinical covariates with the training part's scale; without it outside of fit, where a checkpoint brings it.

        Raises:
            InputError: a column does not exist, holds other things than numbers, or is constant.
        """
        if not self.covariate_columns:
            return None
        values = read_covariates(self.samples, self.covariate_columns)
        if self.stage != "fit":
            return Covariates(self.covariate_columns, None)
        return scaled_by(values[(self.samples.frame["split"] == "train").to_numpy()], self.covariate_columns)

    def covariates_of(self, part: SampleTable) -> np.ndarray | None:
        """Values of a part's rows, (N, K) float32, NaN where missing; None without covariates."""
        return read_covariates(part, self.covariate_columns) if self.covariate_columns else None

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
        """Shuffled, augmented; see ``medsoft.data.sampling``."""
        part, dataset = self._parts["train"]
        weights = None
        if self.balanced_sampling:
            weights = 1 / count_classes(self.task, part.targets)[part.targets]
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
            "worker_init_fn": _one_thread,
        }


def _one_thread(worker: int) -> None:
    """One thread a worker process: OpenCV would take every core in each of them."""
    import cv2

    cv2.setNumThreads(0)


def count_classes(task: Task, targets: np.ndarray) -> np.ndarray:
    """(C,) samples a class, none for a regression; for multilabel (L, 2) negatives and positives a label.

    Missing ones are left out.
    """
    if task.kind == "regression":
        return np.zeros(0, np.int64)
    if task.kind == "multilabel":
        return np.stack([(targets == 0).sum(axis=0), (targets == 1).sum(axis=0)], axis=1)
    return np.bincount(targets[targets >= 0], minlength=len(task.classes))
