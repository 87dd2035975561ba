"""Builds a verb's trainer: Lightning's, with medsoft's folders, seeds, checkpoints and logs."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.nn.modules.batchnorm import _BatchNorm

from medsoft.data.tables.sample_table import SampleTable
from medsoft.errors import InputError, check_range
from medsoft.evaluation.metrics.score import headline, score
from medsoft.evaluation.metrics.table import lower_is_better
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.runs.run_folder import RunFolder
from medsoft.task import Task
from medsoft.training.averaging import MovingAverage
from medsoft.training.callbacks import (
    BestCheckpoint,
    EpochLines,
    LossSoFar,
    MetricsTable,
    MovableCheckpoint,
    ProgressBar,
    SeedEachStep,
    StopGracefully,
)
from medsoft.training.distributed import as_list, with_slurm
from medsoft.training.until_stopped import TrainingLog

AT_LEAST_ONE = ("max_epochs", "accumulate_grad_batches")  # the cosine needs an end, so that -1 epochs are refused too
FEWEST_EVENTS = 4.0
"""Events that a step of a Cox model should hold."""
TENSORBOARD = "tensorboard"
"""The word of ``--logger`` for the log that the trainer writes itself; see ``medsoft.workflows.tracking.loggers``."""
SOME = ("max_steps", "limit_train_batches", "limit_val_batches")


def training_callbacks(config: Any, run: RunFolder, task: Task) -> list[Callback]:
    """Callbacks of ``fit``, in the order in which they must act.

    Args:
        config: the parsed command line.
        run: where checkpoints and metrics go.
        task: decides the metric that chooses the checkpoint, if that is left open.

    Raises:
        InputError: ``--monitor`` names no validation metric, or a number is out of its range.
    """
    check_range("ema_decay", config.ema_decay or 0, 0, 1)
    check_range("patience", 1 if config.patience is None else config.patience, 1)
    check_range("save_every_n_steps", 1 if config.save_every_n_steps is None else config.save_every_n_steps, 1)
    monitor, mode = monitored(config.monitor, task)
    callbacks: list[Callback] = [SeedEachStep(config.seed_everything)]
    if config.ema_decay is not None:
        callbacks.append(MovingAverage(config.ema_decay))
    callbacks += [LossSoFar(), MetricsTable(run.metrics_table)]
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
    return [*callbacks, StopGracefully(run.last)]


def build_trainer(config: Any, callbacks: list[Callback], logs: RunFolder | None = None) -> Trainer:
    """Lightning's Trainer with the configuration's options.

    Args:
        config: the parsed command line.
        callbacks: in addition to the configuration's own.
        logs: run whose TensorBoard log is written, unless ``--logger`` names another; None for none.

    Raises:
        InputError: options that Lightning refuses.
    """
    options = {name: value for name, value in dict(config.trainer).items() if name != "batch"}  # see training/tuning.py
    for name in AT_LEAST_ONE:
        check_range(f"trainer.{name}", 1 if options[name] is None else options[name], 1)
    check_range("trainer.gradient_clip_val", options["gradient_clip_val"] or 0, 0)
    for name in SOME:
        if options[name] == 0:
            raise InputError(f"trainer.{name} 0 leaves nothing to do")
    options = with_slurm(options)
    own = {name: as_list(options.pop(name)) for name in ("callbacks", "plugins")}
    terminal = sys.stdout.isatty()
    in_tensorboard = getattr(config, "logger", TENSORBOARD) == TENSORBOARD
    progress: Callback = ProgressBar() if terminal else EpochLines()
    try:
        trainer = Trainer(
            **options,
            callbacks=[*own["callbacks"], *callbacks, progress],
            plugins=[*own["plugins"], AtomicCheckpointIO()],
            logger=TrainingLog(logs.tensorboard, name="", version="") if logs and in_tensorboard else False,
            enable_checkpointing=logs is not None,
            enable_progress_bar=terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data module divides without repeating
        )
    except (ValueError, RuntimeError, TypeError, MisconfigurationException) as error:
        raise InputError(f"trainer: {error}") from None
    return trainer


def check_fine_tuning(model: Any, data: Any, max_epochs: int) -> None:
    """Check that what the model's options ask for can happen in this training.

    Args:
        model: to be trained.
        data: the data module.
        max_epochs: of the training.

    Raises:
        InputError: batches are mixed that have one sample, or the pretrained part is frozen to the end.
    """
    if getattr(model, "mixing", None) and data.batch_size == 1:
        raise InputError("model.mixup needs batches of two or more images: raise data.batch_size (so does cutmix)")
    epochs = getattr(model, "freeze_epochs", 0)
    if epochs and 0 < max_epochs <= epochs:
        raise InputError(
            f"model.freeze_epochs {epochs} of trainer.max_epochs {max_epochs} never releases the pretrained part: "
            "lower it, or say model.freeze true"
        )


def check_joint_step(model: Any, data: Any, config: Any, processes: int = 1) -> list[str]:
    """Check that a step holds several samples where its loss compares them, as that of a risk set.

    Args:
        model: to be trained.
        data: the data module.
        config: the parsed command line.
        processes: that share each step.

    Returns:
        A warning where a step is so small that few of its samples had the event.

    Raises:
        InputError: a step is a single sample, or the learning rate is to be found from batches of one.
    """
    if not (model.objective.joint and model.automatic_optimization):
        return []
    step = data.batch_size * (config.trainer.accumulate_grad_batches or 1) * processes
    said = "model.survival cox compares the samples of a step with each other"
    advice = "raise trainer.accumulate_grad_batches (bags) or data.batch_size (images)"
    if step == 1:
        raise InputError(f"{said}, and a step is a single one: {advice}")
    if config.lr_find and data.batch_size == 1:
        raise InputError(f"lr_find takes steps of one batch, and {said}: raise data.batch_size, or leave out lr_find")
    times = data.event_times
    events = step * (0 if times is None else len(times)) / len(data.samples.subset("train"))
    if events >= FEWEST_EVENTS:
        return []
    return [f"WARNING: {said}, and of {step} samples a step about {events:.1g} had the event: {advice}, to 32 or more"]


def check_batches(model: Any, data: Any, processes: int = 1, synchronised: bool = False) -> list[str]:
    """Check that batch normalisation has a batch to normalise over.

    No sample is dropped to make it so: batches are of near-equal size, and every sample is learnt from.

    Args:
        model: to be trained, as the training begins.
        data: with its training part loaded.
        processes: that share each batch.
        synchronised: whether all processes normalise together.

    Returns:
        A warning where the network can learn from batches of one sample, but should not.

    Raises:
        InputError: some batch has one sample, of which the network cannot learn.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is None or not any(isinstance(part, _BatchNorm) and part.training for part in backbone.modules()):
        return []
    n = len(data.part("train"))
    batch = n // -(-n // (data.batch_size * processes))
    if (batch if synchronised else batch // processes) > 1:
        return []
    said = (
        f"{model.backbone_name} normalises over the batch, and with data.batch_size {data.batch_size} and {n} training "
        "samples some batch has one sample"
    )
    advice = "raise data.batch_size to 3 or more, or choose a backbone without batch normalisation (vit_…)"
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, model.spec.channels, *model.spec.image_size, device=model.device))
    except ValueError:  # PyTorch: more than 1 value per channel
        raise InputError(f"{said}, of which it cannot learn: {advice}") from None
    finally:
        backbone.load_state_dict(state)
    return [f"WARNING: {said}, so that what it learns in training does not hold in prediction: {advice}"]


def monitored(name: str, task: Task, val: pd.DataFrame | None = None) -> tuple[str, str]:
    """The logged name and the direction (max or min) of the metric that chooses the checkpoint.

    Args:
        name: of the metric; auto for the task's own.
        task: the question.
        val: rows of the validation part, where auto depends on what they can answer.

    Raises:
        InputError: no validation metric of this name.
    """
    own = task.monitor if val is None else task.monitor_of(val)
    name = own if name == "auto" else name.removeprefix("val_")
    known = [*task.headline, "loss"]
    if name not in known:
        raise InputError(f"--monitor {name}: no metric of a {task.kind} task; one of {', '.join(known)}")
    return f"val_{name}", "min" if lower_is_better(name) else "max"


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
    answers = part.task.constant_answers(len(targets))
    scores = score(make_predictions(part.task, part.frame["id"].tolist()[: len(targets)], answers, targets), part.task)
    name = monitor.removeprefix("val_")
    if scores["n"] == 0 or (name != "loss" and headline(scores)[name] is None):
        raise InputError(
            f"--monitor {name}: the validation part cannot answer it. {' '.join(scores['notes'])} "
            "Split otherwise, or choose another metric, such as loss"
        )
