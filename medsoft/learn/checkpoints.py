"""From what a user names to a checkpoint's file, and from there into a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningModule

from medsoft.errors import InputError
from medsoft.learn.bundle import Bundle
from medsoft.learn.checkpoint_file import is_bundle
from medsoft.learn.checkpoint_io import AtomicCheckpointIO
from medsoft.learn.command_line import option, read_configuration
from medsoft.learn.crossval_folder import CrossvalFolder
from medsoft.learn.run_folder import RunFolder


@dataclass(frozen=True)
class Checkpoint:
    """A trained model.

    Attributes:
        file: with the weights.
        config: of the run that it lies in; None where it lies in none.
    """

    file: Path
    config: Path | None


def find_checkpoint(given: str) -> Checkpoint:
    """The checkpoint of a run's folder, its best one, or a checkpoint's file.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    if path.is_dir():
        run = RunFolder.existing(given)
        if not run.best.is_file():
            raise InputError(f"{given}: this run has no checkpoint yet")
        return Checkpoint(run.best, run.config)
    if not path.is_file():
        raise InputError(f"--ckpt_path {given}: no such file")
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
            raise InputError(f"--ckpt_path: {file} is named twice")
    return found


def with_folds(given: Sequence[str]) -> list[str]:
    """What is named, with the folder of a cross-validation replaced by the runs of all its folds.

    Raises:
        InputError: such a folder is damaged.
    """
    names: list[str] = []
    for name in given:
        folder = CrossvalFolder(Path(name))
        names += [str(folder.run(fold.number).path) for fold in folder.folds] if folder.plan.is_file() else [name]
    return names


def without_checkpoints(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What ``--ckpt_path A B C`` names, else the configuration's ``ckpt_path``, and the command line without it."""
    named: list[str] = []
    rest: list[str] = []
    reading = False
    for word in words:
        if word == "--ckpt_path" or word.startswith("--ckpt_path="):
            named, reading = [word.removeprefix("--ckpt_path=")] if "=" in word else [], "=" not in word
        elif reading and not word.startswith("--"):
            named.append(word)
        else:
            rest.append(word)
            reading = False
    config = option(words, "--config")
    if not named and config is not None:
        saved = read_configuration(Path(config)).get("ckpt_path")
        named = [saved] if isinstance(saved, str) else list(saved or [])
    return named, rest


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
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"{checkpoint}: these are not weights of this model: {reason}") from None
