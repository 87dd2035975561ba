"""Writes and reads checkpoints, completely or not at all, with nothing but tensors and plain values."""

from __future__ import annotations

import errno
import math
import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import InputError, RunError
from medsoft.storage.files import replacing
from medsoft.storage.own_files import require_file, value_of
from medsoft.task import Task

OF_FEATURES = {field.name for field in fields(EncoderIdentity)}
"""What a checkpoint says of the features that it learnt from."""
LATER = {"precision"}
"""Of these what checkpoints of earlier versions do not say."""


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
        """Read with ``weights_only``: a checkpoint is never unpickled. Its checksums are compared: torch does not.

        Raises:
            InputError: no checkpoint of a training, or one that was cut short or altered.
        """
        require_file(Path(path))
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    whole = archive.testzip() is None
            else:
                whole = True
            checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True) if whole else None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        except Exception:  # torch answers damaged bytes with every kind of exception, and a lecture on pickle
            checkpoint = None
        state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise InputError(f"{path}: this is not a medsoft checkpoint, or it is damaged")
        assert checkpoint is not None
        if "medsoft" in checkpoint:
            check_model(checkpoint["medsoft"], Path(path))
        loaded: dict[str, Any] = checkpoint
        return loaded


def check_model(known: Any, path: Path) -> dict[str, Any]:
    """What a checkpoint or a bundle says of its model, found to be of the types that are needed.

    Raises:
        InputError: it is not.
    """
    if not isinstance(known, dict):
        raise InputError(f"{path}: is damaged: it does not say what its model is")
    task = value_of(known, "task", dict, path)
    classes = value_of(task, "classes", (list, tuple), path)
    try:
        if not isinstance(task.get("kind"), str) or not all(isinstance(name, str) for name in classes):
            raise ValueError("no question")
        Task.from_json(task)
    except ValueError as error:
        raise InputError(f"{path}: is damaged: its task is invalid ({error})") from None
    if "aggregator" in known:
        about = value_of(known, "aggregator", dict, path)
        if not all(value_of(about, name, int, path) > 0 for name in ("num_features", "num_classes")):
            raise InputError(f"{path}: is damaged: its aggregator has no features or no classes")
        value_of(about, "name", str, path)
        value_of(about, "options", dict, path)
        value_of(known, "slides", (dict, type(None)), path)
        features = value_of(known, "features", dict, path)
        if not OF_FEATURES - LATER <= features.keys() <= OF_FEATURES:
            raise InputError(f"{path}: is damaged: it does not say which features it was trained on")
        for name in features:
            value_of(features, name, str, path)
        if known.get("group") not in (None, "slide", "patient"):
            raise InputError(f"{path}: is damaged: its group is neither slide nor patient")
    if known.get("covariates") is not None:
        beside = value_of(known, "covariates", dict, path)
        names, scale = (value_of(beside, name, (list, tuple), path) for name in ("names", "scale"))
        if len(names) != len(scale) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: is damaged: its covariates have no names, or no scale each")
        pairs = [[one for one in pair if isinstance(one, int | float) and math.isfinite(one)] for pair in scale]
        if any(len(pair) != 2 or not pair[1] > 0 for pair in pairs):
            raise InputError(f"{path}: is damaged: the scale of its covariates is not a mean and standard deviation")
    _check_learnt(known, path)
    if "targets" in known:
        targets = value_of(known, "targets", dict, path)
        if set(targets) != {one.name for one in Task.from_json(task).parts}:
            raise InputError(f"{path}: is damaged: it does not say what each target has learnt")
        for name in targets:
            _check_learnt(value_of(targets, name, dict, path), path)
    if "image_size" in known:
        sides = value_of(known, "image_size", (list, tuple), path)
        if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
            raise InputError(f"{path}: is damaged: its image_size is invalid")
        if value_of(known, "channels", int, path) < 1:
            raise InputError(f"{path}: is damaged: it has no channels")
    return known


def _check_learnt(known: dict[str, Any], path: Path) -> None:
    """Check what a question, or one of several targets, keeps of its training part.

    Raises:
        InputError: it cannot be.
    """
    if known.get("target_scale") is not None:
        scale = value_of(known, "target_scale", (list, tuple), path)
        numbers = [value for value in scale if isinstance(value, int | float) and math.isfinite(value)]
        if len(scale) != 2 or len(numbers) != 2 or not numbers[1] > 0:
            raise InputError(f"{path}: is damaged: its target_scale is not a mean and standard deviation")
    if "hazards" in known:
        _check_hazards(value_of(known, "hazards", dict, path), path)


def _check_hazards(known: dict[str, Any], path: Path) -> None:
    """Check what a model of survival keeps of its training part: numbers, of which times and hazards rise.

    Raises:
        InputError: they are none.
    """
    value_of(known, "head", str, path)
    rows = [[known.get("centre")], *known.get("baseline", []), known.get("cuts", [])]
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for row in rows for value in row)
    if not numbers or any(list(row) != sorted(row) for row in rows) or len(known.get("baseline", [[], []])) != 2:
        raise InputError(f"{path}: is damaged: its hazards are no rising numbers")


def _reason(target: Path, error: Exception) -> str:
    # torch's writer raises a RuntimeError of its own while it handles the system's error.
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) is None:
        cause = cause.__context__
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{target}: not written, the disk or quota is full ({cause}); everything saved before is kept"
    return f"{target}: not written: {cause or error}; everything saved before is kept"
