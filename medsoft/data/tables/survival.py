"""Reads times and events of survival: what is no time above 0, and what does not say whether the event happened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medsoft.data.tables.labels import is_number, plain_number, some
from medsoft.data.tables.problems import Problem
from medsoft.data.tables.values import asked_about
from medsoft.errors import InputError
from medsoft.task_types import LabelOptions
from medsoft.text.spelling import normal_form

HAPPENED, CENSORED = ("1", "true", "yes"), ("0", "false", "no")
"""Events that leave no doubt, whatever their capitals."""


def read_times(
    column: pd.Series, problems: Sequence[Problem], required: bool, longest: float, unit: str
) -> tuple[pd.Series, list[Problem]]:
    """Times as numbers, NaN where they are missing or wrong.

    Args:
        column: text, "" where missing.
        problems: found before; of their rows nothing is said again.
        required: whether a missing time is a problem.
        longest: what no time can be, in the unit.
        unit: days, months or years; "" where nobody said it.

    Returns:
        (N,) float64, and problems of rows.
    """
    found: list[Problem] = []
    in_doubt = asked_about(problems)

    def say(row: int, kind: str, message: str, advice: str) -> None:
        found.append(Problem(kind, (row,), message, advice))

    values = []
    for row, text in enumerate(column, start=1):
        number = float(text) if is_number(text) else np.nan
        values.append(number if 0 < number <= longest else np.nan)
        if not text:
            if required and row not in in_doubt:
                say(row, "missing time", "the time is empty", "fill in the time of the event, or of the last visit")
        elif np.isnan(number):
            say(row, "no time", f"{text!r} is no number", "times are numbers with a decimal point, in one unit")
        elif number <= 0:
            what = "0" if number == 0 else "negative"
            advice = "times are counted from the image or its specimen: correct the dates, or delete the row"
            say(row, "time not above 0", f"the time is {what}", advice)
        elif number > longest:
            advice = f"times are in {unit} (data.time_unit): correct the unit, or the row where its unit is another"
            say(row, "impossible time", f"a time of {text} {unit} is {number / longest * 120:.0f} years", advice)
    return pd.Series(values, index=column.index, dtype=np.float64), found


def read_events(
    column: pd.Series, problems: Sequence[Problem], options: LabelOptions
) -> tuple[pd.Series, list[Problem], list[str]]:
    """Events as 1 and 0, missing where they are missing.

    Without ``options.positive`` 1, true and yes mean that the event happened, and 0, false and no that it did not.
    Other words are asked about.

    Args:
        column: text, "" where missing.
        problems: found before; of their rows nothing is said again.
        options: see ``LabelOptions``; its ``positive`` are the values of which the event happened.

    Returns:
        (N,) Int8, problems of rows, and sentences on what was decided.

    Raises:
        InputError: the values leave open what happened, or there are several kinds of events.
    """
    about = f"the event column {column.name!r}"
    values = column.map(lambda text: plain_number(text) if is_number(text) else normal_form(text))
    seen = sorted(set(values) - {""}, key=lambda value: (not is_number(value), value))
    shown = {value: column[values == value].iloc[0] for value in seen}
    positive = {plain_number(text) if is_number(text) else normal_form(text) for text in options.positive}
    if options.required and (absent := positive - set(seen)):
        there = some(list(shown.values()))
        raise InputError(f"positive: {about} has no value {some(sorted(absent))}; there are {there}")
    codes = [value for value in seen if is_number(value) and float(value) > 1 and value not in positive]
    if codes:
        raise InputError(
            f"{about} has the codes {some([shown[code] for code in codes])}: competing risks are not modelled. An "
            "event is 1 where it happened and 0 where the sample is censored: recode the column, or name all codes "
            "that are one and the same event as positive (fit: --data.positive 1,2)"
        )
    notes: list[str] = []
    if positive:
        meaning = {value: int(value in positive) for value in seen}
        censored = [shown[value] for value in seen if value not in positive]
        notes = [f"{about}: {some([shown[v] for v in seen if v in positive])} is the event, {some(censored)} censored"]
    else:
        meaning = {value: int(value in HAPPENED) for value in seen if value in (*HAPPENED, *CENSORED)}
        if unclear := [shown[value] for value in seen if value not in meaning]:
            raise InputError(
                f"{about} has the values {some(list(shown.values()))}: say which mean that the event happened, as "
                f"positive (fit: --data.positive {unclear[-1]}); all others are then censored. Without it 1, true and "
                "yes are events, and 0, false and no censored"
            )
    in_doubt = asked_about(problems)
    advice = "fill in whether the event happened, or delete the row"
    missing = [row for row, value in enumerate(values, start=1) if not value and row not in in_doubt]
    found = [Problem("missing event", (row,), "the event is empty", advice) for row in missing if options.required]
    return values.map(lambda value: meaning.get(value)).astype("Float64").astype("Int8"), found, notes
