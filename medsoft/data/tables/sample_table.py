"""The sample table: one row per sample, checked before anything else happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from medsoft.data.images.read import TILE, locate
from medsoft.data.tables import checks
from medsoft.data.tables.labels import Uncertain, Words, read_labels, words
from medsoft.data.tables.problems import Problem, TableError, write_errors
from medsoft.data.tables.reading import load_source, require_columns, text
from medsoft.data.tables.values import (
    Placeholders,
    asked_about,
    check_placeholders,
    check_text,
    notes_on_formulas,
    without_placeholders,
)
from medsoft.errors import InputError
from medsoft.task import TASK_KINDS, Targets, Task, task_class
from medsoft.task_types import LabelOptions
from medsoft.text.spelling import notes_on_spellings, one_line, one_spelling

__all__ = ["OnError", "Problem", "SampleFiles", "SampleTable", "TableError", "read_table", "write_errors"]

OnError = Literal["error", "skip", "keep"]
"""What to do about problems: raise them, leave the rows out, or keep all rows and list the problems besides."""

_NAMES = ["id", "patient", "exam", "site"]
_PATIENT_NAMES = {"patient", "patient_id", "patientid", "subject", "subject_id", "case_id"}


def _nothing_dropped() -> pd.DataFrame:
    return pd.DataFrame(columns=["id", "path", "stage", "reason"])


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Samples, their files and their targets.

    Attributes:
        source: the file that the table was read from.
        frame: one row per sample: ``id`` (unique, no path), ``path`` (absolute), ``row`` (in the source, from 1),
            ``patient``, ``exam``, ``site`` and ``split`` ("" where unknown), then the target columns of ``task`` (names
            of classes, "" where unknown; for multilabel 1.0, 0.0 or NaN; for regression a number or NaN; for survival
            ``time`` and ``event``), then the columns of the source whose names are not taken.
        task: the question, or None without labels.
        notes: sentences for the log on what was decided while reading.
        dropped: rows left out with ``on_error="skip"``: ``id``, ``path``, ``stage``, ``reason``.
        problems: what is wrong with rows kept with ``on_error="keep"``.
        placeholders: what words such as N/A mean, as the table was read.
    """

    source: Path
    frame: pd.DataFrame
    task: Task | None
    notes: tuple[str, ...] = ()
    dropped: pd.DataFrame = field(default_factory=_nothing_dropped)
    problems: tuple[Problem, ...] = ()
    placeholders: Placeholders = None

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

        For multilabel (N, L) float32, for regression (N,) float64, for survival (N, 2) float64; NaN where unknown.

        Raises:
            ValueError: the table has no labels.
        """
        if self.task is None:
            raise ValueError(f"{self.source} was read without labels")
        return self.task.targets(self.frame)

    @property
    def strata(self) -> np.ndarray:
        """(N,) whole numbers: rows of one stratum are spread evenly over the parts of a split.

        Raises:
            ValueError: the table has no labels.
        """
        targets = self.targets
        assert self.task is not None
        return self.task.strata(targets)

    @property
    def grouped_by(self) -> Literal["patient", "exam", "sample"]:
        """What must stay together when splitting: patients where they are known, else exams, else nothing."""
        known = [name for name in ("patient", "exam") if (self.frame[name] != "").any()]
        return "patient" if "patient" in known else "exam" if known else "sample"

    @property
    def groups(self) -> np.ndarray:
        """What must stay together when splitting, (N,) of text: the patient, else the exam, else the sample itself.

        Patients (or exams) whose names differ in writing only have the same.
        """
        ids = self.frame["id"]
        if self.grouped_by == "sample":
            return ids.to_numpy(dtype=object)
        column = self.frame[self.grouped_by]
        return column.map(one_spelling(column)).where(column != "", ids).to_numpy(dtype=object)

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

    def of_target(self, name: str) -> SampleTable:
        """The same rows with one of several targets, whose columns are then those of its own task."""
        assert self.task is not None
        return replace(self, frame=self.task.frame_of(name, self.frame), task=self.task.part(name).task)

    def with_split(self, split: str | np.ndarray) -> SampleTable:
        """The same rows assigned anew: all to one split, or each to its own (N,)."""
        return replace(self, frame=self.frame.assign(split=split))


class SampleFiles(Protocol):
    """What stands for the pictures where a table's samples are something else."""

    def locate_all(self, values: Sequence[str], ids: Sequence[str]) -> list[str]:
        """The absolute path of each row's file; "" where the row names none.

        Args:
            values: the rows' paths, as written.
            ids: the rows', "" where the table has no such column.
        """

    def check(self, frame: pd.DataFrame, answers: Sequence[object]) -> list[Problem]:
        """Problems of the files and of what they say together.

        Args:
            frame: that of a SampleTable.
            answers: what each row is labelled as, all the same without labels.
        """


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
    placeholders: Placeholders = None,
    time_unit: str | None = None,
    times: Sequence[float] = (),
    targets: Mapping[str, Any] | None = None,
    require_labels: bool = True,
    on_error: OnError = "error",
) -> SampleTable:
    """Read a sample table and check all of it, without opening pictures.

    Args:
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style ``.npz``; see ``load_source``.
        source: what the table holds, where that was loaded already.
        files: finds and checks files that are no pictures.
        root: folder that relative paths start from; by default the table's folder.
        path: column with the picture files.
        label: label column, or several (a list, or separated by commas) for a multilabel task; None for no labels.
        task: one of ``medsoft.task.TASK_KINDS``; may be left out where the labels leave no doubt.
        positive: label values that make the positive class of a binary task.
        classes: names of the classes in order (binary: negative, positive; ordinal: lowest first). Other labels
            are then a problem. With ``positive`` they name its two groups.
        patient: column that says whose picture it is; a patient may be in one split only. Names are kept as they are
            written; those that differ in writing only (007 and 7) are taken for one.
        site: column with the hospital, camera or scanner.
        exam: column that groups the pictures read together (two eyes, several views); without patients an exam may be
            in one split only.
        id: column with a unique name a sample; by default made from the file's name.
        split: column with train, val and test; the default "split" is used where the table has it.
        rename_splits: what other names in the split column mean, such as ``{"validation": "val"}``.
        uncertain: as for ``read_labels``.
        placeholders: what words such as N/A, ? or unknown mean in labels, patients, exams and sites: missing or value,
            for all or by word; a problem where not given.
        time_unit: days, months or years, of the times of a survival task, whose two labels are the time and the event.
        times: at which its survival is stated.
        targets: of several targets how each is read, as for ``read_labels``; ``label`` names all their columns.
        require_labels: False for prediction: a label column that is not there, or is empty in places, is no problem,
            nor is a column of patients, exams or sites that is not there.
        on_error: "skip" leaves out rows with a problem of their own (missing file, bad label, duplicate) and lists
            them in ``dropped``, and stops at other problems (a patient in two splits) all the same. "keep" keeps
            all rows and lists the problems in ``problems``.

    Raises:
        TableError: there are problems; all are listed with their rows.
        InputError: the table cannot be read, a column does not exist, or the task is not clear.
    """
    table = Path(table)
    check_placeholders(placeholders)
    source = load_source(table) if source is None else source
    notes = list(source.attrs.get("notes", []))
    if not require_labels:
        patient, exam, site, absent = _there(source, patient=patient, exam=exam, site=site)
        notes += absent
    label_columns = _label_columns(source, label, require_labels)
    split_column = None if split == "split" and "split" not in source else split
    named = {"patient": patient, "exam": exam, "site": site, "id": id, "split": split_column}
    wanted = {option: [name] for option, name in {"path": path, **named}.items() if name is not None}
    if require_labels or any(name in source for name in label_columns):
        wanted["targets" if targets else "label"] = label_columns
    require_columns(table, source.columns, wanted)
    base = Path(os.path.abspath(root or table.parent))  # noqa: PTH100 (resolve() would follow links to other names)
    if not base.is_dir():
        raise InputError(f"{base}: the root of the paths is not a folder")

    def column(name: str | None) -> pd.Series:
        return text(source[name]) if name is not None else pd.Series("", index=source.index, dtype=object)

    problems: list[Problem] = []

    def identities(name: str | None, what: str) -> pd.Series:
        values, asked = without_placeholders(column(name), what, placeholders)
        problems.extend([*asked, *check_text(values, what)])
        notes.extend(notes_on_spellings(values, what))
        return values

    if files:
        ids = column(id)
        paths = pd.Series(files.locate_all(column(path).tolist(), ids.tolist()), dtype=object)
    else:
        paths = column(path).map(lambda value: os.path.normpath(base / value) if value else "")
    frame = pd.DataFrame(
        {
            "id": column(id) if id is not None else make_ids(paths, base),
            "path": paths,
            "row": np.arange(1, len(source) + 1),
            "patient": identities(patient, "patient"),
            "exam": identities(exam, "exam"),
            "site": identities(site, "site"),
            "split": _renamed(column(split_column), rename_splits or {}) if split_column else column(None),
        }
    )
    if patient is not None:
        in_doubt = asked_about(problem for problem in problems if problem.message.startswith("the patient"))
        missing = checks.check_patients(frame["patient"])
        problems += [problem for problem in missing if not in_doubt.intersection(problem.rows)]
    wrong_files, sizes = ([], {}) if files else checks.check_files(paths, base)
    problems += wrong_files
    problems += check_text(frame["id"], "id", names=id is not None)
    problems += checks.check_ids(frame["id"]) if id is not None else []
    problems += checks.check_splits(frame["split"]) if split_column else []
    notes += _unused_patients(source, patient)
    notes += notes_on_formulas(pd.concat([frame[_NAMES], source[[n for n in label_columns if n in source]]], axis=1))
    options = {"positive": positive, "classes": classes, "uncertain": uncertain, "placeholders": placeholders}
    options |= {"time_unit": time_unit, "times": times, "targets": targets}
    read = _read_targets(table, source, label_columns, task, require_labels, options)
    answers = targets_of_rows(read.columns if read else frame[[]])
    if read:
        frame = frame.join(read.columns)
        problems += read.problems
        notes += read.notes
    problems += files.check(frame, answers) if files else checks.check_duplicates(list(paths), sizes, answers)
    frame = frame.join(source[[name for name in source.columns if name not in frame.columns]])
    samples = SampleTable(
        table, frame, read.task if read else None, tuple(map(one_line, notes)), placeholders=placeholders
    )
    if split_column and samples.grouped_by != "sample":
        problems += checks.check_undivided(
            frame[samples.grouped_by].tolist(), frame["split"].tolist(), samples.grouped_by
        )
    return _settle(samples, problems, on_error, classes_needed=require_labels)


def targets_of_rows(targets: pd.DataFrame) -> list[object]:
    """What each row is labelled as, for comparison with others; all the same where there are no target columns."""
    if targets.columns.empty:
        return [()] * len(targets)
    return list(targets.fillna(-1).itertuples(index=False, name=None))  # NaN would equal nothing


def _settle(samples: SampleTable, problems: list[Problem], on_error: OnError, *, classes_needed: bool) -> SampleTable:
    """Raise the problems, leave rows out, or note the problems, as ``on_error`` says."""
    if on_error == "skip":
        samples = _without(samples, [problem for problem in problems if problem.skippable])
        problems = [problem for problem in problems if not problem.skippable]
    if samples.task and classes_needed:
        columns = samples.frame[samples.task.target_columns]
        problems = problems + samples.task.check_targets(columns, samples.frame["split"])
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
    required: bool,
    options: Mapping[str, Any],
) -> Targets | None:
    """The targets; without labels, the task alone where the options state it (prediction); else None."""
    labels = source.reindex(columns=columns, fill_value="")
    empty = all((text(labels[name]) == "").all() for name in columns)
    if not required and empty:
        said = LabelOptions(
            tuple(words(options["positive"])), tuple(words(options["classes"])), targets=options["targets"] or {}
        )
        if not columns or task not in TASK_KINDS or not task_class(task).stated_by(said):
            return None
    try:
        return read_labels(labels, task=task, required=required, **options)
    except TableError as error:
        raise TableError(str(table), error.problems) from None
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


def _there(source: pd.DataFrame, **named: str | None) -> tuple[str | None, str | None, str | None, list[str]]:
    """The columns of patient, exam and site that a table for prediction has, and sentences on those that it lacks."""
    absent = {option: name for option, name in named.items() if name is not None and name not in source}
    does = {
        "patient": "predictions are not grouped by patient",
        "exam": "predictions are not grouped by exam",
        "site": "sites are not counted",
    }
    notes = [f"there is no column {name!r} ({option}): {does[option]}" for option, name in absent.items()]
    patient, exam, site = (None if option in absent else named[option] for option in ("patient", "exam", "site"))
    return patient, exam, site, notes


def make_ids(paths: pd.Series, base: Path) -> pd.Series:
    """Names of files without folder and suffix; longer ones, for all rows, where two files share such a name.

    Row numbers would do too, but a split saved by id would then change with every row inserted.
    """
    rows = range(1, len(paths) + 1)
    parts = [locate(path) for path in paths]
    short = [_name_within(stem_of(file), key, i) if key else stem_of(file) for file, key, i in parts]
    full = [os.path.relpath(path, base).replace("#", "-") if path else "" for path in paths]
    for names in (short, [str(Path(name).with_name(stem_of(name))) if Path(name).name else "" for name in full], full):
        ids = pd.Series([name.replace("/", "-") or f"row-{row}" for name, row in zip(names, rows, strict=True)])
        if ids.is_unique:
            return ids
    return ids.where(~ids.duplicated(), ids + [f"-row-{row}" for row in rows])  # the same file twice


def _name_within(stem: str, key: str, index: int) -> str:
    """The name of one picture of a file: a place in an array, or a tile of a slide by its corner."""
    if key.startswith(TILE):
        return "-".join([stem, *key.removeprefix(TILE).split(",")[:2]])
    return f"{key.removesuffix('_images')}-{index}"


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
