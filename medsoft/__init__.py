"""Compute-efficient transformers for medical images.

In Python: ``medsoft.load``, ``medsoft.fit``, ``medsoft.evaluate``, ``medsoft.open_slide``, ``medsoft.open_bag``,
``medsoft.read_volume``, ``medsoft.ProbeClassifier`` and ``medsoft.ProbeRegressor`` (``medsoft.api``). They are imported
when they are first used: ``import medsoft`` loads nothing heavy.
"""

from typing import Any

__version__ = "0.1.0"

_IN_PYTHON = ("load", "fit", "evaluate", "open_slide", "open_bag", "read_volume", "ProbeClassifier", "ProbeRegressor")


def __getattr__(name: str) -> Any:
    if name not in _IN_PYTHON:
        raise AttributeError(f"module 'medsoft' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("medsoft.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_IN_PYTHON])
