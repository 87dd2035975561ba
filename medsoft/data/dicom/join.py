"""Joins labels from a hospital's table by the identifiers that the hospital uses: of patients or of examinations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from medsoft.data.dicom.frames import Instance
from medsoft.data.dicom.header import word
from medsoft.data.dicom.privacy import KEYWORDS
from medsoft.data.tables.reading import load_source, text
from medsoft.data.tables.values import refuse_other_spellings
from medsoft.errors import InputError

Key = Literal["PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID"]
"""The element that a table of labels names its rows by."""


def load_labels(file: str, by: Key) -> pd.DataFrame:
    """Read a table of labels.

    Args:
        file: CSV or Parquet, one row a value of ``by``.
        by: its column with the values of this element.

    Returns:
        The other columns, indexed by the values as text; rows without a value are left out.

    Raises:
        InputError: there is no such table or column, a value stands there twice, or other columns identify patients.
            The message quotes no value.
    """
    labels = load_source(file)
    if by not in labels:
        there = ", ".join(map(str, labels.columns))
        raise InputError(f"{file}: no column {by!r}: rename the one that holds it; the columns are: {there}")
    if named := [str(column) for column in labels if column in KEYWORDS and column != by]:
        raise InputError(f"{file}: the columns {', '.join(named)} would name patients in the new table: leave them out")
    labels = labels.set_index(text(labels[by])).drop(columns=by)
    labels = labels[labels.index != ""]
    if twice := int(labels.index[labels.index.duplicated()].nunique()):
        raise InputError(f"{file}: {twice} values of {by} stand in several rows: keep one row each")
    return labels


def join_labels(table: pd.DataFrame, instances: Sequence[Instance], labels: pd.DataFrame, by: Key) -> pd.DataFrame:
    """Add the columns of labels to an index; the values that they are joined by stay out of it.

    Args:
        table: as ``index_table`` makes it.
        instances: what it was made of.
        labels: see ``load_labels``.
        by: see there.

    Returns:
        The table with the columns added, empty where there is no label for a row.

    Raises:
        InputError: a column of labels has the name of one of the table, or values differ from those of the files in
            writing only.
    """
    if clash := [str(column) for column in labels if column in table]:
        raise InputError(f"the index has columns of its own called {', '.join(clash)}: rename those of the labels")
    of_series = {instance.series: word(instance.header, by) for instance in instances}
    own = pd.Series(list(of_series.values()), dtype=object)
    refuse_other_spellings(own, pd.Series(labels.index, dtype=object), f"the labels' {by}", "the files")
    found = labels.reindex(table["series_uid"].map(of_series)).reset_index(drop=True)
    return pd.concat([table, found], axis=1)
