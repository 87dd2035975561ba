"""Clinical covariates: numeric columns of the sample table, such as age, that the model sees beside the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import require_columns, text
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.tables.values import without_placeholders
from medsoft.errors import InputError
from medsoft.specs import Covariates

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


def read_covariates(samples: SampleTable, names: Sequence[str]) -> np.ndarray:
    """The values of all rows, (N, K) float32, NaN where they are missing.

    Raises:
        InputError: a column does not exist.
        TableError: a value is no number; all are listed.
    """
    require_columns(samples.source, samples.frame.columns, {"covariates": list(names)})
    values = np.empty((len(samples), len(names)), np.float32)
    problems: list[Problem] = []
    for k, name in enumerate(names):
        texts, asked = without_placeholders(text(samples.frame[name]), name, samples.placeholders, always=MISSING)
        problems += [replace(one, rows=tuple(samples.frame["row"].iloc[row - 1] for row in one.rows)) for one in asked]
        numbers = pd.to_numeric(texts, errors="coerce").replace([np.inf, -np.inf], np.nan)
        values[:, k] = numbers.to_numpy(dtype=np.float32)
        wrong = numbers.isna() & ~texts.isin(MISSING)
        advice = "covariates are numbers: code groups as 0 and 1, and leave what is missing empty"
        for row, value in zip(samples.frame.loc[wrong, "row"], texts[wrong], strict=True):
            problems.append(Problem("no number", (int(row),), f"{name} is {value!r}", advice, skippable=False))
    if problems:
        raise TableError(str(samples.source), problems)
    return values


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
