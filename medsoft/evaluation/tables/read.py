"""The tables that a call names: parts of one model's predictions, and columns of the sample table beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.evaluation.tables.recorded import check_recorded
from medsoft.storage.own_files import require_file
from medsoft.task import Task
from medsoft.text.csv_text import parquet_header, read_csv_text
from medsoft.text.sheets import SUFFIX, split_sheet
from medsoft.text.spelling import normal_form
from medsoft.text.xlsx_text import read_xlsx_text


@dataclass(frozen=True)
class Predictions:
    """One model's predictions.

    Attributes:
        frame: the rows of all files.
        task: what they answer.
        inputs: of each file its name, SHA-256 and number of rows.
    """

    frame: pd.DataFrame
    task: Task
    inputs: tuple[dict[str, Any], ...]


FILES_OF_A_FOLDER = ("predictions.csv", "validation.csv")
"""What a run's folder, or that of a cross-validation, holds of predictions."""


def files_of(paths: Sequence[str | Path]) -> list[Path]:
    """The predictions tables that are named, those of a folder in its place.

    Raises:
        InputError: a folder holds none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        inside = [path / name for name in FILES_OF_A_FOLDER if (path / name).is_file()] if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: this folder holds no predictions.csv")
        files += inside
    return files


def read_parts(paths: Sequence[str | Path]) -> Predictions:
    """Read the files that hold one model's predictions between them: val and test apart, or the folds.

    A folder stands for the predictions in it.

    Raises:
        InputError: a file is no valid predictions table, the files ask different questions, or a sample is there
            twice in its split and fold.
    """
    if not paths:
        raise InputError("no predictions: name one or several tables, such as runs/eyes/predictions.csv")
    frames, tasks, inputs = [], [], []
    paths = files_of(paths)
    for path in paths:
        frame, task = read_either(path)
        frames.append(frame)
        tasks.append(task)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        inputs.append({"file": str(path), "sha256": digest, "rows": len(frame)})
    for given, task in zip(paths, tasks, strict=True):
        if task != tasks[0]:
            raise InputError(
                f"{given}: {_asked(task)}, but {paths[0]}: {_asked(tasks[0])}; one call evaluates one model "
                "(medsoft compare takes several)"
            )
    frame = pd.concat(frames, ignore_index=True)
    again = frame.duplicated(["id", "split", "fold"])
    if again.any():
        first = frame[again].iloc[0]
        places = [
            f"{path} (row {row})" for path, part in zip(paths, frames, strict=True) for row in range(1, len(part) + 1)
        ]
        same = (frame[["id", "split", "fold"]] == first[["id", "split", "fold"]]).all(axis=1)
        both = [places[at] for at in np.flatnonzero(same)]
        raise InputError(
            f"{int(again.sum())} samples are there twice in their split and fold, such as {first['id']!r} in "
            f"{' and '.join(both)}; one call evaluates one model (medsoft compare takes several)"
        )
    return Predictions(frame, tasks[0], tuple(inputs))


def read_either(path: str | Path) -> tuple[pd.DataFrame, Task]:
    """Read a predictions table.

    Raises:
        InputError: the file cannot be read or is no valid predictions table; all problems are listed. Or it is not as
            the run in whose folder it lies wrote it.
    """
    require_file(Path(path))
    check_recorded(Path(path))
    return read_predictions(path)


def _asked(task: Task) -> str:
    return task.kind if not task.has_classes else f"{task.kind} with the classes {', '.join(task.classes)}"


def read_samples(path: str | Path) -> pd.DataFrame:
    """A sample table as text, "" where empty.

    Raises:
        InputError: it cannot be read, or its header is refused.
    """
    path, sheet = split_sheet(path)
    require_file(path)
    if path.suffix.lower() == SUFFIX:
        return read_xlsx_text(path, sheet)
    if path.suffix.lower() != ".parquet":
        return read_csv_text(path, what="sample table")[0]
    try:
        parquet_header(path, f"{path}: the sample table")
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read the sample table: {error}") from error
    return frame.astype(object).where(frame.notna(), "").astype(str)


def join_samples(frame: pd.DataFrame, samples: pd.DataFrame, column: str | None, name: str) -> pd.DataFrame:
    """The sample table's columns for each row of the predictions, (N, ...) of text; "" where it has no such sample.

    Args:
        frame: predictions.
        samples: as read by ``read_samples``.
        column: which of its columns names the sample, by its id or by a file whose name without suffix is the id;
            by default ``id``.
        name: of the table, for messages.

    Raises:
        InputError: the column does not exist or names samples twice, or no sample is found.
    """
    if column is None and "id" not in samples:
        likely = [str(other) for other in samples if _keys(samples[other]).isin(set(frame["id"])).any()]
        advice = f"; {' and '.join(likely)} would do: --id {likely[0]}" if likely else ""
        raise InputError(f"{name}: there is no column id; name the one that holds the ids with --id{advice}")
    column = column or "id"
    if column not in samples:
        raise InputError(f"{name}: there is no column {column!r}; there are {', '.join(map(str, samples))}")
    wanted = set(frame["id"])
    key = samples[column] if samples[column].isin(wanted).any() else _keys(samples[column])
    found = key.isin(wanted)
    if not found.any():
        raise InputError(
            f"{name}: no value of {column!r} ({str(samples[column].iloc[0])!r} …) is an id of the predictions "
            f"({frame['id'].iloc[0]!r} …); --id names another column"
        )
    twice = found & key.duplicated(keep=False)
    if twice.any():
        lines: npt.NDArray[np.intp] = np.flatnonzero(twice)[:5] + 2
        raise InputError(f"{name}: {column!r} names samples twice, in lines {', '.join(map(str, lines))}")
    missed = {normal_form(id) for id in wanted - set(key)}
    if alike := int(key.map(lambda value: normal_form(str(value)) in missed).sum()):
        raise InputError(
            f"{name}: {column!r} differs from the ids of the predictions in writing only in {alike} rows (case, zeros, "
            "spaces or invisible marks): write them alike, or these samples would have no columns"
        )
    used = samples[found].set_axis(key[found], axis=0)
    return used.reindex(frame["id"]).fillna("").reset_index(drop=True)


def _keys(values: pd.Series) -> pd.Series:
    """Names of files without folder and suffix."""
    return values.map(lambda value: Path(value).stem)
