"""Joins a slide table with a table of patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medsoft.data.tables.reading import load_source, require_columns, text
from medsoft.data.tables.values import refuse_other_spellings
from medsoft.errors import InputError


def join_clinical(slides: pd.DataFrame, clinical: str | Path, patient: str | None) -> pd.DataFrame:
    """Add to each slide's row the columns that the table of patients has and the slide table has not.

    Args:
        slides: the slide table, one row per slide.
        clinical: table (see ``load_source``) with one row per patient.
        patient: column that both tables name the patient by.

    Returns:
        The rows of ``slides``, with sentences in ``attrs["notes"]``; a patient without a row in ``clinical`` gets empty
        values, which the check of the labels then reports.

    Raises:
        InputError: no patient column, a patient with two rows, or one that both tables know and write differently.
    """
    if patient is None:
        raise InputError("data.clinical: name the column that joins it to the slides with data.patient")
    patients = load_source(clinical)
    require_columns(clinical, patients.columns, {"patient": [patient]})
    if patient not in slides:  # said, with the nearest name, where the slide table is read
        return slides
    keys = text(patients[patient])
    again = np.flatnonzero(keys.duplicated() & (keys != "")) + 1
    if len(again):
        rows = ", ".join(map(str, again[:10])) + (", ..." if len(again) > 10 else "")
        raise InputError(
            f"{clinical}: one row per patient is needed; rows with a patient that was there before: {rows}"
        )
    new = patients[[column for column in patients.columns if column not in slides.columns]].set_index(keys)
    own = text(slides[patient])
    refuse_other_spellings(own, keys, f"{clinical}: {patient}", "the slide table")
    joined = slides.join(new[new.index != ""].reindex(own).set_axis(slides.index))
    lacking = np.flatnonzero((own != "") & ~own.isin(set(keys))) + 1
    notes = [*slides.attrs.get("notes", []), *patients.attrs.get("notes", [])]
    if len(lacking):
        rows = ", ".join(map(str, lacking[:10])) + (", ..." if len(lacking) > 10 else "")
        name = "row names" if len(lacking) == 1 else "rows name"
        notes.append(f"{len(lacking)} {name} a patient that the table of patients lacks: {rows}")
    joined.attrs["notes"] = notes
    return joined
