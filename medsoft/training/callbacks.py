"""Callbacks of a training: seeds, the table of metrics, and a stop that loses nothing."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from torch import Tensor

from medsoft.storage.files import replacing
from medsoft.system.logging import event
from medsoft.system.progress import Pace
from medsoft.system.signals import STOPPING, Stopped, on_signals


class SeedEachStep(Callback):
    """Seeds torch from (seed, epoch, batch) before every step, and in further processes from their rank too.

    Dropout and stochastic depth are then the same in a run that was stopped and resumed as in one that was not.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        further = (trainer.global_rank,) if trainer.global_rank else ()
        entropy = (self.seed, trainer.current_epoch, batch_idx, *further)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


class MetricsTable(Callback):
    """``metrics.csv`` with one row per epoch; a resumed run goes on below the epochs that it keeps.

    Args:
        path: the file; its epochs count from 1, as on the terminal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path.is_file():
            with self.path.open(newline="") as file:
                known = [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
            self.rows = [row for row in known if row["epoch"] <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.monotonic() - getattr(self, "started", time.monotonic())
        row: dict[str, Any] = {
            "epoch": float(trainer.current_epoch + 1),
            "step": float(trainer.global_step),
            "seconds": round(seconds, 2),
            **_rate(trainer),
            **{name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        event("epoch", **row)
        columns = list(dict.fromkeys(name for r in self.rows for name in r))
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({k: f"{v:.8g}" for k, v in r.items()} for r in self.rows)


def _rate(trainer: Trainer) -> dict[str, float]:
    """The largest learning rate; nothing of a model that is solved and not trained in steps."""
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups if "lr" in group]
    return {"lr": max(rates)} if rates else {}


class ProgressBar(RichProgressBar):
    """Lightning's bar, whose epochs count from 1."""

    def _get_train_description(self, current_epoch: int) -> str:
        # As wide as the bar of the validation below it, so that the two do not jump.
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}".ljust(len(self.validation_description))


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's checkpoints, for a run's folder that may be moved before it is resumed.

    Lightning forgets the best score where the folder has another name than before, and would then take any next epoch
    for the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the saved state as that of the folder in which the run is now."""
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(path: str) -> str:
            return now + path.removeprefix(before) if path.startswith(before + os.sep) else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        paths = {name: moved(state_dict[name]) for name in names}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best})


class BestCheckpoint(MovableCheckpoint):
    """The checkpoint of the best epoch; of equal ones the one with the lowest validation loss (see ``best_epoch``)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.loss_of_best = math.inf

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether the epoch at hand is the best so far."""
        loss = float(trainer.callback_metrics.get("val_loss", math.inf))
        better = super().check_monitor_top_k(trainer, current)
        if not better and current is not None and self.best_model_score is not None:
            better = bool(current == self.best_model_score) and loss < self.loss_of_best
        if better:
            self.loss_of_best = loss
        return better

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state, and the loss that a later epoch of the same value must beat."""
        return super().state_dict() | {"loss_of_best": self.loss_of_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the saved state; a run of before has no loss in it, and its first of equals stays the best."""
        self.loss_of_best = state_dict.get("loss_of_best", -math.inf)
        super().load_state_dict(state_dict)


class LossSoFar(Callback):
    """Keeps the sums behind an epoch's ``train_loss`` in its checkpoints: that of a resumed epoch is of all of it."""

    NAME = "medsoft_losses"

    def __init__(self) -> None:
        self._before: dict[str, tuple[Tensor, Tensor]] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.processed
        if 0 < done < trainer.num_training_batches:
            # Each process gets the mean of all back: their sum is what it was.
            checkpoint[self.NAME] = {
                name: tuple(metric.meta.sync(part.to(metric.value, copy=True)) for part in parts)
                for name, metric in self._means(trainer).items()
                for parts in [(metric.value, metric.cumulated_batch_size)]
            }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._before = dict(checkpoint.get(self.NAME, {}))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, metric in self._means(trainer).items() if self._before else ():
            if name in self._before:
                value, count = self._before.pop(name)
                metric.value = value.to(metric.value) + metric.value
                metric.cumulated_batch_size = count.to(metric.value) + metric.cumulated_batch_size

    @staticmethod
    def _means(trainer: Trainer) -> dict[str, Any]:
        """What training steps have logged in this epoch and is a mean over it, by Lightning's names."""
        results: dict[str, Any] = trainer.fit_loop.epoch_loop._results
        return {name: metric for name, metric in results.items() if hasattr(metric, "cumulated_batch_size")}


class EpochLines(Callback):
    """A line per epoch, and others within long ones, for logs that are files; a terminal has the progress bar."""

    def __init__(self) -> None:
        self._pace = Pace()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            batches = f"{trainer.num_training_batches} batches per epoch"
            print(f"training: {batches}, up to {trainer.max_epochs} epochs", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, training"
        self._say(trainer, epoch, batch_idx + 1, trainer.num_training_batches)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace.begin()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, validation"
        self._say(trainer, epoch, batch_idx + 1, trainer.num_val_batches[loader])

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace.begin()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        self._say(trainer, "predicting", batch_idx + 1, trainer.num_predict_batches[loader])

    def _say(self, trainer: Trainer, doing: str, done: int, batches: float) -> None:
        line = self._pace.line(f"{doing}, batches", done, int(batches) if math.isfinite(batches) else None)
        if line is not None and trainer.is_global_zero:
            print(line, flush=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = getattr(pl_module, "task", None)  # a distillation has none
        told = {k: v for k, v in trainer.callback_metrics.items() if task is None or task.told_each_epoch(k[4:])}
        metrics = "  ".join(f"{k} {float(v):.4f}" for k, v in told.items())
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {metrics}", flush=True)


class StopGracefully(Checkpoint):
    """Ctrl-C, SIGTERM and SIGUSR1 end the training after the step at hand, with a checkpoint to resume from.

    A second Ctrl-C stops at once; the last checkpoint written before then is kept. Of several processes all stop after
    the same step, whichever of them was asked.

    Lightning calls checkpoints last, in their order, and this is to be the last of them: the others must have seen the
    epoch at whose end a training stops, or its weights could never be the best.

    Args:
        checkpoint: where the state is saved.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.requested: int | None = None
        self._answering = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._answering.enter_context(on_signals(STOPPING, self._ask))

    def _ask(self, number: int) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number
        again = "; interrupt again to stop at once" if number == signal.SIGINT else ""
        print(f"\nStopping after this step{again}.", file=sys.stderr, flush=True)

    def _agree(self, trainer: Trainer) -> int | None:
        """The signal that one of the processes was sent; all of them must ask at the same step."""
        if trainer.world_size == 1:
            return self.requested
        own = torch.tensor(self.requested or 0, device=trainer.strategy.root_device)
        agreed = int(trainer.strategy.reduce(own, reduce_op="max")) or None
        if agreed is not None:  # a signal that came meanwhile is for the next time
            self.requested = agreed
        return agreed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients that are being accumulated are not part of a checkpoint: wait for the optimiser's step. After the
        # last batch the epoch's validation is still to come, and the stop follows it.
        complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if complete and batch_idx + 1 < trainer.num_training_batches and self._agree(trainer) is not None:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agree(trainer) is not None:
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The last epoch's checkpoint is written by now: a signal that came meanwhile stops what follows the training.
        if (number := self._agree(trainer)) is not None:
            raise Stopped(number)

    def _stop(self, trainer: Trainer) -> None:
        assert self.requested is not None
        trainer.save_checkpoint(self.checkpoint)
        raise Stopped(self.requested)

    def close(self) -> None:
        """Leave signals to others, once Lightning has put the training away, which an exception would break off."""
        self._answering.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._answering.close()
