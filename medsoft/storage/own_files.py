"""Files that medsoft itself wrote, read as what they may have become: cut short, altered, or something else.

Each kind has one reader, which gives what was asked for or raises one sentence that names the file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from medsoft.errors import InputError


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds named values.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    require_file(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):  # not UTF-8, or no JSON
        raise InputError(f"{path}: is damaged: it holds no JSON, or was cut short") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: is damaged: it holds a {type(values).__name__}, not named values")
    return values


def require_file(path: Path) -> None:
    """Check that a path is no directory, pipe or device, of which the last two may be read for ever.

    Raises:
        InputError: it is; what is not there passes.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory, not a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a pipe or a device, not a file")


def value_of(values: dict[str, Any], name: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """A value of a JSON file, of the type that it must have.

    Args:
        values: of the file.
        name: of the value.
        kind: type, or types; bool counts as no number.
        path: for the message.

    Raises:
        InputError: it is missing, or of another type.
    """
    if name not in values:
        raise InputError(f"{path}: is damaged: it says nothing of {name!r}")
    value = values[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise InputError(f"{path}: is damaged: {name!r} is a {type(value).__name__}, not {wanted}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: is damaged: {name!r} is no finite number")
    return value


def words(values: dict[str, Any], name: str, path: Path) -> tuple[str, ...]:
    """A list of text of a JSON file.

    Raises:
        InputError: it is missing, or holds something else.
    """
    found = value_of(values, name, list, path)
    if not all(isinstance(word, str) for word in found):
        raise InputError(f"{path}: is damaged: {name!r} holds other things than text")
    return tuple(found)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
