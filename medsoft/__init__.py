"""Compute-efficient transformers for medical images.

In Python: ``medsoft.load``, ``medsoft.fit``, ``medsoft.evaluate``, ``medsoft.open_slide``, ``medsoft.open_bag``,
``medsoft.read_volume``, ``medsoft.ProbeClassifier`` and ``medsoft.ProbeRegressor`` (``medsoft.api``). They are imported
when they are first used: ``import medsoft`` loads nothing heavy.
"""

import sys
from typing import Any

__version__ = "0.1.0"

_IN_PYTHON = ("load", "fit", "evaluate", "open_slide", "open_bag", "read_volume", "ProbeClassifier", "ProbeRegressor")


class _NoTrackerForTimm:
    """timm imports wandb where it is installed, for summaries that nobody here asks for.

    That takes seconds at every start, and looks for a network. ``--logger wandb`` imports it itself.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing; raise ImportError where timm looks for wandb."""
        if name != "wandb":
            return
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None and frame.f_globals.get("__name__") == "timm.utils.summary":
            raise ImportError("timm does without wandb in medsoft")


sys.meta_path.insert(0, _NoTrackerForTimm)


def __getattr__(name: str) -> Any:
    if name not in _IN_PYTHON:
        raise AttributeError(f"module 'medsoft' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("medsoft.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_IN_PYTHON])
