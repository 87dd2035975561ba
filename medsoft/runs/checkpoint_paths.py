"""Resolves what the user names as a trained model to a file, before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsoft.errors import InputError

ABOUT, SUMS = "bundle.json", "SHA256SUMS"
"""What every bundle has: what the model is, and the hashes of all files."""

PLAN = "crossval.json"
"""What the folder of a cross-validation has."""

AUTO = "auto.json"
"""What the folder of ``medsoft auto`` has."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model.

    Attributes:
        file: with the weights.
        config: of the run that it lies in; None where it lies in none.
    """

    file: Path
    config: Path | None


def checkpoint_file(checkpoint: Path) -> Path:
    """The file of a checkpoint that is named by itself, or by its run's folder for the best one.

    Raises:
        InputError: there is none.
    """
    path = checkpoint / "checkpoints" / "best.ckpt" if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        hint = "; it is a bundle: name it with --bundle" if is_bundle(checkpoint) else ""
        raise InputError(f"{checkpoint}: no such checkpoint{hint}")
    return path


def check_bundle(path: Path) -> None:
    """Check that this is the folder of a bundle; its files are not looked at.

    Raises:
        InputError: it is none.
    """
    if not is_bundle(path):
        raise InputError(f"{path}: not a bundle of medsoft export (a folder with {ABOUT} and {SUMS})")


def is_bundle(path: str | Path) -> bool:
    """Whether this is a folder that says it is a bundle."""
    return (Path(path) / ABOUT).is_file() and (Path(path) / SUMS).is_file()


def is_crossval(path: str | Path) -> bool:
    """Whether this is the folder of a cross-validation, whose folds have checkpoints."""
    return (Path(path) / PLAN).is_file()


def check_holds_no_run(out: str | Path) -> None:
    """Check that a folder to write into is none whose predictions, configuration or report would be lost.

    Raises:
        InputError: it is the folder of a run, of a cross-validation, of ``medsoft auto``, or a bundle.
    """
    path = Path(out)
    if is_bundle(path):
        raise InputError(f"--out {out}: is a bundle, whose files must stay as they are; name another")
    whose = "medsoft auto" if (path / AUTO).is_file() else "a cross-validation" if is_crossval(path) else "a run"
    if whose != "a run" or (path / "config.yaml").is_file():
        raise InputError(
            f"--out {out}: is the folder of {whose}, whose predictions and report would be lost; name another"
        )
