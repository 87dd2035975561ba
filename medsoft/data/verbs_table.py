"""What ``medsoft data check`` and ``medsoft data split`` do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medsoft.data.checks import NO_FILE
from medsoft.data.labels import Uncertain, words
from medsoft.data.problems import Problem, TableError
from medsoft.data.progress import progress_bar
from medsoft.data.read import MAX_PIXELS, check_images
from medsoft.data.source import load_source
from medsoft.data.split import complete_splits, split_folds
from medsoft.data.table import SampleTable, read_table
from medsoft.data.volumes.check import check_volumes, volumes_notes, volumes_table
from medsoft.data.volumes.files import Kind, volume_files
from medsoft.data.volumes.volume import MAX_VOXELS, Time
from medsoft.errors import InputError
from medsoft.files import replacing

MOST_SITES = 20  # shown; what has more is no column of sites


def check(
    table: str,
    root: str | None = None,
    path: str = "path",
    label: str | list[str] = "label",
    task: str | None = None,
    positive: str | int | list[str | int] | None = None,
    classes: str | list[str | int] | None = None,
    patient: str | None = None,
    site: str | None = None,
    exam: str | None = None,
    id: str | None = None,
    split: str = "split",
    rename_splits: dict[str, str] | None = None,
    uncertain: Uncertain | dict[str, Uncertain] | None = None,
    decode: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_voxels: int = MAX_VOXELS,
    kind: Kind = "auto",
    dynamic: bool = False,
    missing: Literal["error", "zeros"] = "error",
    laterality: str | None = None,
    box: str | list[str] | None = None,
    mask: str | None = None,
    mask_values: list[int] | None = None,
) -> None:
    """Count what a sample table holds, and report all its problems.

    Args:
        table: CSV, Parquet or MedMNIST-style .npz with one row a sample.
        root: Folder that relative paths start from; the table's own folder if not given.
        path: Column with the picture files, or with volumes; of these several with commas between are channels.
        label: Label column, or several with commas between for a multilabel task.
        task: binary, multiclass, multilabel, ordinal or regression; needed where labels are numbers.
        positive: Label values that make the positive class of a binary task, such as 2,3,4.
        classes: Names of the classes in order; other labels are a problem.
        patient: Column that says whose picture it is.
        site: Column with the hospital, camera or scanner.
        exam: Column that groups pictures read together, such as two eyes.
        id: Column with a unique name for each sample; made from the file's name if not given.
        split: Column with train, val and test; used where the table has it.
        rename_splits: What other names in the split column mean, such as {"validation": "val"}.
        uncertain: What a label of -1 counts as in a multilabel task, for all labels or by label.
        decode: Open and decode every picture or volume too.
        max_pixels: Pictures with more pixels than this are a problem (decompression bombs).
        max_voxels: Volumes with more voxels than this are a problem.
        kind: image or volume; auto finds out from the files, or from a column kind as medsoft data index writes it.
        dynamic: Whether volumes have several time points (fit: --transforms.dynamic).
        missing: error or zeros: what an empty path of a volume beside another is.
        laterality: Column with left or right, for volumes.
        box: Six columns x0,y0,z0,x1,y1,z1 with a box in voxels, for volumes.
        mask: Column with masks on the grids of the volumes.
        mask_values: Numbers in the masks that count; all above 0 if not given.

    Raises:
        TableError: there are problems.
        InputError: the table cannot be read.
    """
    source = load_source(table)
    files = volume_files(table, source, kind, root, path, missing, laterality, words(box), mask)
    if files is None and (dynamic or mask_values):
        raise InputError("dynamic and mask_values are for volumes: leave them out, or say --kind volume")
    samples = read_table(
        table, source=source, files=files, root=root, path=files.columns[0] if files else path, label=label, task=task,
        positive=positive, classes=classes, patient=patient, site=site, exam=exam, id=id, split=split,
        rename_splits=rename_splits, uncertain=uncertain, on_error="keep",
    )  # fmt: skip
    console = Console(highlight=False, markup=False)
    _print_counts(samples, console)
    for note in samples.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    problems = [*samples.problems]
    if decode and files:
        time: Time = "phases" if dynamic else "refuse"
        rows = samples.frame["row"].tolist()
        with progress_bar("reading", len(rows)) as step:
            found, facts = check_volumes(files, rows, time, mask_values, max_voxels, step)
        problems += found
        console.print(volumes_table(facts))
        for note in volumes_notes(facts):
            console.print(f"Note: {note}", soft_wrap=True)
    elif decode:
        problems += _unreadable(samples, max_pixels)
    if problems:
        raise TableError(table, problems)
    unopened = f"; the {'volumes' if files else 'pictures'} were not opened."
    console.print("No problems found" + ("." if decode else unopened))


def split(
    table: str,
    out: str,
    root: str | None = None,
    path: str = "path",
    label: str | list[str] = "label",
    task: str | None = None,
    positive: str | int | list[str | int] | None = None,
    classes: str | list[str | int] | None = None,
    patient: str | None = None,
    exam: str | None = None,
    id: str | None = None,
    uncertain: Uncertain | dict[str, Uncertain] | None = None,
    kind: Kind = "auto",
    laterality: str | None = None,
    box: str | list[str] | None = None,
    mask: str | None = None,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    folds: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a sample table with a column split (train, val, test), or fold, added.

    Args:
        table: CSV, Parquet or MedMNIST-style .npz with one row a sample.
        out: The table to write, .csv or .parquet.
        root: Folder that relative paths start from; the table's own folder if not given.
        path: Column with the picture files, or with volumes.
        label: Label column, or several with commas between for a multilabel task.
        task: binary, multiclass, multilabel, ordinal or regression; needed where labels are numbers.
        positive: Label values that make the positive class of a binary task, such as 2,3,4.
        classes: Names of the classes in order; other labels are a problem.
        patient: Column that says whose picture it is; a patient stays in one part.
        exam: Column that groups pictures read together; they stay in one part.
        id: Column with a unique name for each sample; made from the file's name if not given.
        uncertain: What a label of -1 counts as in a multilabel task, for all labels or by label.
        kind: image or volume; auto finds out from the files, or from a column kind as medsoft data index writes it.
        laterality: Column with left or right, which tells two rows of one volume apart.
        box: Six columns x0,y0,z0,x1,y1,z1, which do too.
        mask: Column with masks of volumes, which do too.
        val_fraction: Share of the rows for validation.
        test_fraction: Share of the rows for the test; may be 0.
        folds: Number of folds for cross-validation instead; rows whose split is test belong to none.
        seed: Another seed gives another split.
        overwrite: Replace the file if it is there.

    Raises:
        TableError: the table has problems.
        InputError: the table cannot be read or split, or the file to write is there already.
    """
    target = Path(out)
    if target.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{out}: name a file .csv or .parquet")
    if target.exists() and not overwrite:
        raise InputError(f"{out}: is there already; --overwrite true replaces it")
    source = load_source(table)
    column = "fold" if folds else "split"
    if column in source:
        raise InputError(f"{table}: has a column {column!r} already; delete or rename it first")
    files = volume_files(table, source, kind, root, path, "zeros", laterality, words(box), mask)
    samples = read_table(
        table, source=source, files=files, root=root, path=files.columns[0] if files else path, label=label, task=task,
        positive=positive, classes=classes, patient=patient, exam=exam, id=id, uncertain=uncertain,
    )  # fmt: skip
    if folds:
        values = pd.array([pd.NA] * len(samples), dtype="Int64")
        inside = (samples.frame["split"] != "test").to_numpy()
        values[inside] = split_folds(samples.targets[inside], samples.groups[inside], folds, seed)
        done = f"{folds} folds, stratified, seed {seed}"
        source[column] = values
    else:
        samples, done = complete_splits(samples, val_fraction, test_fraction, seed)
        source[column] = samples.frame["split"]
    with replacing(target) as temporary:
        if target.suffix.lower() == ".csv":
            source.to_csv(temporary, index=False)
        else:
            source.to_parquet(temporary, index=False)
    console = Console(highlight=False, markup=False)
    for note in samples.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    console.print(f"Wrote {out}: {done}", soft_wrap=True)
    start = Path(root or Path(table).parent).resolve()
    if root is not None or start != target.parent.resolve():
        console.print(f"Its paths start from {start}: read it with --root (fit: --data.root) {start}", soft_wrap=True)


def _print_counts(samples: SampleTable, console: Console) -> None:
    frame, task = samples.frame, samples.task
    assert task is not None  # labels were required
    console.print(f"{samples.source}: {len(frame)} samples, {task.kind}", soft_wrap=True)
    classes: dict[str, pd.Series] = {}
    if task.kind == "regression":
        console.print(_quantities(samples))
    elif task.kind == "multilabel":
        targets = frame[task.target_columns]
        classes = {name: targets[column] == 1 for name, column in zip(task.classes, targets, strict=True)}
        classes["(no label known)"] = targets.isna().all(axis=1)
        console.print(_answers(samples))
    else:
        classes = {name: frame["target"] == name for name in task.classes}
        classes["(no valid label)"] = frame["target"] == ""
    if classes:
        console.print(_by_split("class", classes, samples))
    if frame["site"].any():
        sites = frame["site"].value_counts()
        shown = {name or "(none)": frame["site"] == name for name in sites.index[:MOST_SITES]}
        console.print(_by_split("site", shown, samples))
        if len(sites) > MOST_SITES:
            console.print(f"... and {len(sites) - MOST_SITES} more sites")
    if frame["patient"].any():
        each = frame["patient"].value_counts()
        console.print(f"{len(each)} patients, {each.min()} to {each.max()} samples each (median {each.median():g})")


def _quantities(samples: SampleTable) -> Table:
    """What a regression is about, by split."""
    counts = Table("label", "samples", "without", "mean", "SD", "lowest", "median", "highest")
    for name in [*samples.splits, "all"]:
        rows = samples.frame["split"] == name if name != "all" else pd.Series(True, index=samples.frame.index)
        values = samples.frame.loc[rows, "target"]
        known = values.dropna()
        facts = (known.mean(), known.std(ddof=0), known.min(), known.median(), known.max())
        counts.add_row(name, str(len(known)), str(len(values) - len(known)), *(f"{fact:.6g}" for fact in facts))
    return counts


def _answers(samples: SampleTable) -> Table:
    """How often each label of a multilabel task is 1, 0, and neither."""
    counts = Table("label", "present", "absent", "not known")
    for column in counts.columns[1:]:
        column.justify = "right"
    assert samples.task is not None
    for name, target in zip(samples.task.classes, samples.task.target_columns, strict=True):
        values = samples.frame[target]
        counts.add_row(Text(name), *(str(int(rows.sum())) for rows in (values == 1, values == 0, values.isna())))
    return counts


def _by_split(title: str, kinds: dict[str, pd.Series], samples: SampleTable) -> Table:
    """Samples of each kind (and their patients, where known) by split."""
    frame = samples.frame
    has_patients = frame["patient"].any()
    counts = Table(title, *samples.splits, "all", *(["patients"] if has_patients else []))
    for column in counts.columns[1:]:
        column.justify = "right"
    kinds = {name: rows for name, rows in kinds.items() if rows.any() or not name.startswith("(")}
    for name, rows in (kinds | {"all": pd.Series(True, index=frame.index)}).items():
        numbers = [(rows & (frame["split"] == split)).sum() for split in samples.splits] + [rows.sum()]
        numbers += [frame.loc[rows, "patient"].nunique()] if has_patients else []
        if name == "all":
            counts.add_section()
        counts.add_row(Text(name), *map(str, numbers))
    return counts


def _unreadable(samples: SampleTable, max_pixels: int) -> list[Problem]:
    """Decode every picture that is there, with a bar on the terminal."""
    no_file = {row for problem in samples.problems if problem.kind in NO_FILE for row in problem.rows}
    frame = samples.frame[~samples.frame["row"].isin(no_file)]
    with progress_bar("decoding", len(frame)) as step:
        failures = check_images(frame["path"], max_pixels=max_pixels, progress=step)
    reasons = dict(zip(failures["path"], failures["reason"], strict=True))
    advice = "export these pictures again or delete the rows"
    return [
        Problem("unreadable picture", (int(row),), reasons[path], advice)
        for row, path in zip(frame["row"], frame["path"], strict=True)
        if path in reasons
    ]
