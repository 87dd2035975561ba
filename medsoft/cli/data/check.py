"""The verbs ``data check`` and ``data split``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medsoft.data.datasets.bag_tables import AnyKind, bag_files, described, plain_kind
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import CONSTANT, MAX_PIXELS, check_images
from medsoft.data.tables.checks import NO_FILE
from medsoft.data.tables.cleaning import Duplicates, bad_rows
from medsoft.data.tables.covariates import column_of, covariate_names, covariate_values
from medsoft.data.tables.duplicates import Content, content_of, pairs_in_words
from medsoft.data.tables.folds import notes_on_classes
from medsoft.data.tables.joins import join_clinical
from medsoft.data.tables.labels import Uncertain, label_columns, words
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import load_source, require_columns, table_to_write, text, write_table
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.tables.split import complete_splits, split_folds
from medsoft.data.tables.values import Placeholder, notes_on_formulas
from medsoft.data.volumes.check import check_volumes, passed_over, volumes_notes, volumes_table
from medsoft.data.volumes.rows import VolumeFiles, volume_files
from medsoft.data.volumes.volume import MAX_VOXELS, Time
from medsoft.errors import InputError
from medsoft.storage.walk import passed_in_words
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console
from medsoft.text.spelling import normal_form, one_spelling

MOST_SITES = 20  # shown; what has more is no column of sites


def check(
    table: str,
    root: str | None = None,
    path: str = "path",
    label: str | list[str] = "label",
    time: str | None = None,
    event: str | None = None,
    time_unit: Literal["days", "months", "years"] | None = None,
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
    covariates: str | list[str] | None = None,
    decode: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_voxels: int = MAX_VOXELS,
    kind: AnyKind = "auto",
    dynamic: bool = False,
    missing: Literal["error", "zeros"] = "error",
    laterality: str | None = None,
    box: str | list[str] | None = None,
    mask: str | None = None,
    mask_values: list[int] | None = None,
    features: str | None = None,
    clinical: str | None = None,
    placeholders: Placeholder | dict[str, Placeholder] | None = None,
    select: str | list[str] | None = None,
    out: str | None = None,
    write_clean: str | None = None,
    overwrite: bool = False,
) -> int:
    """Summarise a sample table, and report all its problems.

    Args:
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        root: Folder that relative paths start from; the table's own folder if not given.
        path: Column with the image files or volumes; several volume columns, separated by commas, become channels.
        label: Label column, or several, separated by commas, for a multilabel task.
        time: Column with the time until the event, or until a patient was last seen, of a survival task.
        event: Column that says whether the event happened (1) or the patient was last seen without it (0).
        time_unit: Unit of the times: days, months or years.
        task: Kind of task, such as binary or regression; needed if the labels are numbers.
        positive: Label values that count as the positive class of a binary task, such as 2,3,4.
        classes: Names of the classes in order; any other label is reported as a problem.
        patient: Column with the patient.
        site: Column with the site: hospital, camera or scanner.
        exam: Column that groups images read together, such as those of both eyes.
        id: Column with a unique id for each sample; taken from the file name if not given.
        split: Column with train, val and test; used if the table has it.
        rename_splits: What other names in the split column stand for, such as {"validation": "val"}.
        uncertain: What a label of -1 (uncertain) counts as in a multilabel task, for all labels or for each label.
        covariates: Columns with clinical covariates, separated by commas; sex=male is 1 where the column sex says male.
        decode: Also open and decode every image or volume.
        max_pixels: Images with more pixels than this are reported as a problem (decompression bombs).
        max_voxels: Volumes with more voxels than this are reported as a problem.
        kind: image, volume or bag; auto decides by the files, or by the column kind that medsoft data index writes.
        dynamic: Whether the volumes have several time points (in fit: --transforms.dynamic).
        missing: What to do if a row names some of its volumes but not all: error, or zeros for the missing channels.
        laterality: Column with left or right, for volumes.
        box: Six columns x0,y0,z0,x1,y1,z1 with a bounding box in voxels, for volumes.
        mask: Column with masks on the same grids as the volumes.
        mask_values: Mask values that count as foreground; all values above 0 if not given.
        features: Folder with the feature files of the slides in the table (bags).
        clinical: CSV or Parquet with one row per patient, whose columns are joined to the table by patient.
        placeholders: How to read words such as N/A, ? or unknown: as missing or as a value, for all words or for each
            word.
        select: Which DICOM image to use where a volume has several at each position, such as EchoTime=20, or a list of
            conditions.
        out: CSV file for all duplicates and near-duplicates, one pair per row.
        write_clean: File for a copy of the table without the bad rows, .csv or .parquet.
        overwrite: Replace these files if they exist.

    Returns:
        0; 3 where a clean table was written that leaves out rows.

    Raises:
        TableError: there are problems.
        InputError: the table cannot be read.
    """
    if (out or write_clean) and not decode:
        raise InputError("--out and --write_clean compare what is in the files: leave out --decode false")
    target = table_to_write("--write_clean", write_clean, overwrite) if write_clean else None
    listing = table_to_write("--out", out, overwrite) if out else None
    with progress("reading the table"):
        source = load_source(table)
    given = source if clinical is None else join_clinical(source, clinical, patient)
    bags = bag_files(table, source, kind, features, root, path, contents=decode)
    files = bags or volume_files(table, source, plain_kind(kind), root, path, missing, laterality, words(box), mask)
    volumes = files if isinstance(files, VolumeFiles) else None
    labels = label_columns(task, label, time, event)
    wanted = _wanted(select)
    if volumes is None and (dynamic or mask_values or wanted):
        raise InputError("dynamic, mask_values and select are for volumes: leave them out, or say --kind volume")
    with progress("checking the table"):
        samples = read_table(
            table, source=given, files=files, root=bags.folder if bags else root,
            path=volumes.columns[0] if volumes else path, label=labels, task=task, positive=positive, classes=classes,
            patient=patient, site=site, exam=exam, id=id, split=split, rename_splits=rename_splits, uncertain=uncertain,
            placeholders=placeholders, time_unit=time_unit, on_error="keep",
        )  # fmt: skip
    console = plain_console()
    _print_counts(samples, console)
    for note in samples.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    problems = [*samples.problems]
    if covariates:
        problems += _check_covariates(samples, covariate_names(covariates), console)
    contents: list[Content | None] = [None] * len(samples)
    if bags:
        console.print(described(bags))
    elif decode and volumes:
        frames: Time = "phases" if dynamic else "refuse"
        rows = samples.frame["row"].tolist()
        with progress("reading volumes", len(rows)) as step:
            found, facts, keys = check_volumes(volumes, rows, frames, mask_values, max_voxels, step, wanted)
        problems += found
        contents = [Content(keys[row]) if row in keys else None for row in rows]
        if line := passed_in_words(passed_over(volumes, rows)):
            console.print(line, soft_wrap=True)
        console.print(volumes_table(facts))
        for note in volumes_notes(facts):
            console.print(f"Note: {note}", soft_wrap=True)
    elif decode:
        pixels = PixelFacts()
        found, done = _unreadable(samples, max_pixels, contents, pixels)
        problems += found
        for note, n in Counter(done).most_common():
            console.print(f"Note: {n} {'pictures' if n > 1 else 'picture'}: {note}", soft_wrap=True)
        if note := pixels.depth_note():
            console.print(f"WARNING: {note}", soft_wrap=True)
    twice = Duplicates.find(samples, contents)
    problems += twice.problems()
    if twice.near:
        where = "two splits" if samples.has_split else f"two {samples.grouped_by}s"
        look = "looks" if len(twice.near) == 1 else "look"
        console.print(
            f"WARNING: {pairs_in_words(len(twice.near))} of images in {where} {look} nearly the same; see the file "
            "that --out duplicates.csv writes",
            soft_wrap=True,
        )
    if listing:
        write_table(twice.table(), listing)
        console.print(
            f"Wrote {listing}: {pairs_in_words(len(twice.same))} identical, {len(twice.near)} nearly identical",
            soft_wrap=True,
        )
    if target:
        gone, counts = bad_rows(samples, problems, twice.near)
        write_table(source[~samples.frame["row"].isin(gone).to_numpy()], target)
        if problems:
            console.print(str(TableError(table, problems)), soft_wrap=True)
        console.print(f"Wrote {target}: {len(samples) - len(gone)} rows; left out: {counts}", soft_wrap=True)
        _say_start(root, table, target, console)
        return 3 if gone else 0
    if problems:
        raise TableError(table, problems)
    what = "volumes were not opened" if volumes else "features were not read" if bags else "pictures were not opened"
    console.print("No problems found" + ("." if decode else f"; the {what}."))
    return 0


def _check_covariates(samples: SampleTable, names: tuple[str, ...], console: Console) -> list[Problem]:
    """Say how many rows have each covariate, and what it is like; gives the values that are no numbers."""
    columns = [column_of(name, samples.frame.columns)[0] for name in names]
    require_columns(samples.source, samples.frame.columns, {"covariates": columns})
    values, problems = covariate_values(samples.frame, names, samples.frame["row"].tolist(), samples.placeholders)
    for name, value in zip(names, values.T, strict=True):
        known = value[np.isfinite(value)]
        n = len(value) - len(known)
        lacking = f"; missing in {n} {'row' if n == 1 else 'rows'}" if n else ""
        spread = f"{known.min():g} to {known.max():g}, mean {known.mean():.4g}" if len(known) else "no values"
        console.print(f"Covariate {name}: {spread}{lacking}", soft_wrap=True)
    return problems


def split(
    table: str,
    out: str,
    root: str | None = None,
    path: str = "path",
    label: str | list[str] = "label",
    time: str | None = None,
    event: str | None = None,
    time_unit: Literal["days", "months", "years"] | None = None,
    task: str | None = None,
    positive: str | int | list[str | int] | None = None,
    classes: str | list[str | int] | None = None,
    patient: str | None = None,
    exam: str | None = None,
    id: str | None = None,
    uncertain: Uncertain | dict[str, Uncertain] | None = None,
    placeholders: Placeholder | dict[str, Placeholder] | None = None,
    kind: AnyKind = "auto",
    laterality: str | None = None,
    box: str | list[str] | None = None,
    mask: str | None = None,
    features: str | None = None,
    clinical: str | None = None,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    folds: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a sample table with an added column split (train, val, test) or fold.

    Args:
        table: CSV, Parquet, Excel (.xlsx) or MedMNIST-style .npz with one row per sample.
        out: Table to write, .csv or .parquet.
        root: Folder that relative paths start from; the table's own folder if not given.
        path: Column with the image files or volumes.
        label: Label column, or several, separated by commas, for a multilabel task.
        time: Column with the time until the event, or until a patient was last seen, of a survival task.
        event: Column that says whether the event happened (1) or the patient was last seen without it (0).
        time_unit: Unit of the times: days, months or years.
        task: Kind of task, such as binary or regression; needed if the labels are numbers.
        positive: Label values that count as the positive class of a binary task, such as 2,3,4.
        classes: Names of the classes in order; any other label is reported as a problem.
        patient: Column with the patient; all rows of a patient stay in the same part.
        exam: Column that groups images read together; they stay in the same part.
        id: Column with a unique id for each sample; taken from the file name if not given.
        uncertain: What a label of -1 (uncertain) counts as in a multilabel task, for all labels or for each label.
        placeholders: How to read words such as N/A, ? or unknown: as missing or as a value, for all words or for each
            word.
        kind: image, volume or bag; auto decides by the files, or by the column kind that medsoft data index writes.
        laterality: Column with left or right, which distinguishes two rows of the same volume.
        box: Six columns x0,y0,z0,x1,y1,z1 with a bounding box, which also distinguish such rows.
        mask: Column with masks of volumes, which also distinguish such rows.
        features: Folder with the feature files of the slides in the table (bags).
        clinical: CSV or Parquet with one row per patient, whose columns are joined to the table by patient.
        val_fraction: Fraction of the rows for validation.
        test_fraction: Fraction of the rows for the test part; may be 0.
        folds: Number of cross-validation folds to make instead of parts; rows whose split is test are in no fold.
        seed: Another seed gives another split.
        overwrite: Replace the file if it exists.

    Raises:
        TableError: the table has problems.
        InputError: the table cannot be read or split, or the file to write is there already.
    """
    target = table_to_write("--out", out, overwrite)
    with progress("reading the table"):
        source = load_source(table)
    column = "fold" if folds else "split"
    if column in source:
        raise InputError(f"{table}: has a column {column!r} already; delete or rename it first")
    given = source if clinical is None else join_clinical(source, clinical, patient)
    bags = bag_files(table, source, kind, features, root, path, contents=False)
    files = bags or volume_files(table, source, plain_kind(kind), root, path, "zeros", laterality, words(box), mask)
    labels = label_columns(task, label, time, event)
    with progress("checking the table"):
        samples = read_table(
            table, source=given, files=files, root=bags.folder if bags else root,
            path=files.columns[0] if isinstance(files, VolumeFiles) else path, label=labels, task=task,
            positive=positive, classes=classes, patient=patient, exam=exam, id=id, uncertain=uncertain,
            placeholders=placeholders, time_unit=time_unit,
        )  # fmt: skip
    if folds:
        values = pd.array([pd.NA] * len(samples), dtype="Int64")
        inside = (samples.frame["split"] != "test").to_numpy()
        values[inside] = split_folds(samples.strata[inside], samples.groups[inside], folds, seed)
        done = f"{folds} folds, stratified, seed {seed}"
        source[column] = values
        lacking = notes_on_classes(samples, text(pd.Series(values)).to_numpy(dtype=object), "fold")
    else:
        samples, done = complete_splits(samples, val_fraction, test_fraction, seed)
        source[column] = samples.frame["split"]
        lacking = notes_on_classes(samples, samples.frame["split"].to_numpy(dtype=object), "split")
    write_table(source, target)
    console = plain_console()
    for note in [*samples.notes, *lacking, *notes_on_formulas(source)]:
        console.print(f"Note: {note}", soft_wrap=True)
    console.print(f"Wrote {out}: {done}", soft_wrap=True)
    _say_start(root, table, target, console)


def _print_counts(samples: SampleTable, console: Console) -> None:
    frame, task = samples.frame, samples.task
    assert task is not None  # labels were required
    console.print(f"{samples.source}: {len(frame)} samples, {task.kind}", soft_wrap=True)
    if (own := task.label_table(frame, samples.splits)) is not None:
        console.print(own)
    if classes := task.members(frame):
        classes[task.unlabelled] = ~task.known(frame)
        console.print(_by_split("class", classes, samples))
    if frame["site"].any():
        sites = frame["site"].value_counts()
        shown = {name or "(none)": frame["site"] == name for name in sites.index[:MOST_SITES]}
        console.print(_by_split("site", shown, samples))
        if len(sites) > MOST_SITES:
            console.print(f"... and {len(sites) - MOST_SITES} more sites")
    if frame["patient"].any():
        each = frame["patient"].map(one_spelling(frame["patient"])).value_counts()
        span = f"{each.min()} to {each.max()} samples each (median {each.median():g})"
        equal = f"{each.min()} {'sample' if each.min() == 1 else 'samples'} each"
        console.print(f"{len(each)} patients, {equal if each.min() == each.max() else span}")


def _by_split(title: str, kinds: Mapping[str, Any], samples: SampleTable) -> Table:
    """Samples of each kind (and their patients, where known) by split; ``kinds`` says which rows, (N,) of bool."""
    frame = samples.frame
    has_patients = frame["patient"].any()
    counts = Table(title, *samples.splits, "all", *(["patients"] if has_patients else []))
    for column in counts.columns[1:]:
        column.justify = "right"
    shown = {name: rows for name, rows in kinds.items() if rows.any() or not name.startswith("(")}
    for name, rows in (shown | {"all": pd.Series(True, index=frame.index)}).items():
        numbers = [(rows & (frame["split"] == split)).sum() for split in samples.splits] + [rows.sum()]
        numbers += [frame.loc[rows, "patient"].map(normal_form).nunique()] if has_patients else []
        if name == "all":
            counts.add_section()
        counts.add_row(Text(name), *map(str, numbers))
    return counts


def _say_start(root: str | None, table: str, target: Path, console: Console) -> None:
    """Say from where the paths of a written table start, where that is not its own folder."""
    start = Path(root or Path(table).parent).resolve()
    if root is not None or start != target.parent.resolve():
        console.print(f"Its paths start from {start}: read it with --root (fit: --data.root) {start}", soft_wrap=True)


def _wanted(select: str | list[str] | None) -> tuple[str, ...]:
    if not select:
        return ()
    from medsoft.data.dicom.tell_apart import parse_select  # pydicom waits until it is needed

    return parse_select(select)


def _unreadable(
    samples: SampleTable, max_pixels: int, contents: list[Content | None], facts: PixelFacts
) -> tuple[list[Problem], list[str]]:
    """Decode every picture that is there, with a bar on the terminal; fills ``contents`` and ``facts``.

    Returns:
        What is wrong, and what was done to pictures, once a picture.
    """
    no_file = {row for problem in samples.problems if problem.kind in NO_FILE for row in problem.rows}
    frame = samples.frame[~samples.frame["row"].isin(no_file)]
    places: dict[str, list[int]] = {}
    for place, path in enumerate(samples.frame["path"]):
        places.setdefault(path, []).append(place)

    def seen(path: str, image: np.ndarray) -> None:
        facts.look(path, image)
        content = content_of(image)
        for place in places[path]:
            contents[place] = content

    with progress("reading pictures", len(frame)) as step:
        notes: list[str] = []
        failures = check_images(frame["path"], max_pixels=max_pixels, progress=step, seen=seen, notes=notes)
    reasons = dict(zip(failures["path"], failures["reason"], strict=True))
    advice = "export these pictures again or delete the rows"
    problems = [
        Problem(
            "constant picture" if reasons[path].startswith(CONSTANT) else "unreadable picture",
            (int(row),),
            reasons[path],
            advice,
        )
        for row, path in zip(frame["row"], frame["path"], strict=True)
        if path in reasons
    ]
    return problems, notes
