"""The Trainer of a verb, with what medsoft adds to Lightning's: folders, seeds, checkpoints, logs."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from medsoft.errors import InputError
from medsoft.evaluation.metrics import HEADLINE
from medsoft.learn.callbacks import EpochLines, MetricsTable, SeedEachStep, StopGracefully
from medsoft.learn.checkpoint_io import AtomicCheckpointIO
from medsoft.learn.run_folder import RunFolder

LOWER_IS_BETTER = ("loss", "brier", "log_loss")


def training_callbacks(config: Any, run: RunFolder, task_kind: str) -> list[Callback]:
    """Callbacks of ``fit``, in the order in which they must act.

    Args:
        config: the parsed command line.
        run: where checkpoints and metrics go.
        task_kind: decides the metric that chooses the checkpoint, if that is left open.

    Raises:
        InputError: ``--monitor`` names no validation metric.
    """
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
        ModelCheckpoint(filename=run.best.stem, monitor=monitor, mode=mode, save_on_train_epoch_end=True, **at)
    )
    callbacks.append(ModelCheckpoint(filename=run.last.stem, save_on_train_epoch_end=True, **at))
    if config.save_every_n_steps is not None:
        callbacks.append(ModelCheckpoint(filename=run.last.stem, every_n_train_steps=config.save_every_n_steps, **at))
    return callbacks


def build_trainer(config: Any, callbacks: list[Callback], logs: RunFolder | None = None) -> Trainer:
    """Lightning's Trainer with the configuration's options.

    Args:
        config: the parsed command line.
        callbacks: in addition to the configuration's own.
        logs: run whose TensorBoard log is written; None for none.

    Raises:
        InputError: options that Lightning refuses, or more than one process.
    """
    options = dict(config.trainer)
    own = {name: _as_list(options.pop(name)) for name in ("callbacks", "plugins")}
    terminal = sys.stdout.isatty()
    progress: Callback = RichProgressBar() if terminal else EpochLines()
    try:
        trainer = Trainer(
            **options,
            callbacks=[*own["callbacks"], *callbacks, progress],
            plugins=[*own["plugins"], AtomicCheckpointIO()],
            logger=TensorBoardLogger(logs.tensorboard, name="", version="") if logs else False,
            enable_checkpointing=logs is not None,
            enable_progress_bar=terminal,
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"trainer: {error}") from None
    if trainer.world_size > 1:
        raise InputError("trainer.devices: training on several processes is not supported yet; set it to 1")
    return trainer


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def monitored(name: str, task_kind: str) -> tuple[str, str]:
    """The logged name and the direction (max or min) of the metric that chooses the checkpoint.

    Raises:
        InputError: no validation metric of this name.
    """
    if name == "auto":
        name = "kappa" if task_kind == "ordinal" else "auroc"
    known = [*HEADLINE, "loss"]
    if name.removeprefix("val_") not in known:
        raise InputError(f"--monitor {name}: no validation metric; one of {', '.join(known)}")
    name = name.removeprefix("val_")
    return f"val_{name}", "min" if name in LOWER_IS_BETTER else "max"
