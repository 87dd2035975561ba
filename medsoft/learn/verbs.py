"""The verbs fit, validate, test and predict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from medsoft.errors import InputError
from medsoft.learn.callbacks import Stopped
from medsoft.learn.checkpoint_io import AtomicCheckpointIO
from medsoft.learn.command_line import CommandLine, option, split_of_this_table
from medsoft.learn.outcome import predict_table, show_path, write_errors_if_any, write_outcome
from medsoft.learn.quiet import quieten
from medsoft.learn.run_folder import RunFolder
from medsoft.learn.training import build_trainer, monitored, training_callbacks


def fit(argv: Sequence[str]) -> int:
    """Train, then predict and score the validation and test parts with the best checkpoint.

    Returns:
        0; 3 where inputs were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to resume from.
    """
    quieten()
    earlier = option(argv, "--resume")
    run = RunFolder.existing(earlier) if earlier else None
    if run and not run.last.is_file():
        raise InputError(f"{run.path}: has no checkpoint to go on from; start it again with --config {run.config}")
    line = CommandLine("fit", split_of_this_table(["--config", str(run.config), *argv] if run else argv))
    config, data, model = line.config, line.datamodule, line.model
    data.load(["train", "val", "test"])

    resumed = run is not None
    if run is None:
        run = RunFolder.create(config.out, config.name)
        run.write_split(data.samples.frame)
        run.write_config(line.reproducible(run.split))
        run.write_versions("fit", argv)
    print("\n".join([*data.notes, f"Run: {show_path(run.path)}"]))

    trainer = build_trainer(config, training_callbacks(config, run, data.task.kind), logs=run)
    try:
        trainer.fit(model, data, ckpt_path=run.last if resumed else None, weights_only=True)
    except (Stopped, KeyboardInterrupt) as stop:
        signal_number = stop.signal if isinstance(stop, Stopped) else 2
        print(f"Stopped. Go on with: medsoft fit --resume {show_path(run.path)}", file=sys.stderr)
        return 128 + signal_number
    _load_weights(model, run.best)
    return _finish(trainer, model, data, run, config, monitored(config.monitor, data.task.kind)[0])


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
    given = option(argv, "--ckpt_path")
    checkpoint, run_config = _find_checkpoint(given) if given else (None, None)
    if run_config and option(argv, "--config") is None:
        argv = ["--config", str(run_config), *argv]
    line = CommandLine(verb, split_of_this_table(argv))
    if checkpoint is None:
        raise InputError("--ckpt_path is missing: the folder of a run, or a checkpoint file")
    config, data, model = line.config, line.datamodule, line.model
    splits = {"validate": ["val"], "test": ["test"]}.get(verb) or list(dict.fromkeys(data.samples.frame["split"]))
    data.load(splits)
    if not data.loaded_splits:
        raise InputError(f"{config.data.table}: has no rows of the split {splits[0]}")
    _load_weights(model, checkpoint)
    run = RunFolder.create(config.out, f"{config.name}-{verb}")
    run.write_config(line.resolved())
    run.write_versions(verb, argv)
    print(f"Run: {show_path(run.path)}")
    return _finish(build_trainer(config, []), model, data, run, config)


def _finish(trainer: Trainer, model: Any, data: Any, run: RunFolder, config: Any, monitor: str | None = None) -> int:
    splits = [split for split in data.loaded_splits if split != "train"] or data.loaded_splits
    frame = predict_table(trainer, model, data, splits)
    write_outcome(run, frame, data, config.pictures, monitor)
    code = write_errors_if_any(run, data.errors)
    print(f"Results: {show_path(run.path)}")
    return code


def _find_checkpoint(given: str) -> tuple[Path, Path | None]:
    """A checkpoint's file, and the configuration of the run that it lies in, if it lies in one."""
    path = Path(given)
    if path.is_dir():
        run = RunFolder.existing(given)
        if not run.best.is_file():
            raise InputError(f"{given}: this run has no checkpoint yet")
        return run.best, run.config
    if not path.is_file():
        raise InputError(f"--ckpt_path {given}: no such file")
    config = RunFolder(path.resolve().parents[1]).config
    return path, config if config.is_file() else None


def _load_weights(model: LightningModule, checkpoint: Path) -> None:
    state = AtomicCheckpointIO().load_checkpoint(checkpoint)
    model.on_load_checkpoint(state)
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"{checkpoint}: these are not weights of this model: {reason}") from None
