"""The verb ``fit``, from the command line to the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from medsoft.encoders.choice import with_default_encoder
from medsoft.errors import InputError, RunError, check_range
from medsoft.parsing.lightning_cli import CommandLine, read_words, split_of_this_table
from medsoft.parsing.words import Words
from medsoft.runs.checkpoints import load_weights
from medsoft.runs.run_folder import RunFolder
from medsoft.runs.table_rows import Changes, require_same_table, rows_of, write_labels
from medsoft.storage.files import hold_folder
from medsoft.system.signals import Stopped
from medsoft.training.disk_space import check_space
from medsoft.training.distributed import Processes, finish_together
from medsoft.training.memory import enough_memory
from medsoft.training.ood_features import keep_detector
from medsoft.training.predict import show_path, write_errors_if_any
from medsoft.training.silence_warnings import silence_warnings
from medsoft.training.slurm import requeue, stopped_by_sigusr1
from medsoft.training.trainer import (
    build_trainer,
    check_batches,
    check_fine_tuning,
    check_joint_step,
    check_monitored,
    monitored,
    training_callbacks,
)
from medsoft.training.training_part import learn_from_training_part
from medsoft.training.tuning import RangeTest, check_tuning, find_batch, find_rate
from medsoft.training.until_stopped import train_until_stopped
from medsoft.workflows.finish import predict_and_end
from medsoft.workflows.seen import notes_on_seen
from medsoft.workflows.tracking.loggers import FAILED, SUCCESS, Log, open_log, remember, require_tracker
from medsoft.workflows.tracking.sent import parameters_of, send


def fit(argv: Sequence[str]) -> int:
    """Train, then predict and score the validation and test parts with the best checkpoint.

    Returns:
        0; 3 where inputs were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to resume from.
    """
    silence_warnings()
    with stopped_by_sigusr1():
        try:
            return _fit(argv)
        except Stopped as stop:  # outside of the training, which saves its state
            print(f"Stopped. {requeue(stop.signal)}".rstrip(), file=sys.stderr)
            return 128 + stop.signal


def _fit(argv: Sequence[str]) -> int:
    words = read_words("fit", argv)
    stopped = _stopped_run(words)
    line = _parse(words, stopped)
    processes = Processes.of(line.config.trainer)
    run = stopped or processes.choose_run(line.config.out, line.config.name)
    fitting = _Fitting(argv, line, processes, run, resumed=stopped is not None)

    require_tracker(line.config.logger)
    line.datamodule.task.check_run(line.config)
    line.model.check_training(line.config, line.datamodule)
    check_tuning(line.config, processes.number, fitting.resumed)
    check_fine_tuning(line.model, line.datamodule, line.config.trainer.max_epochs or 0)
    line.notes += check_joint_step(line.model, line.datamodule, line.config, processes.number)
    trainer = _build_trainer(fitting)
    _load_data(fitting, trainer)
    tested = _find_out(fitting, trainer)
    log = open_log(line.config.logger, line.config.name, run.path) if processes.is_first else None
    ended = FAILED
    try:
        _begin_run(fitting)
        if tested is not None:
            tested.write(run.rates, run.rates_figure, line.datamodule.note)
        if log is not None:
            _track(fitting, trainer, log)
        code = write_errors_if_any(run, line.datamodule.errors) if processes.is_first else 0
        stop = _train(fitting, trainer)
        if stop is not None:
            return _say_stopped(fitting, stop)
        _take_best(fitting)
        learn_from_training_part(trainer, line.model, line.datamodule, run.best)
        _learn_detector(fitting, trainer)
        predict_and_end(trainer, line.model, line.datamodule, run, line.config, processes, fitting.monitor)
        if log is not None:
            send(log, run.path)
        ended = SUCCESS
    finally:
        if log is not None:
            log.close(ended)
    return code


@dataclass
class _Fitting:
    """What the steps of a training share.

    Attributes:
        argv: the command line as it was typed, for the record.
        line: the same, parsed: configuration, data module and model.
        processes: that train together.
        run: the folder.
        resumed: whether the run was there before.
        monitor: the logged metric that chooses the checkpoint.
        rows: of the table, as the run keeps them.
        changed: how the table differs from the one that a resumed run began with.
    """

    argv: Sequence[str]
    line: CommandLine
    processes: Processes
    run: RunFolder
    resumed: bool
    monitor: str = field(init=False)
    rows: Any = field(init=False)
    changed: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        config, data = self.line.config, self.line.datamodule
        self.monitor, _ = monitored(config.monitor, data.task, data.samples.subset("val").frame)
        if self.monitor != monitored(config.monitor, data.task)[0]:
            config.monitor = self.monitor.removeprefix("val_")
            self.line.notes.append(f"monitor auto: {config.monitor}, as val cannot answer {data.task.monitor}")


def _stopped_run(words: Words) -> RunFolder | None:
    """The run that --resume names; None for a new one."""
    folder = words.last("resume")
    if not folder:
        return None
    run = RunFolder.existing(folder)
    if not run.last.is_file():
        raise InputError(f"{run.path}: has no checkpoint to go on from; start it again with --config {run.config}")
    return run


def _parse(words: Words, stopped: RunFolder | None) -> CommandLine:
    """Configuration, data module and model; of a stopped run as it was started, with what the words add."""
    if stopped is None:
        words, notes = with_default_encoder(words)
        line = CommandLine("fit", split_of_this_table(words))
        line.notes[:0] = notes
        return line
    words = words.begun_with("config", str(stopped.config))
    return CommandLine("fit", split_of_this_table(words), saved=stopped.config)


def _build_trainer(fitting: _Fitting) -> Trainer:
    """Lightning's Trainer; from here on a resumed run's folder is held against others."""
    config, task = fitting.line.config, fitting.line.datamodule.task
    if config.ood_quantile is not None:
        check_range("ood_quantile", config.ood_quantile, 0.5, 1)
    callbacks: list[Callback] = training_callbacks(config, fitting.run, task)
    if fitting.resumed and fitting.processes.is_first:
        # Not before the state is loaded: an added option may not fit it.
        callbacks.append(LambdaCallback(on_train_start=lambda *_: _record_resumption(fitting)))
        hold_folder(fitting.run.path)
    trainer = build_trainer(config, callbacks, logs=fitting.run)
    task.check_precision(str(trainer.precision))
    return trainer


def _record_resumption(fitting: _Fitting) -> None:
    """Write down what a resumed training goes on with."""
    run, line, changed = fitting.run, fitting.line, fitting.changed
    run.go_on("fit", fitting.argv, line.reproducible(run.split), fitting.rows if changed else None, str(changed))


def _find_out(fitting: _Fitting, trainer: Trainer) -> RangeTest | None:
    """Find the batch and the learning rate where that is asked for; the configuration gets them."""
    line = fitting.line
    config, model, data = line.config, line.model, line.datamodule
    if config.trainer.batch is not None:
        line.notes.append(find_batch(config, model, data, trainer))
        check_fine_tuning(model, data, config.trainer.max_epochs or 0)
        line.notes += [note for note in check_batches(model, data) if note not in line.notes]
    if not config.lr_find:
        return None
    with enough_memory(config, training=True):
        tested = find_rate(config, model, data)
    line.notes.append(f"lr_find: model.lr {tested.suggestion:g} (loss by learning rate: {fitting.run.rates_figure})")
    return tested


def _load_data(fitting: _Fitting, trainer: Trainer) -> None:
    """Read all parts of the table, and check that a training can begin with them."""
    line, data, config, number = fitting.line, fitting.line.datamodule, fitting.line.config, fitting.processes.number
    data.keeps_facts = config.shortcuts
    data.load(["train", "val", "test"])
    fitting.rows = rows_of(data)
    if fitting.resumed:
        accepted = config.changed_table == "accept"
        fitting.changed = require_same_table(fitting.run.rows, fitting.rows, data.samples.source, accepted)
    data.changed = str(fitting.changed)
    data.divide(fitting.processes.rank, number)
    limit = config.trainer.limit_val_batches
    check_monitored(fitting.monitor, data.part("val"), data.eval_batch_size, limit, number)
    line.notes += notes_on_seen(line.model, data)
    line.notes += check_batches(line.model, data, number, bool(config.trainer.sync_batchnorm))
    check_space(fitting.run.path, line.model, fitting.resumed)


def _begin_run(fitting: _Fitting) -> None:
    """Fill a new run's folder, and tell the user what the training works with."""
    line, data, run = fitting.line, fitting.line.datamodule, fitting.run
    fitting.processes.hush()
    if not fitting.resumed and fitting.processes.is_first:
        run.begin("fit", fitting.argv, line.reproducible(run.split), data.all_rows, fitting.rows)
        write_labels(data, line.config, run.path)
    changes = fitting.changed.accepted(data.samples.source)
    print("\n".join([*line.notes, *changes, *data.notes, f"Run: {show_path(run.path)}"]))


def _track(fitting: _Fitting, trainer: Trainer, log: Log) -> None:
    """Log the training in an experiment tracker: its parameters now, its metrics as they come."""
    remember(fitting.run.path, fitting.line.config.logger, log)
    log.log_hyperparams(parameters_of(fitting.line.reproducible(fitting.run.split)))
    trainer.logger = log


def _train(fitting: _Fitting, trainer: Trainer) -> Stopped | KeyboardInterrupt | None:
    """Train to the end, see ``train_until_stopped``."""
    line, run = fitting.line, fitting.run
    state = run.last if fitting.resumed else None
    within = finish_together(trainer), enough_memory(line.config, training=True)
    return train_until_stopped(trainer, line.model, line.datamodule, run.path, state, *within)


def _say_stopped(fitting: _Fitting, stop: Stopped | KeyboardInterrupt) -> int:
    """Tell the user how to go on; returns the exit code."""
    if not fitting.processes.is_first:
        return 0
    signal_number = stop.signal if isinstance(stop, Stopped) else 2
    there_is_more = f"Go on with: medsoft fit --resume {show_path(fitting.run.path)}"
    print(f"Stopped. {there_is_more if fitting.run.last.is_file() else 'Nothing is saved yet.'}", file=sys.stderr)
    if asked := requeue(signal_number):
        print(asked, file=sys.stderr)
    return 128 + signal_number


def _take_best(fitting: _Fitting) -> None:
    """Give the model the weights that validation chose."""
    run = fitting.run
    if not run.best.is_file():
        raise RunError(
            f"{show_path(run.path)}: the training ended within its first epoch, so that there is no checkpoint to "
            "choose. Raise trainer.max_steps or trainer.max_time"
        )
    load_weights(fitting.line.model, run.best)


def _learn_detector(fitting: _Fitting, trainer: Trainer) -> None:
    """Give the model its out-of-distribution detector, where the configuration asks for one."""
    line = fitting.line
    quantile = line.config.ood_quantile
    if quantile is None:
        return
    detector = keep_detector(trainer, line.model, line.datamodule, fitting.run, quantile)
    line.model.detector = detector
    if detector.without_limit and trainer.is_global_zero:
        print(detector.without_limit)
