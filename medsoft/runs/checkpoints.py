"""Loads a model from the run, bundle or file that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule

from medsoft.errors import InputError
from medsoft.parsing.configurations import read_configuration
from medsoft.parsing.words import Words
from medsoft.runs.auto_folder import AutoFolder
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.runs.checkpoint_paths import Checkpoint, is_bundle
from medsoft.runs.crossval_folder import CrossvalFolder
from medsoft.runs.run_folder import RunFolder


def find_checkpoint(given: str) -> Checkpoint:
    """The checkpoint of a run's folder, its best one, or a checkpoint's file.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    if is_bundle(path):
        raise InputError(f"--checkpoint {given}: is a bundle: name it with --bundle")
    if path.is_dir():
        run = RunFolder.existing(given)
        if not run.best.is_file():
            raise InputError(f"{given}: this run has no checkpoint yet")
        return Checkpoint(run.best, run.config)
    if not path.is_file():
        raise InputError(f"--checkpoint {given}: no such file")
    config = RunFolder(path.resolve().parent.parent).config
    return Checkpoint(path, config if config.is_file() else None)


def find_checkpoints(given: Sequence[str]) -> list[Checkpoint]:
    """One checkpoint for each that is named; for the folder of a cross-validation those of all its folds.

    Raises:
        InputError: there is none, or one is named twice.
    """
    found = [find_checkpoint(name) for name in with_folds(given)]
    files = [checkpoint.file.resolve() for checkpoint in found]
    for file in files:
        if files.count(file) > 1:
            raise InputError(f"--checkpoint: {file} is named twice")
    return found


def with_folds(given: Sequence[str]) -> list[str]:
    """What is named, with the folder of a cross-validation replaced by the runs of all its folds.

    The folder of ``medsoft auto`` stands for the cross-validations of the candidates that it chose.

    Raises:
        InputError: such a folder is damaged, or nothing is chosen yet.
    """
    names: list[str] = []
    for name in given:
        auto = AutoFolder(Path(name))
        folders = auto.chosen if auto.state.is_file() else [CrossvalFolder(Path(name))]
        for folder in folders:
            names += [str(folder.run(fold.number).path) for fold in folder.folds] if folder.plan.is_file() else [name]
    return names


def locking_run(given: Sequence[str]) -> RunFolder | None:
    """The folder of ``medsoft auto`` where it alone is named: it locked thresholds for all of its models together."""
    is_auto = len(given) == 1 and AutoFolder(Path(given[0])).state.is_file()
    return RunFolder(Path(given[0])) if is_auto else None


def named_checkpoints(words: Words) -> list[str]:
    """What ``--checkpoint A B C`` names, else the configuration's ``checkpoint``."""
    config, given = words.last("config"), words.all("checkpoint")
    if given or config is None:
        return given
    saved = read_configuration(Path(config)).get("checkpoint")
    return [saved] if isinstance(saved, str) else list(saved or [])


def load_weights(model: LightningModule, checkpoint: Path) -> None:
    """Put the weights of a checkpoint's file, or of a bundle's folder, into a model.

    Raises:
        InputError: it is no checkpoint of this model, or answers another question.
    """
    of_bundle = is_bundle(checkpoint)
    state = Bundle(checkpoint).state() if of_bundle else AtomicCheckpointIO().load_checkpoint(checkpoint)
    model.on_load_checkpoint(state)
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        raise InputError(f"{checkpoint}: these are not weights of this model: {reason}") from None
