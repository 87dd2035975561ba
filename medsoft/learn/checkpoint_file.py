"""Which file a word for a trained model means, found out before torch is imported."""

from __future__ import annotations

from pathlib import Path

from medsoft.errors import InputError

ABOUT, SUMS = "bundle.json", "SHA256SUMS"
"""What every bundle has: what the model is, and the hashes of all files."""

PLAN = "crossval.json"
"""What the folder of a cross-validation has."""


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
        raise InputError(f"{path}: no bundle of medsoft export (a folder with {ABOUT} and {SUMS})")


def is_bundle(path: str | Path) -> bool:
    """Whether this is a folder that says it is a bundle."""
    return (Path(path) / ABOUT).is_file() and (Path(path) / SUMS).is_file()


def is_crossval(path: str | Path) -> bool:
    """Whether this is the folder of a cross-validation, whose folds have checkpoints."""
    return (Path(path) / PLAN).is_file()
