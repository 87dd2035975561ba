"""Checks that the checkpoints of a training will fit on the disk before the first epoch."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from medsoft.errors import InputError
from medsoft.system.logging import event

COPIES = 3
"""The best and the last state, and one that is being written."""

OPTIMISER_VALUES = 2
"""AdamW keeps two numbers for each weight."""


def check_space(folder: Path, model: nn.Module, resumed: bool) -> None:
    """Refuse to train where the checkpoints cannot fit.

    Args:
        folder: of the run; it need not be there yet.
        model: what is trained.
        resumed: whether two of the checkpoints are there already.

    Raises:
        InputError: the disk has less space.
    """
    need = checkpoint_bytes(model) * (1 if resumed else COPIES)
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    disk = shutil.disk_usage(place)
    event("disk", expected=need, at_most=need, free=disk.free)
    if need > disk.free and disk.total:  # what is no disk, such as /proc, has a size of 0
        raise InputError(
            f"{folder}: the checkpoints of this model need {need / 2**20:,.1f} MiB, but {disk.free / 2**20:,.1f} MiB "
            "are free. Free some, or take another --out"
        )


def checkpoint_bytes(model: nn.Module) -> int:
    """Size of a checkpoint: all weights and buffers, and the optimiser's numbers for those that are trained."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return size + OPTIMISER_VALUES * sum(parameter.numel() * parameter.element_size() for parameter in trained)
