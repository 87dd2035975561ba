"""Clinical covariates: age, sex and others from columns of the sample table, that the model sees beside the image."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.tables.checks import SPLITS
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import require_columns, text
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.tables.values import Placeholders, without_placeholders
from medsoft.errors import InputError
from medsoft.specs import Covariates
from medsoft.text.spelling import normal_form

MISSING = ("", "NA", "NaN", "nan", "<NA>")


def covariate_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns of the option ``data.covariates``: a list, or names separated by commas.

    Raises:
        InputError: a column is named twice.
    """
    names = tuple(word.strip() for word in given.split(",")) if isinstance(given, str) else tuple(given or ())
    if len(set(names)) < len(names):
        raise InputError(f"data.covariates names a column twice: {', '.join(names)}")
    return names


def column_of(name: str, columns: Container[Any]) -> tuple[str, str | None]:
    """The column of a covariate, and the group it asks for: ``sex=male`` is 1 where the column sex says male, else 0.

    Args:
        name: of the covariate.
        columns: of the table; a column that is named so, sign and all, is a column of numbers.

    Returns:
        The column, and the group; None for a column of numbers.
    """
    column, asks, group = name.partition("=")
    return (column.strip(), group.strip()) if asks and name not in columns else (name, None)


def read_covariates(samples: SampleTable, names: Sequence[str]) -> np.ndarray:
    """The values of all rows, (N, K) float32, NaN where they are missing.

    Raises:
        InputError: a column does not exist.
        TableError: a value is no number; all are listed.
    """
    columns = [column_of(name, samples.frame.columns)[0] for name in names]
    require_columns(samples.source, samples.frame.columns, {"covariates": columns})
    values, problems = covariate_values(samples.frame, names, samples.frame["row"].tolist(), samples.placeholders)
    if problems:
        raise TableError(str(samples.source), problems)
    return values


def covariate_values(
    frame: pd.DataFrame, names: Sequence[str], rows: Sequence[int], placeholders: Placeholders = None
) -> tuple[np.ndarray, list[Problem]]:
    """Numbers from the cells of a table, and what is wrong with them.

    Args:
        frame: with the columns.
        names: of the columns.
        rows: the number of each row in the user's table, for messages.
        placeholders: what words such as N/A mean.

    Returns:
        (N, K) float32, NaN where a value is missing, and a problem for each value that is no number.
    """
    values = np.empty((len(frame), len(names)), np.float32)
    problems: list[Problem] = []
    number = np.asarray(rows)
    for k, name in enumerate(names):
        column, group = column_of(name, frame.columns)
        texts, asked = without_placeholders(text(frame[column]), column, placeholders, always=MISSING)
        problems += [replace(one, rows=tuple(int(number[row - 1]) for row in one.rows)) for one in asked]
        if group is None:
            numbers = pd.to_numeric(texts, errors="coerce").replace([np.inf, -np.inf], np.nan)
            kind, advice = (
                "no number",
                "leave what is missing empty; a column of groups is named with one: {name}={value}",
            )
        else:
            numbers = (texts == group).astype(np.float64).mask(texts.isin(MISSING))
            alike = (texts != group) & (texts.map(normal_form) == normal_form(group))
            numbers = numbers.mask(alike)
            kind, advice = "written differently", f"write it alike everywhere, and in the option: {name}"
        values[:, k] = numbers.to_numpy(dtype=np.float32)
        wrong = (numbers.isna() & ~texts.isin(MISSING)).to_numpy()
        for value in dict.fromkeys(texts[wrong]):
            rows_of = tuple(map(int, number[wrong & (texts == value).to_numpy()]))
            said = advice.format(name=name, value=value) if group is None else advice
            problems.append(Problem(kind, rows_of, f"{column} is {value!r}", said, skippable=False))
    return values, problems


def one_of_each(
    values: np.ndarray, groups: Sequence[str], names: Sequence[str], rows: Sequence[int]
) -> tuple[np.ndarray, list[Problem]]:
    """Covariates of patients whose slides are pooled into one bag.

    Args:
        values: (N, K), NaN where missing.
        groups: the patient of each row.
        names: of the columns.
        rows: the number of each row in the user's table, for messages.

    Returns:
        (N, K): of each row what is known of its patient; and a problem for each patient with two different values.
    """
    found, problems = values.copy(), []
    group_N, _ = pd.factorize(np.asarray(groups, dtype=object))
    for group in range(int(group_N.max(initial=-1)) + 1):
        inside = np.flatnonzero(group_N == group)
        for k, name in enumerate(names):
            known = np.unique(values[inside, k][~np.isnan(values[inside, k])])
            if len(known) > 1:
                message = f"{name} differs among the slides of a patient"
                advice = "a bag of all slides of a patient has one value: give the same on each of the rows"
                where = tuple(int(rows[int(row)]) for row in inside)
                problems.append(Problem("covariate differs", where, message, advice, skippable=False))
            elif len(known):
                found[inside, k] = known[0]
    return found, problems


def scaled_by(values: np.ndarray, names: Sequence[str]) -> Covariates:
    """The covariates with the mean and standard deviation of the training part's known values.

    Args:
        values: (N, K) of the training part.
        names: of the columns.

    Raises:
        InputError: a column has fewer than two different values there.
    """
    scale = []
    for name, column in zip(names, values.T.astype(np.float64), strict=True):
        known = column[~np.isnan(column)]
        if len(np.unique(known)) < 2:
            raise InputError(
                f"data.covariates: {name!r} has no two different values in the training part; leave it out"
            )
        scale.append((float(known.mean()), float(known.std())))
    return Covariates(tuple(names), tuple(scale))


def require_known(values: np.ndarray, names: Sequence[str], part_N: np.ndarray) -> None:
    """Refuse covariates that a whole part of the table lacks: its metrics would be of a model without them.

    Args:
        values: (N, K).
        names: of the columns.
        part_N: the part of each row.

    Raises:
        InputError: names the columns and the parts.
    """
    lacking = [
        f"{name!r} is missing in all {int((part_N == part).sum())} rows of {part}"
        for k, name in enumerate(names)
        for part in SPLITS
        if (part_N == part).any() and np.isnan(values[part_N == part, k]).all()
    ]
    if lacking:
        raise InputError(
            f"data.covariates: {'; '.join(lacking)}: fill it in, leave the covariate out, or split the table otherwise"
        )
