"""The verbs fit, validate, test and predict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback

from medsoft.errors import InputError, RunError, check_range
from medsoft.evaluation.decide import decide, write_decisions
from medsoft.learn.bundle import Bundle
from medsoft.learn.callbacks import Stopped
from medsoft.learn.checkpoints import Checkpoint, find_checkpoints, load_weights, without_checkpoints
from medsoft.learn.command_line import CommandLine, option, split_of_this_table
from medsoft.learn.disk_space import check_space
from medsoft.learn.ending import end_run
from medsoft.learn.ensemble import apply_ensemble
from medsoft.learn.features import find_familiar, keep_familiar
from medsoft.learn.memory import enough_memory
from medsoft.learn.outcome import (
    load_splits,
    predict_table,
    show_path,
    use_views,
    write_errors_if_any,
)
from medsoft.learn.processes import Processes, ending_together
from medsoft.learn.quiet import quieten
from medsoft.learn.requeue import requeue, stopped_by_sigusr1
from medsoft.learn.run_folder import RunFolder
from medsoft.learn.training import build_trainer, check_monitored, check_precision, monitored, training_callbacks
from medsoft.parsing import with_configurations_found

FEW = 20
"""Samples from which the 95th percentile of anything says little."""


def fit(argv: Sequence[str]) -> int:
    """Train, then predict and score the validation and test parts with the best checkpoint.

    Returns:
        0; 3 where inputs were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to resume from.
    """
    quieten()
    with stopped_by_sigusr1():
        try:
            return _fit(argv)
        except Stopped as stop:  # outside of the training, which saves its state
            print(f"Stopped. {requeue(stop.signal)}".rstrip(), file=sys.stderr)
            return 128 + stop.signal


def _fit(argv: Sequence[str]) -> int:
    words = with_configurations_found(argv)
    earlier = option(words, "--resume")
    stopped = RunFolder.existing(earlier) if earlier else None
    if stopped and not stopped.last.is_file():
        raise InputError(
            f"{stopped.path}: has no checkpoint to go on from; start it again with --config {stopped.config}"
        )
    line = CommandLine("fit", split_of_this_table(["--config", str(stopped.config), *words] if stopped else words))
    config, data, model = line.config, line.datamodule, line.model
    processes = Processes.of(config.trainer)
    run = stopped or processes.choose_run(config.out, config.name)
    monitor, _ = monitored(config.monitor, data.task.kind)
    if config.ood_quantile is not None:
        check_range("ood_quantile", config.ood_quantile, 0.5, 1)
    callbacks = training_callbacks(config, run, data.task.kind)
    if stopped and processes.is_first:
        # Not before the state is loaded: an added option may not fit it.
        callbacks.append(LambdaCallback(on_train_start=lambda *_: run.go_on("fit", argv, line.reproducible(run.split))))
    trainer = build_trainer(config, callbacks, logs=run)
    check_precision(trainer.precision, data.task.kind)
    data.load(["train", "val", "test"])
    data.divide(processes.rank, processes.number)
    limit = config.trainer.limit_val_batches
    check_monitored(monitor, data.part("val"), data.eval_batch_size, limit, processes.number)

    resumed = stopped is not None
    check_space(run.path, model, resumed)
    processes.hush()
    if not resumed and processes.is_first:
        run.begin("fit", argv, line.reproducible(run.split), data.samples.frame)
    print("\n".join([*data.notes, f"Run: {show_path(run.path)}"]))
    code = write_errors_if_any(run, data.errors) if processes.is_first else 0
    try:
        with ending_together(trainer), enough_memory(config, training=True):
            trainer.fit(model, data, ckpt_path=run.last if resumed else None, weights_only=True)
    except (Stopped, KeyboardInterrupt) as stop:
        if not processes.is_first:
            return 0
        signal_number = stop.signal if isinstance(stop, Stopped) else 2
        there_is_more = f"Go on with: medsoft fit --resume {show_path(run.path)}"
        print(f"Stopped. {there_is_more if run.last.is_file() else 'Nothing is saved yet.'}", file=sys.stderr)
        if asked := requeue(signal_number):
            print(asked, file=sys.stderr)
        return 128 + signal_number
    except MisconfigurationException as error:
        raise RunError(f"trainer: {error}") from None
    except RuntimeError as error:
        if resumed and "loading state_dict" in str(error):
            what = str(error).splitlines()[-1].strip()
            raise InputError(f"{show_path(run.last)}: an added option changes the model's shape: {what}") from None
        raise
    if not run.best.is_file():
        raise RunError(
            f"{show_path(run.path)}: the training ended within its first epoch, so that there is no checkpoint to "
            "choose. Raise trainer.max_steps or trainer.max_time"
        )
    load_weights(model, run.best)
    if config.ood_quantile is not None:
        model.familiar = keep_familiar(trainer, model, data, run, config.ood_quantile)
        if model.familiar.n_val < FEW and trainer.is_global_zero:
            print(
                f"The line from which on the model abstains comes from {model.familiar.n_val} validation samples: "
                "what it sets aside says little"
            )
    _finish(trainer, model, data, run, config, processes, monitor)
    return code


def validate(argv: Sequence[str]) -> int:
    """Predict and score the validation part with a checkpoint."""
    return _apply("validate", argv)


def test(argv: Sequence[str]) -> int:
    """Predict and score the test part with a checkpoint, or the whole of a table that has no split."""
    return _apply("test", argv)


def predict(argv: Sequence[str]) -> int:
    """Predict every row of a table with a checkpoint; rows with labels are scored too."""
    return _apply("predict", argv)


def _apply(verb: str, argv: Sequence[str]) -> int:
    quieten()
    given, words = without_checkpoints(with_configurations_found(argv))
    bundle = _bundle(words, given)
    if not given and bundle is None:
        CommandLine(verb, words)  # --help, or what else is wrong
        raise InputError(
            "--ckpt_path is missing: the folder of a run, or a checkpoint file; several, or the folder of a "
            "cross-validation, for an ensemble; or --bundle"
        )
    members = find_checkpoints(given) if bundle is None else [Checkpoint(bundle.path, bundle.config)]
    if len(members) > 1:
        return apply_ensemble(verb, argv, words, members)
    checkpoint = members[0]
    if option(words, "--config") is None and checkpoint.config:
        words = ["--config", str(checkpoint.config), *words]
    line = CommandLine(verb, split_of_this_table(words))
    config, data, model = line.config, line.datamodule, line.model
    config.ckpt_path = None if bundle is not None else given[0]
    load_weights(model, checkpoint.file)
    model.familiar = find_familiar(RunFolder(checkpoint.config.parent), model) if checkpoint.config else None
    use_views(model, data, config.tta)
    if config.maps:
        from medsoft.learn.volume_maps import check_maps  # MONAI takes seconds

        check_maps(config.maps, data, model)
    processes = Processes.of(config.trainer)
    run = processes.choose_run(config.out, f"{config.name}-{verb}")
    trainer = build_trainer(config, [])
    load_splits(data, verb)
    data.divide(processes.rank, processes.number)
    processes.hush()
    if processes.is_first:
        run.begin(verb, argv, line.resolved())
    print("\n".join([*data.notes, f"Run: {show_path(run.path)}"]))
    code = write_errors_if_any(run, data.errors) if processes.is_first else 0
    model_of = RunFolder(checkpoint.config.parent) if checkpoint.config else None
    frame = _finish(trainer, model, data, run, config, processes, model_of=model_of)
    if not processes.is_first:
        return 0
    if config.maps:
        from medsoft.learn.volume_maps import write_maps

        write_maps(run.maps, frame, data, model, config.maps)
    if bundle is not None and (locked := bundle.locked()) is not None:
        write_decisions(decide(frame, data.task, locked), run.path / "decisions.csv")
    return code


def _bundle(words: Sequence[str], checkpoints: Sequence[str]) -> Bundle | None:
    """The bundle that a command line names, found to be whole."""
    given = option(words, "--bundle")
    if given is None:
        return None
    for other, named in (("--ckpt_path", checkpoints), ("--config", option(words, "--config"))):
        if named:
            raise InputError(f"--bundle brings weights and configuration: leave out {other}")
    return Bundle(given)


def _finish(
    trainer: Trainer,
    model: Any,
    data: Any,
    run: RunFolder,
    config: Any,
    processes: Processes,
    monitor: str | None = None,
    model_of: RunFolder | None = None,
) -> pd.DataFrame:
    splits = [split for split in data.loaded_splits if split != "train" or monitor is None]
    with enough_memory(config, training=False):
        frame = predict_table(trainer, model, data, splits)
    if processes.is_first:
        end_run(run, frame, data, config, trainer, model, monitor, model_of)
    return frame
