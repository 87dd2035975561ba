"""The sample table: one row a sample, checked before anything else happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from medsoft.data import checks
from medsoft.data.labels import Targets, Uncertain, Words, read_labels, words
from medsoft.data.problems import Problem, TableError, write_errors
from medsoft.data.read import locate
from medsoft.data.source import load_source, require_columns, text
from medsoft.errors import InputError
from medsoft.task import Task

__all__ = ["OnError", "Problem", "SampleFiles", "SampleTable", "TableError", "read_table", "write_errors"]

OnError = Literal["error", "skip", "keep"]
"""What to do about problems: raise them, leave the rows out, or keep all rows and list the problems besides."""

_PATIENT_NAMES = {"patient", "patient_id", "patientid", "subject", "subject_id", "case_id"}


def _nothing_dropped() -> pd.DataFrame:
    return pd.DataFrame(columns=["id", "path", "stage", "reason"])


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Samples, their files and their targets.

    Attributes:
        source: the file that the table was read from.
        frame: one row a sample: ``id`` (unique, no path), ``path`` (absolute), ``row`` (in the source, from 1),
            ``patient``, ``exam``, ``site`` and ``split`` ("" where unknown), then the target columns of ``task``
            (names of classes, "" where unknown; for multilabel 1.0, 0.0 or NaN; for regression a number or NaN),
            then the columns of the source
            whose names are not taken.
        task: the question, or None without labels.
        notes: sentences for the log on what was decided while reading.
        dropped: rows left out with ``on_error="skip"``: ``id``, ``path``, ``stage``, ``reason``.
        problems: what is wrong with rows kept with ``on_error="keep"``.
    """

    source: Path
    frame: pd.DataFrame
    task: Task | None
    notes: tuple[str, ...] = ()
    dropped: pd.DataFrame = field(default_factory=_nothing_dropped)
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def splits(self) -> list[str]:
        """The splits that have rows, of train, val and test in this order; empty for a table without splits."""
        present = set(self.frame["split"])
        return [split for split in checks.SPLITS if split in present]

    @property
    def targets(self) -> np.ndarray:
        """Class indices (N,) int64, -1 where unknown.

        For multilabel (N, L) float32, for regression (N,) float64, NaN where unknown.

        Raises:
            ValueError: the table has no labels.
        """
        if self.task is None:
            raise ValueError(f"{self.source} was read without labels")
        columns = self.frame[self.task.target_columns]
        if self.task.kind == "multilabel":
            return columns.to_numpy(dtype=np.float32)
        if self.task.kind == "regression":
            return columns["target"].to_numpy(dtype=np.float64)
        index = {name: i for i, name in enumerate(self.task.classes)}
        return columns["target"].map(index).fillna(-1).to_numpy(dtype=np.int64)

    @property
    def groups(self) -> np.ndarray:
        """What must stay together when splitting, (N,) of text: the patient, else the exam, else the sample itself."""
        for column in (self.frame["patient"], self.frame["exam"]):
            if (column != "").any():
                return column.where(column != "", self.frame["id"]).to_numpy(dtype=object)
        return self.frame["id"].to_numpy(dtype=object)

    @property
    def has_split(self) -> bool:
        """Whether rows are assigned to splits."""
        return bool((self.frame["split"] != "").any())

    def select(self, rows: np.ndarray) -> SampleTable:
        """The rows of a mask (N,) of bool, in the same order."""
        return replace(self, frame=self.frame[rows].reset_index(drop=True))

    def subset(self, split: str) -> SampleTable:
        """The rows of one split, in the same order."""
        return self.select((self.frame["split"] == split).to_numpy())

    def with_split(self, split: str | np.ndarray) -> SampleTable:
        """The same rows assigned anew: all to one split, or each to its own (N,)."""
        return replace(self, frame=self.frame.assign(split=split))


class SampleFiles(Protocol):
    """What stands for the pictures where a table's samples are something else."""

    def locate(self, value: str, id: str) -> str:
        """The absolute path of a row's file; "" where the row names none.

        Args:
            value: the row's path, as written.
            id: the row's, "" where the table has no such column.
        """

    def check(self, frame: pd.DataFrame) -> list[Problem]:
        """Problems of the files and of what they say together; ``frame`` is that of a SampleTable."""


def read_table(
    table: str | Path,
    *,
    source: pd.DataFrame | None = None,
    files: SampleFiles | None = None,
    root: str | Path | None = None,
    path: str = "path",
    label: str | Sequence[str] | None = "label",
    task: str | None = None,
    positive: Words = None,
    classes: Words = None,
    patient: str | None = None,
    site: str | None = None,
    exam: str | None = None,
    id: str | None = None,
    split: str | None = "split",
    rename_splits: Mapping[str, str] | None = None,
    uncertain: Uncertain | Mapping[str, Uncertain] | None = None,
    require_labels: bool = True,
    on_error: OnError = "error",
) -> SampleTable:
    """Read a sample table and check all of it, without opening pictures.

    Args:
        table: CSV, Parquet or MedMNIST-style ``.npz``; see ``load_source``.
        source: what the table holds, where that was loaded already.
        files: finds and checks files that are no pictures.
        root: folder that relative paths start from; by default the table's folder.
        path: column with the picture files.
        label: label column, or several (a list, or with commas between) for a multilabel task; None for no labels.
        task: binary, multiclass, multilabel, ordinal or regression; may be left out where the labels leave no doubt.
        positive: label values that make the positive class of a binary task.
        classes: names of the classes in order (binary: negative, positive; ordinal: lowest first). Other labels
            are then a problem. With ``positive`` they name its two groups.
        patient: column that says whose picture it is; a patient may be in one split only.
        site: column with the hospital, camera or scanner.
        exam: column that groups the pictures read together (two eyes, several views).
        id: column with a unique name a sample; by default made from the file's name.
        split: column with train, val and test; the default "split" is used where the table has it.
        rename_splits: what other names in the split column mean, such as ``{"validation": "val"}``.
        uncertain: as for ``read_labels``.
        require_labels: False for prediction: a label column that is not there, or is empty in places, is no problem.
        on_error: "skip" leaves out rows with a problem of their own (missing file, bad label, duplicate) and lists
            them in ``dropped``, and stops at other problems (a patient in two splits) all the same. "keep" keeps
            all rows and lists the problems in ``problems``.

    Raises:
        TableError: there are problems; all are listed with their rows.
        InputError: the table cannot be read, a column does not exist, or the task is not clear.
    """
    table = Path(table)
    source = load_source(table) if source is None else source
    label_columns = _label_columns(source, label, require_labels)
    split_column = None if split == "split" and "split" not in source else split
    named = {"patient": patient, "exam": exam, "site": site, "id": id, "split": split_column}
    wanted = {option: [name] for option, name in {"path": path, **named}.items() if name is not None}
    if require_labels or any(name in source for name in label_columns):
        wanted["label"] = label_columns
    require_columns(table, source.columns, wanted)
    base = Path(os.path.abspath(root or table.parent))  # noqa: PTH100 (resolve() would follow links to other names)
    if not base.is_dir():
        raise InputError(f"{base}: the root of the paths is not a folder")

    def column(name: str | None) -> pd.Series:
        return text(source[name]) if name is not None else pd.Series("", index=source.index, dtype=object)

    if files:
        ids = column(id)
        paths = pd.Series([files.locate(*pair) for pair in zip(column(path), ids, strict=True)], dtype=object)
    else:
        paths = column(path).map(lambda value: os.path.normpath(base / value) if value else "")
    frame = pd.DataFrame(
        {
            "id": column(id) if id is not None else _make_ids(paths, base),
            "path": paths,
            "row": np.arange(1, len(source) + 1),
            "patient": column(patient),
            "exam": column(exam),
            "site": column(site),
            "split": _renamed(column(split_column), rename_splits or {}) if split_column else column(None),
        }
    )
    problems, sizes = ([], {}) if files else checks.check_files(paths, base)
    problems += checks.check_ids(frame["id"]) if id is not None else []
    problems += checks.check_splits(frame["split"]) if split_column else []
    problems += checks.check_patients(frame["patient"], list(frame["split"])) if patient is not None else []
    notes = _unused_patients(source, patient)
    targets = _read_targets(table, source, label_columns, task, positive, classes, require_labels, uncertain)
    answers: Sequence[object] = [None] * len(frame)
    if targets:
        frame = frame.join(targets.columns)
        answers = list(targets.columns.fillna(-1).itertuples(index=False, name=None))  # NaN would equal nothing
        problems += targets.problems
        notes += targets.notes
    problems += files.check(frame) if files else checks.check_duplicates(list(paths), sizes, answers)
    frame = frame.join(source[[name for name in source.columns if name not in frame.columns]])
    samples = SampleTable(table, frame, targets.task if targets else None, tuple(notes))
    return _settle(samples, problems, on_error, classes_needed=require_labels)


def _settle(samples: SampleTable, problems: list[Problem], on_error: OnError, *, classes_needed: bool) -> SampleTable:
    """Raise the problems, leave rows out, or note the problems, as ``on_error`` says."""
    if on_error == "skip":
        samples = _without(samples, [problem for problem in problems if problem.skippable])
        problems = [problem for problem in problems if not problem.skippable]
    if samples.task and classes_needed:
        columns = samples.frame[samples.task.target_columns]
        problems = problems + checks.check_classes(columns, samples.frame["split"], samples.task)
    if on_error == "keep":
        return replace(samples, problems=tuple(problems))
    if problems:
        raise TableError(str(samples.source), problems)
    if not len(samples):
        raise InputError(
            f"{samples.source}: no row is left; the first was left out for: {samples.dropped['reason'][0]}"
        )
    return samples


def _without(samples: SampleTable, problems: list[Problem]) -> SampleTable:
    reasons: dict[int, str] = {}
    for problem in problems:
        for row in problem.rows:
            reasons.setdefault(row, f"{problem.kind}: {problem.message}")
    bad = samples.frame["row"].isin(list(reasons))
    gone = samples.frame[
        bad
    ]  # the reasons from these rows alone: pandas would extend an empty frame by a longer column
    dropped = gone[["id", "path"]].assign(stage="table", reason=gone["row"].map(reasons).astype(object))
    return replace(samples.select(~bad.to_numpy()), dropped=dropped.reset_index(drop=True))


def _read_targets(
    table: Path,
    source: pd.DataFrame,
    columns: list[str],
    task: str | None,
    positive: Words,
    classes: Words,
    required: bool,
    uncertain: Uncertain | Mapping[str, Uncertain] | None,
) -> Targets | None:
    """The targets; without labels, the task alone where the options state it (prediction); else None."""
    labels = source.reindex(columns=columns, fill_value="")
    empty = all((text(labels[name]) == "").all() for name in columns)
    if not required and empty:
        stated = bool(words(classes)) or (task == "binary" and positive is not None)
        stated = stated or task in ("multilabel", "regression")
        if not columns or task is None or not stated:
            return None
    try:
        return read_labels(
            labels, task=task, positive=positive, classes=classes, required=required, uncertain=uncertain
        )
    except InputError as error:
        raise InputError(f"{table}: {error}") from None


def _label_columns(source: pd.DataFrame, label: str | Sequence[str] | None, required: bool) -> list[str]:
    if label is None:
        columns: list[str] = []
    elif isinstance(label, str):
        columns = [label] if label in source else words(label)
    else:
        columns = list(label)
    if columns == ["label"] and "label" not in source and "label_0" in source:  # an .npz with several labels a sample
        columns = [name for name in source.columns if name.startswith("label_")]
    if required and not columns:
        raise InputError("labels are needed: name their column with the option label (fit: --data.label)")
    if len(set(columns)) < len(columns):
        raise InputError(f"the option label names a column twice: {', '.join(columns)}")
    return columns


def _make_ids(paths: pd.Series, base: Path) -> pd.Series:
    """Names of files without folder and suffix; longer ones, for all rows, where two files share such a name.

    Row numbers would do too, but a split saved by id would then change with every row inserted.
    """
    rows = range(1, len(paths) + 1)
    parts = [locate(path) for path in paths]
    short = [f"{key.removesuffix('_images')}-{i}" if key else stem_of(file) for file, key, i in parts]
    full = [os.path.relpath(path, base).replace("#", "-") if path else "" for path in paths]
    for names in (short, [str(Path(name).with_name(stem_of(name))) if name else "" for name in full], full):
        ids = pd.Series([name.replace("/", "-") or f"row-{row}" for name, row in zip(names, rows, strict=True)])
        if ids.is_unique:
            return ids
    return ids.where(~ids.duplicated(), ids + [f"-row-{row}" for row in rows])  # the same file twice


def stem_of(file: str) -> str:
    """A file's name without suffix; of ``.nii.gz`` without both."""
    return Path(file).stem.removesuffix(".nii")


def _renamed(splits: pd.Series, names: Mapping[str, str]) -> pd.Series:
    if wrong := [name for name in names.values() if name not in checks.SPLITS]:
        raise InputError(f"rename_splits: {', '.join(wrong)} is none of the splits {', '.join(checks.SPLITS)}")
    if absent := [name for name in names if name not in set(splits)]:
        raise InputError(
            f"rename_splits: there is no split {', '.join(absent)}; there are {', '.join(sorted(set(splits)))}"
        )
    return splits.map(lambda name: names.get(name, name))


def _unused_patients(source: pd.DataFrame, patient: str | None) -> list[str]:
    likely = [name for name in source.columns if str(name).lower() in _PATIENT_NAMES]
    if patient is not None or not likely:
        return []
    return [
        f"the column {likely[0]!r} is not used: name it with the option patient (fit: --data.patient {likely[0]}) "
        "to keep the samples of a patient together"
    ]
