"""The Trainer of a verb, with what medsoft adds to Lightning's: folders, seeds, checkpoints, logs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger

from medsoft.data.table import SampleTable
from medsoft.errors import InputError, check_range
from medsoft.evaluation.epochs import LOWER_IS_BETTER
from medsoft.evaluation.metrics import HEADLINE, REGRESSION_HEADLINE, headline, score
from medsoft.evaluation.predictions import make_predictions
from medsoft.learn.callbacks import (
    BestCheckpoint,
    EpochLines,
    MetricsTable,
    MovableCheckpoint,
    ProgressBar,
    SeedEachStep,
    StopGracefully,
)
from medsoft.learn.checkpoint_io import AtomicCheckpointIO
from medsoft.learn.processes import as_list, with_slurm
from medsoft.learn.run_folder import RunFolder

AT_LEAST_ONE = ("max_epochs", "accumulate_grad_batches")  # the cosine needs an end, so that -1 epochs are refused too
SOME = ("max_steps", "limit_train_batches", "limit_val_batches")


def training_callbacks(config: Any, run: RunFolder, task_kind: str) -> list[Callback]:
    """Callbacks of ``fit``, in the order in which they must act.

    Args:
        config: the parsed command line.
        run: where checkpoints and metrics go.
        task_kind: decides the metric that chooses the checkpoint, if that is left open.

    Raises:
        InputError: ``--monitor`` names no validation metric, or a number is out of its range.
    """
    check_range("ema_decay", config.ema_decay or 0, 0, 1)
    check_range("patience", 1 if config.patience is None else config.patience, 1)
    check_range("save_every_n_steps", 1 if config.save_every_n_steps is None else config.save_every_n_steps, 1)
    monitor, mode = monitored(config.monitor, task_kind)
    callbacks: list[Callback] = [SeedEachStep(config.seed_everything)]
    if config.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema_decay))
    callbacks += [MetricsTable(run.metrics_table), StopGracefully(run.last)]
    if config.patience is not None:
        callbacks.append(
            EarlyStopping(monitor, mode=mode, patience=config.patience, check_on_train_epoch_end=True, verbose=False)
        )
    # Checkpoints are written after an epoch's validation or an optimiser's step: the points that resume exactly.
    at: dict[str, Any] = {"dirpath": run.best.parent, "enable_version_counter": False, "auto_insert_metric_name": False}
    callbacks.append(
        BestCheckpoint(filename=run.best.stem, monitor=monitor, mode=mode, save_on_train_epoch_end=True, **at)
    )
    callbacks.append(MovableCheckpoint(filename=run.last.stem, save_on_train_epoch_end=True, **at))
    if config.save_every_n_steps is not None:
        callbacks.append(MovableCheckpoint(filename=run.last.stem, every_n_train_steps=config.save_every_n_steps, **at))
    return callbacks


def build_trainer(config: Any, callbacks: list[Callback], logs: RunFolder | None = None) -> Trainer:
    """Lightning's Trainer with the configuration's options.

    Args:
        config: the parsed command line.
        callbacks: in addition to the configuration's own.
        logs: run whose TensorBoard log is written; None for none.

    Raises:
        InputError: options that Lightning refuses.
    """
    options = dict(config.trainer)
    for name in AT_LEAST_ONE:
        check_range(f"trainer.{name}", 1 if options[name] is None else options[name], 1)
    check_range("trainer.gradient_clip_val", options["gradient_clip_val"] or 0, 0)
    for name in SOME:
        if options[name] == 0:
            raise InputError(f"trainer.{name} 0 leaves nothing to do")
    options = with_slurm(options)
    own = {name: as_list(options.pop(name)) for name in ("callbacks", "plugins")}
    terminal = sys.stdout.isatty()
    progress: Callback = ProgressBar() if terminal else EpochLines()
    try:
        trainer = Trainer(
            **options,
            callbacks=[*own["callbacks"], *callbacks, progress],
            plugins=[*own["plugins"], AtomicCheckpointIO()],
            logger=TensorBoardLogger(logs.tensorboard, name="", version="") if logs else False,
            enable_checkpointing=logs is not None,
            enable_progress_bar=terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data module divides without repeating
        )
    except (ValueError, RuntimeError, TypeError, MisconfigurationException) as error:
        raise InputError(f"trainer: {error}") from None
    return trainer


def check_precision(precision: object, task_kind: str) -> None:
    """Raise InputError where the labels of a regression would be rounded to half precision."""
    if task_kind == "regression" and str(precision) in ("16-true", "bf16-true"):
        mixed = str(precision).replace("true", "mixed")
        raise InputError(f"trainer.precision {precision} would round the labels of a regression: use {mixed}")


def monitored(name: str, task_kind: str) -> tuple[str, str]:
    """The logged name and the direction (max or min) of the metric that chooses the checkpoint.

    Raises:
        InputError: no validation metric of this name.
    """
    if name == "auto":
        name = {"ordinal": "kappa", "regression": "mae"}.get(task_kind, "auroc")
    metrics = [metric for metric in HEADLINE if metric != "kappa" or task_kind == "ordinal"]
    known = [*(REGRESSION_HEADLINE if task_kind == "regression" else metrics), "loss"]
    name = name.removeprefix("val_")
    if name not in known:
        raise InputError(f"--monitor {name}: no metric of a {task_kind} task; one of {', '.join(known)}")
    return f"val_{name}", "min" if name in LOWER_IS_BETTER else "max"


def check_monitored(
    monitor: str, part: SampleTable, batch_size: int, limit: int | float | None, processes: int = 1
) -> None:
    """Check that the rows of the validation part can answer the metric that chooses the checkpoint.

    Args:
        monitor: a name from ``monitored``.
        part: the validation part.
        batch_size: of its loader.
        limit: Lightning's ``limit_val_batches``, of each process.
        processes: that share the batches.

    Raises:
        InputError: they cannot, such as the AUROC of rows of a single class.
    """
    assert part.task is not None
    batches = -(-len(part) // batch_size)
    share = 1.0 if limit is None else limit
    seen = min(batches, share * processes) if isinstance(share, int) else int(batches * share)
    targets = part.targets[: seen * batch_size]
    width = len(part.task.p_columns)
    answers = np.full((len(targets), width), 1 / width)
    scores = score(make_predictions(part.task, part.frame["id"].tolist()[: len(targets)], answers, targets), part.task)
    name = monitor.removeprefix("val_")
    if scores["n"] == 0 or (name != "loss" and headline(scores)[name] is None):
        raise InputError(
            f"--monitor {name}: the validation part cannot answer it. {' '.join(scores['notes'])} "
            "Split otherwise, or choose another metric, such as loss"
        )
