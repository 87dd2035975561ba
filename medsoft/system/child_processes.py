"""Child processes that run Python: none of them imports what lies in the current folder.

``python -m``, ``python -c`` and multiprocessing's spawned processes put the current folder first on their path, so that
a ``secrets.py`` in a folder of data would run in place of Python's own. ``-P`` and ``PYTHONSAFEPATH`` keep it out.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

SAFE_PATH = "PYTHONSAFEPATH"


def protect_children() -> None:
    """Keep the current folder off the path of all processes that this one starts, or lets a library start.

    Dask, Lightning, multiprocessing and PyTorch's compiler hand their processes this one's environment.
    """
    os.environ[SAFE_PATH] = "1"


def fork_children() -> str:
    """Have multiprocessing's children begin as copies of a process that has imported what this one has.

    Each would import PyTorch and the rest itself otherwise: seconds of processor time and hundreds of MB.

    Returns:
        The start method to name to whoever starts the children: forkserver, or spawn where the system has no fork that
        is safe.
    """
    protect_children()
    if sys.platform != "linux":
        return "spawn"
    from multiprocessing import forkserver  # not there on Windows

    imported = [name for name in sys.modules if name.partition(".")[0] == "medsoft" and name != "medsoft.__main__"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(imported)
    forkserver.ensure_running()
    return "forkserver"


def child_environment() -> dict[str, str]:
    """This process's environment, for a child that runs Python."""
    return {**os.environ, SAFE_PATH: "1"}


def python_module(module: str, *words: str) -> list[str]:
    """The command that runs a module with this Python, without the current folder on its path."""
    return [sys.executable, "-P", "-m", module, *words]


def python_script(file: Path) -> list[str]:
    """The command that runs a file with this Python, with neither its folder nor the current one on its path."""
    return [sys.executable, "-P", str(file)]


def safe_python(command: str | None) -> str:
    """A command that runs Python elsewhere, such as in a job of a cluster, with ``-P``; None for this Python."""
    return f"{command or sys.executable} -P"
