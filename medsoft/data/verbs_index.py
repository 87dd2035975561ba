"""What ``medsoft data index`` does."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from medsoft.data.decode import ReadError
from medsoft.data.dicom.identifying import FLAGS, KEYWORDS, Carried, look_for_identifying
from medsoft.data.dicom.index import index_table
from medsoft.data.dicom.join import Key, join_labels, load_labels
from medsoft.data.dicom.pseudonyms import default_salt, load_salt
from medsoft.data.dicom.series import dicom_files, read_instances
from medsoft.data.problems import write_errors
from medsoft.data.progress import progress_bar
from medsoft.errors import InputError
from medsoft.files import replacing


def index(
    folder: str,
    out: str | None = None,
    salt: str | None = None,
    labels: str | None = None,
    labels_by: Key = "PatientID",
    check_phi: bool = False,
    overwrite: bool = False,
) -> int:
    """Make a sample table of a folder of DICOM files, or say which identifying elements they carry.

    Args:
        folder: Folder that is walked with all below it, or a DICOMDIR.
        out: The table to write, .csv or .parquet; a table's NAME.errors.csv beside it lists what is not in it.
        salt: File with the secret that patients' names are made with; ~/.config/medsoft/salt if not given. It is made
            where there is none.
        labels: CSV or Parquet with labels to join, one row a patient (or what labels_by says).
        labels_by: Column of labels with the values of this DICOM element; they are compared, and not written.
        check_phi: Print which identifying elements and flags the files carry, with counts and never a value.
        overwrite: Replace the table if it is there.

    Returns:
        Exit code: 0, or 3 where NAME.errors.csv lists something.

    Raises:
        InputError: there is no such folder or DICOMDIR, no DICOM file in it, or nothing to do.
    """
    if not out and not check_phi:
        raise InputError("name the table to write with --out, or ask for --check-phi")
    if out and Path(out).suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"--out {out}: name a file .csv or .parquet")
    if out and Path(out).exists() and not overwrite:
        raise InputError(f"--out {out}: is there already; --overwrite true replaces it")
    if labels and not out:
        raise InputError("--labels: name the table to write with --out")
    found = load_labels(labels, labels_by) if labels else None
    place = Path(os.path.abspath(folder))  # noqa: PTH100 (resolve() would follow links to other names)
    files = _files(place, folder)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if check_phi:
        with progress_bar("looking", len(files)) as step:
            carried = look_for_identifying(files, step)
        _print_carried(carried, console)
    return _write(place, files, Path(out), salt, found, labels_by, console) if out else 0


def _files(place: Path, named: str) -> list[Path]:
    try:
        files = dicom_files(place)
    except OSError as error:
        raise InputError(f"{named}: cannot be opened: {error.strerror}") from None
    except ReadError as error:
        raise InputError(f"{named}: {error.reason}") from None
    if not files:
        raise InputError(f"{named}: no DICOM files in it or below it")
    return files


def _write(
    place: Path,
    files: list[Path],
    out: Path,
    salt_file: str | None,
    labels: pd.DataFrame | None,
    labels_by: Key,
    console: Console,
) -> int:
    salt, said = load_salt(Path(salt_file) if salt_file else default_salt())
    if said:
        console.print(f"Note: {said}.")
    with progress_bar("reading headers", len(files)) as step:
        instances, failed, others = read_instances(files, step)
    table, problems = index_table(place, instances, failed, salt)
    if labels is not None:
        table = join_labels(table, instances, labels, labels_by)
        without = int(table[list(labels.columns)].isna().all(axis=1).sum())
        names = ", ".join(map(str, labels.columns))
        console.print(
            f"Labels joined by {labels_by}: {names}; {len(table) - without} samples have some, {without} none."
        )
    with replacing(out) as temporary:
        if out.suffix.lower() == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
    errors = out.with_suffix(".errors.csv")  # of this table alone: others may lie in the same folder
    errors.unlink(missing_ok=True)
    kinds = Counter(zip(table["modality"], table["kind"], strict=True))
    counts = ", ".join(f"{n} {modality or 'unknown'} ({kind})" for (modality, kind), n in sorted(kinds.items()))
    console.print(f"{out}: {len(table)} samples of {table['patient'].nunique()} patients: {counts or 'none'}")
    if unnamed := int((table["patient"] == "").sum()):
        console.print(f"Note: {unnamed} samples have no PatientID; their patient is empty.")
    if others:
        listed = ", ".join(f"{n} {what}" for what, n in Counter(reason for _, reason in others).most_common())
        console.print(f"Left out, as they hold no picture: {len(others)} files ({listed})")
    if not problems:
        return 0
    write_errors(pd.DataFrame(problems, columns=["path", "stage", "reason"]), errors)
    stages = Counter(stage for _, stage, _ in problems)
    console.print(f"{errors}: {len(problems)} left out ({', '.join(f'{n} {stage}' for stage, n in stages.items())})")
    return 3


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
    flags = Table("what the files say of themselves", "YES", "NO", "not said")
    for flag in FLAGS:
        flags.add_row(flag, *(str(carried.flags[flag, value]) for value in ("YES", "NO", "not said")))
    console.print(flags)
    if carried.may_hold_text:
        console.print(f"{carried.may_hold_text} files may have text burnt into the picture: look at them.")
    if carried.failed:
        console.print(f"{carried.failed} files cannot be read.")
