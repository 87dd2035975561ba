"""What a prediction is of: a slide, or all slides of a patient as in the model's training; and covariates beside it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pandas as pd

from medsoft.data.tables.checks import check_patients, check_undivided
from medsoft.data.tables.covariates import column_of, covariate_values, one_of_each
from medsoft.data.tables.joins import join_clinical
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import text
from medsoft.errors import InputError
from medsoft.inference.slides.options import PatientColumns
from medsoft.slides.source import SlideSource


class Trained(Protocol):
    """What a model says of the bags of its training."""

    @property
    def group(self) -> str:
        """What one bag was of: "slide" or "patient"."""

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns of the covariates beside a bag."""


@dataclass(frozen=True)
class Case:
    """What one prediction is of.

    Attributes:
        id: of the slide, or of the patient.
        sources: the slides whose tiles are one bag.
        rows: of the slides in the user's table, from 1.
        covariates: as the model takes them, NaN where unknown; () for a model without.
    """

    id: str
    sources: tuple[SlideSource, ...]
    rows: tuple[int, ...]
    covariates: tuple[float, ...] = ()


def with_clinical(sources: Sequence[SlideSource], who: PatientColumns) -> list[SlideSource]:
    """The slides with the columns of a table of patients in their rows, where one is named.

    Raises:
        InputError: it cannot be read or joined, or the slides were not named by a table.
    """
    if who.clinical is None:
        return list(sources)
    rows = _rows(sources)
    if who.patient not in rows:
        known = f"its columns are {', '.join(map(str, rows))}" if len(rows.columns) else "there is no table of slides"
        raise InputError(f"--clinical is joined to the slide table by --patient, and {known}: name the column")
    joined = join_clinical(rows, who.clinical, who.patient)
    for note in joined.attrs.get("notes", []):
        print(note)
    texts = pd.DataFrame({str(name): text(joined[name]) for name in joined})
    return [
        replace(source, row={str(name): value for name, value in row.items()})
        for source, row in zip(sources, texts.to_dict("records"), strict=True)
    ]


def find_cases(sources: Sequence[SlideSource], model: Trained, who: PatientColumns) -> tuple[list[Case], str]:
    """What is to be predicted, in the order of the first slide of each.

    Args:
        sources: the slides.
        model: trained.
        who: columns of the table, and whether slides are pooled.

    Returns:
        The cases, and a sentence where they are others than in the training.

    Raises:
        InputError: the table lacks covariates of the training.
        TableError: rows without a patient, patients in two splits, covariates that are no numbers or differ among the
            slides of a patient.
    """
    rows = _rows(sources)
    pooled, said = _is_pooled(rows, model, who)
    patients = rows[who.patient].tolist() if pooled else []
    problems: list[Problem] = check_patients(patients)
    if pooled and "split" in rows:
        problems += check_undivided(patients, rows["split"].tolist(), "patient")
    values, wrong = _covariates(rows, model.covariates, patients)
    if problems := problems + wrong:
        raise TableError("the table of slides", problems)
    if not pooled:
        return [
            Case(source.id, (source,), (row,), beside)
            for row, (source, beside) in enumerate(zip(sources, values, strict=True), start=1)
        ], said
    of_patient: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        of_patient.setdefault(patient, []).append(row)
    cases = [
        Case(patient, tuple(sources[row] for row in inside), tuple(row + 1 for row in inside), values[inside[0]])
        for patient, inside in of_patient.items()
    ]
    return cases, said


def _rows(sources: Sequence[SlideSource]) -> pd.DataFrame:
    return pd.DataFrame([source.row for source in sources], index=range(len(sources)), dtype=object)


def _is_pooled(rows: pd.DataFrame, model: Trained, who: PatientColumns) -> tuple[bool, str]:
    if model.group != "patient":
        return False, ""
    trained = "the model was trained on bags of all slides of a patient (data.group patient)"
    if who.group == "slide":
        return False, f"WARNING: {trained}; here each slide is predicted by itself (--group slide)"
    if who.patient in rows:
        return True, ""
    return False, (
        f"WARNING: {trained}, and nothing says here whose each slide is: each is predicted by itself, as in no "
        f"training. Name the slides by a table with the column {who.patient!r}, or another with --patient"
    )


def _covariates(
    rows: pd.DataFrame, names: tuple[str, ...], patients: Sequence[str]
) -> tuple[list[tuple[float, ...]], list[Problem]]:
    """Values of each row, those of its patient where slides are pooled; and what is wrong with them."""
    if not names:
        return [() for _ in range(len(rows))], []
    trained = f"the model was trained with the covariates {', '.join(names)}"
    if not len(rows.columns):
        raise InputError(f"{trained}: name the slides by a table with these columns (or add them with --clinical)")
    if missing := [column for column, _ in (column_of(name, rows) for name in names) if column not in rows]:
        near = [difflib.get_close_matches(name, [str(one) for one in rows], n=1) for name in missing]
        hints = [
            f"{name!r}{f' (nearest: {found[0]!r})' if found else ''}" for name, found in zip(missing, near, strict=True)
        ]
        raise InputError(
            f"{trained}; the table has no column {', '.join(hints)}: rename or add it, its cells empty where nothing "
            "is known, or join a table of patients with --clinical"
        )
    number = list(range(1, len(rows) + 1))
    values, problems = covariate_values(rows, names, number)
    problems = [
        replace(one, advice="leave the cell empty where nothing is known") if one.kind == "placeholder" else one
        for one in problems
    ]
    if patients:
        values, differing = one_of_each(values, patients, names, number)
        problems += differing
    return [tuple(map(float, row)) for row in values], problems
