"""Checkpoints that are whole or not there, and that hold nothing but tensors and plain values."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from medsoft.errors import InputError, RunError
from medsoft.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their name and renamed.

    Lightning writes its temporary file to the system's temporary folder, so that on another file system the final step
    is a copy, which a kill leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            RunError: no space left or no right to write; what was there before stays whole.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            raise RunError(_reason(target, error)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read with ``weights_only``: a checkpoint is never unpickled.

        Raises:
            InputError: no checkpoint of a training.
        """
        try:
            checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):  # torch's message is a lecture on pickle
            checkpoint = None
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise InputError(f"{path}: this is no checkpoint of medsoft, or it is damaged")
        return checkpoint


def _reason(target: Path, error: Exception) -> str:
    # torch's writer raises a RuntimeError of its own while it handles the system's error.
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) is None:
        cause = cause.__context__
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{target}: not written, the disk or quota is full ({cause}); what was saved before is kept"
    return f"{target}: not written: {cause or error}; what was saved before is kept"
