"""Nothing in the report that names a patient: ids stay in the tables beside it, and paths lose their folders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import PurePath, PureWindowsPath
from typing import Any

import pandas as pd

HIDDEN = "…"


def names_in(frame: pd.DataFrame) -> frozenset[str]:
    """All ids, patients and exams of a predictions table."""
    return frozenset(name for column in ("id", "patient", "exam") for name in frame[column].unique() if name)


def without_names(text: str, names: frozenset[str]) -> str:
    """A note in which quoted ids, patients and exams are hidden, and the folders of files."""
    text = re.sub(r"(?<![\w…])[/~][^\s'\"]*/([^\s'\"/]+)", rf"{HIDDEN}/\1", text)
    return re.sub(r"'([^']*)'", lambda quoted: f"'{HIDDEN}'" if quoted[1] in names else quoted[0], text)


def without_folders(value: Any) -> Any:
    """A configuration in which paths are names of files: folders can be named after people or studies.

    Infinite numbers (a penalty that is switched off) are written as in YAML: JSON has no word for them.
    """
    if isinstance(value, dict):
        return {key: without_folders(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [without_folders(inside) for inside in value]
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return value


def _short(word: str) -> str:
    """``--data.table=/home/ann/eyes.csv`` becomes ``--data.table=…/eyes.csv``; relative ones are cut too."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    path = PureWindowsPath(value) if "\\" in value else PurePath(value)
    names_a_file = path.is_absolute() or value.startswith(("~", ".")) or bool(path.suffix)
    if len(path.parts) < 2 or "://" in value or not names_a_file:
        return word
    return f"{option}{equals}{HIDDEN}/{path.name}"


def listed(words: Iterable[str]) -> str:
    """A command line without folders."""
    short = (str(without_folders(word)) for word in words)
    return " ".join(f"'{word}'" if " " in word else word for word in short)
