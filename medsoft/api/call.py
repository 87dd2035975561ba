"""Calls verbs of the command line from Python, with options as keywords."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from medsoft.cli.main import function_of
from medsoft.errors import RunError
from medsoft.system.child_processes import protect_children


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them.

    Args:
        options: names with a dot, or in its place two underscores, as scikit-learn has them: ``data__patient`` and
            ``"data.patient"`` are ``--data.patient``. Values are numbers, text, paths, booleans, None, or lists and
            dictionaries of these.
    """
    return [f"--{name.replace('__', '.')}={_value(value)}" for name, value in options.items()]


def _value(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy
        value = value.tolist()
    return json.dumps(value, default=str)


def call(verb: str, words: Sequence[str]) -> tuple[int, str]:
    """Run a verb in this process.

    Args:
        verb: such as ``fit``.
        words: as typed after it.

    Returns:
        The exit code, which is 0, or 3 where some inputs failed; and what a terminal would have shown.

    Raises:
        InputError: the call is wrong, or the data is.
        RunError: the work ended early.
        KeyboardInterrupt: it was stopped, and can be resumed.
    """
    protect_children()
    said = io.StringIO()
    with redirect_stdout(said):
        code = function_of(verb)(list(words)) or 0
    if code == 130:
        raise KeyboardInterrupt
    if code not in (0, 3):
        raise RunError(said.getvalue().strip() or f"ended with exit code {code}")
    return code, said.getvalue()
