"""What a run wrote down of its tables of predictions, so that one that was cut short or altered is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsoft.errors import InputError
from medsoft.storage.own_files import read_json_object

OF_SLIDES = "predictions.json"
RECORDS = ("facts.json", "metrics.json", OF_SLIDES)
"""Files beside a table that may say what it was: of a run, of a cross-validation, of ``slides predict``."""
FILES = "files"


def record_of(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Lines (rows and header) and SHA-256 of each table that is there, by name."""
    found = {}
    for path in paths:
        if path.is_file():
            content = path.read_bytes()
            found[path.name] = {"lines": content.count(b"\n"), "sha256": hashlib.sha256(content).hexdigest()}
    return found


def check_recorded(path: Path) -> None:
    """Check that a table is as the run in whose folder it lies wrote it; elsewhere, any table is taken as it is.

    Raises:
        InputError: it is not, or what the run wrote down is damaged.
    """
    for name in RECORDS:
        beside = path.with_name(name)
        if not path.is_file() or not beside.is_file():
            continue
        files = read_json_object(beside).get(FILES)
        known = files.get(path.name) if isinstance(files, dict) else None
        if not isinstance(known, dict):
            continue
        now = record_of([path])[path.name]
        if now["sha256"] != known.get("sha256"):
            raise InputError(
                f"{path}: is not as the run wrote it: {now['lines']} lines are there, and {known.get('lines')} were "
                "written. It was cut short or altered; restore it, or copy it to another folder to use it as it is"
            )
