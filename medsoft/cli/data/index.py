"""The verb ``data index``: a sample table from a folder of DICOM files."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from medsoft.data.dicom.index import index_table
from medsoft.data.dicom.join import Key, join_labels, load_labels
from medsoft.data.dicom.privacy import FLAGS, KEYWORDS, Carried, look_for_identifying
from medsoft.data.dicom.pseudonyms import default_salt, load_salt
from medsoft.data.dicom.series import find_dicom, read_instances
from medsoft.data.dicom.tell_apart import parse_select
from medsoft.data.tables.problems import write_errors
from medsoft.data.tables.reading import table_to_write, write_table
from medsoft.data.tables.values import notes_on_formulas
from medsoft.errors import InputError, ReadError
from medsoft.storage.walk import Walk, passed_in_words
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console


def index(
    folder: str,
    out: str | None = None,
    salt: str | None = None,
    labels: str | None = None,
    labels_by: Key = "PatientID",
    check_phi: bool = False,
    select: str | list[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Make a sample table from a folder of DICOM files, or list the identifying elements they carry.

    Args:
        folder: Folder to search, with all folders below it, or a DICOMDIR.
        out: Table to write, .csv or .parquet; NAME.errors.csv beside it lists the files that were left out.
        salt: File with the secret from which pseudonyms of patients are made; ~/.config/medsoft/salt if not given. It
            is created if it does not exist.
        labels: CSV or Parquet with labels to join, one row per patient (or per value of labels_by).
        labels_by: Column of the label table that holds the values of the DICOM element of this name; the values are
            compared, and not written.
        check_phi: Print which identifying elements and flags the files carry, with counts but no values.
        select: Which image to use where a series has several at each position, such as EchoTime=20, or a list of
            conditions; read the table with the same select later (in fit: --data.select).
        overwrite: Replace the table if it exists.

    Returns:
        Exit code: 0, or 3 where NAME.errors.csv lists something.

    Raises:
        InputError: there is no such folder or DICOMDIR, no DICOM file in it, or nothing to do.
    """
    if not out and not check_phi:
        raise InputError("name the table to write with --out, or ask for --check-phi")
    if out:
        table_to_write("--out", out, overwrite)
    if labels and not out:
        raise InputError("--labels: name the table to write with --out")
    wanted = parse_select(select)
    found = load_labels(labels, labels_by) if labels else None
    place = Path(os.path.abspath(folder))  # noqa: PTH100 (resolve() would follow links to other names)
    walked = _walked(place, folder)
    files = walked.files
    console = plain_console(soft_wrap=True)
    if line := passed_in_words(walked.passed):
        console.print(line)
    if check_phi:
        with progress("looking for identifying elements", len(files)) as step:
            carried = look_for_identifying(files, step)
        _print_carried(carried, console)
    if not out:
        for path, reason in walked.problems:
            console.print(f"{path}: {reason}")
        return 3 if walked.problems else 0
    return _write(place, walked, Path(out), salt, found, labels_by, wanted, console)


def _walked(place: Path, named: str) -> Walk:
    try:
        walked = find_dicom(place)
    except OSError as error:
        raise InputError(f"{named}: cannot be opened: {error.strerror}") from None
    except ReadError as error:
        raise InputError(f"{named}: {error.reason}") from None
    if not walked.files:
        problems = "".join(f"; {path} {reason}" for path, reason in walked.problems)
        raise InputError(f"{named}: no DICOM files in it or below it{problems}")
    return walked


def _write(
    place: Path,
    walked: Walk,
    out: Path,
    salt_file: str | None,
    labels: pd.DataFrame | None,
    labels_by: Key,
    select: tuple[str, ...],
    console: Console,
) -> int:
    salt, said = load_salt(Path(salt_file) if salt_file else default_salt())
    if said:
        console.print(f"Note: {said}.")
    with progress("reading headers", len(walked.files)) as step:
        instances, failed, others = read_instances(walked.files, step)
    table, problems = index_table(place, instances, failed, salt, select)
    problems = sorted([*problems, *((path, "walk", reason) for path, reason in walked.problems)], key=_path_of)
    if labels is not None:
        table = join_labels(table, instances, labels, labels_by)
        without = int(table[list(labels.columns)].isna().all(axis=1).sum())
        names = ", ".join(map(str, labels.columns))
        console.print(
            f"Labels joined by {labels_by}: {names}; {len(table) - without} samples have some, {without} none."
        )
    write_table(table, out)
    for note in notes_on_formulas(table):
        console.print(f"Note: {note}")
    errors = out.with_suffix(".errors.csv")  # of this table alone: others may lie in the same folder
    errors.unlink(missing_ok=True)
    kinds = Counter(zip(table["modality"], table["kind"], strict=True))
    counts = ", ".join(f"{n} {modality or 'unknown'} ({kind})" for (modality, kind), n in sorted(kinds.items()))
    console.print(f"{out}: {len(table)} samples of {table['patient'].nunique()} patients: {counts or 'none'}")
    if unnamed := int((table["patient"] == "").sum()):
        console.print(f"Note: {unnamed} samples have no PatientID; their patient is empty.")
    if others:
        listed = ", ".join(f"{n} {what}" for what, n in Counter(reason for _, reason in others).most_common())
        console.print(f"Left out, because they contain no image: {len(others)} files ({listed})")
    if not problems:
        return 0
    write_errors(pd.DataFrame(problems, columns=["path", "stage", "reason"]), errors)
    stages = Counter(stage for _, stage, _ in problems)
    console.print(f"{errors}: {len(problems)} left out ({', '.join(f'{n} {stage}' for stage, n in stages.items())})")
    return 3


def _path_of(problem: tuple[Path | str, str, str]) -> str:
    return str(problem[0])


def _print_carried(carried: Carried, console: Console) -> None:
    table = Table("about", "element", "files", title=f"Identifying elements in {carried.files} files")
    table.columns[2].justify = "right"
    order = {group: i for i, group in enumerate(dict.fromkeys(KEYWORDS.values()))}
    for keyword, n in sorted(carried.elements.items(), key=lambda pair: (order[KEYWORDS[pair[0]]], -pair[1], pair[0])):
        table.add_row(KEYWORDS[keyword], keyword, str(n))
    if carried.private:
        table.add_row("unknown", "private elements", str(carried.private))
    if carried.overlays:
        table.add_row("pictures", "overlays", str(carried.overlays))
    console.print(table)
    flags = Table("what the files state about themselves", "YES", "NO", "not said")
    for flag in FLAGS:
        flags.add_row(flag, *(str(carried.flags[flag, value]) for value in ("YES", "NO", "not said")))
    console.print(flags)
    if carried.may_hold_text:
        console.print(f"{carried.may_hold_text} files may have text burnt into the picture: look at them.")
    if carried.failed:
        console.print(f"{carried.failed} files cannot be read.")
