"""Resolves ambiguous values of a table: words for missing values, and spellings of the same name.

The rules for single values are in ``medsoft.text.spelling``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import pandas as pd

from medsoft.data.tables.problems import SHOWN_ROWS, Problem
from medsoft.errors import InputError
from medsoft.text.spelling import is_formula, is_placeholder, is_plain, is_rounded, normal_form, spellings

Placeholder = Literal["missing", "value"]
"""What a word such as N/A or unknown means: that there is nothing, or itself."""

Placeholders = Placeholder | Mapping[str, Placeholder] | None
"""One meaning for all such words, or a meaning for each; None asks where there are some."""

ASKED = (
    "such a word may mean that nothing is known, or be a value of its own. Say which with placeholders (fit: "
    """--data.placeholders '{"N/A": missing, none: value}', or missing or value for all such words)"""
)


def check_placeholders(rule: object) -> None:
    """Raise InputError where the option placeholders has another form than ``Placeholders``."""
    meanings = rule.values() if isinstance(rule, Mapping) else [] if rule is None else [rule]
    if any(meaning not in ("missing", "value") for meaning in meanings):
        raise InputError(f"""placeholders: missing, value, or a word to one of them, not {rule!r}""")


def without_placeholders(
    values: pd.Series, what: str, rule: Placeholders, named: Collection[str] = (), always: Collection[str] = ()
) -> tuple[pd.Series, list[Problem]]:
    """Empty the values that mean that there is none, and ask about words that may.

    Args:
        values: text, "" where there is nothing.
        what: they are, for messages: "label", "patient".
        rule: the option.
        named: values that other options name, such as classes; they are values.
        always: words that are missing where the rule does not say otherwise.

    Returns:
        The values, without the words that are not decided either, and a problem for each of these.
    """
    decided = {normal_form(word): meaning for word, meaning in rule.items()} if isinstance(rule, Mapping) else {}
    empty, problems = set(), []
    for value in values.unique():
        if not value or value in named:
            continue
        meaning = decided.get(normal_form(value))
        if meaning is None and is_placeholder(value):
            meaning = "missing" if value in always and rule != "value" else rule if isinstance(rule, str) else None
            if meaning is None:
                problems.append(
                    Problem("placeholder", _rows(values == value), f"the {what} is {value!r}", ASKED, False)
                )
                empty.add(value)
        if meaning == "missing":
            empty.add(value)
    return (values.mask(values.isin(empty), "") if empty else values), problems


def one_label_each(values: pd.Series, named: Iterable[str]) -> tuple[dict[str, str], list[Problem]]:
    """Find labels that differ in writing only.

    Args:
        values: labels as text.
        named: classes and positives, as the options write them.

    Returns:
        Label (or named one) to the spelling that it is taken for, of those with several; and the problems.
    """
    meant: dict[str, str] = {}
    problems = []
    advice = "write them alike in the table and in the options: they differ in case, spaces, zeros or invisible marks"
    often = values.value_counts()
    for ways in spellings([*named, *often.index]).values():  # the options' spelling first, then the most frequent
        meant |= dict.fromkeys(ways, ways[0])
        rows = _rows(values.isin(ways[1:]))
        message = f"{' and '.join(map(repr, ways))} differ in writing only"
        problems.append(Problem("several spellings", rows, message, advice, False))
    return meant, problems


def asked_about(problems: Iterable[Problem]) -> set[int]:
    """Rows whose value is in doubt, of which nothing else need be said."""
    return {row for problem in problems if problem.kind == "placeholder" for row in problem.rows}


def check_text(values: pd.Series, what: str, names: bool = True) -> list[Problem]:
    """Check that values are plain text.

    Args:
        values: text.
        what: they are, for messages.
        names: they name somebody or something, so that a rounded number would stand for several.
    """
    problems = []
    advice = "line breaks, tabs and other control characters would break the tables that are written: take them out"
    if rows := _rows(~values.map(is_plain).astype(bool)):
        problems.append(Problem("control character", rows, f"the {what} has a control character", advice, False))
    if names and (rows := _rows(values.map(is_rounded).astype(bool))):
        advice = "a spreadsheet has rounded these numbers, so that several may look alike: export them as text"
        problems.append(Problem("rounded number", rows, f"the {what} is a number with an exponent", advice, False))
    return problems


def refuse_other_spellings(wanted: pd.Series, keys: pd.Series, what: str, other: str) -> None:
    """Refuse a join that would find nothing for values which differ from a key in writing only.

    Args:
        wanted: text of the rows that look for a key; "" for none.
        keys: text of the rows that are looked for, from the table's first row.
        what: names the keys, for the message.
        other: names where the wanted values stand.

    Raises:
        InputError: there are some. It names rows of the keys and no value.
    """
    there = set(keys)
    lost = {normal_form(value) for value in wanted.unique() if value and value not in there}
    rows = _rows(keys.map(lambda key: bool(key) and normal_form(key) in lost).astype(bool))
    if rows:
        raise InputError(
            f"{what} is written otherwise than in {other} in {len(rows)} rows ({_listed(rows)}): they differ in case, "
            "zeros, spaces or invisible marks only. Write them alike (a spreadsheet takes zeros in front away: import "
            "the column as text)"
        )


def notes_on_formulas(frame: pd.DataFrame) -> list[str]:
    """A sentence on cells that a spreadsheet would run, by column and rows."""
    found = {}
    for name, values in frame.items():
        if values.dtype == object or pd.api.types.is_string_dtype(values):
            rows = _rows(values.map(lambda value: isinstance(value, str) and is_formula(value)).astype(bool))
            if rows or is_formula(str(name)):
                found[name] = rows
    if not found:
        return []
    places = [f"{name!r}: " + (f"rows {_listed(rows)}" if rows else "its name") for name, rows in found.items()]
    return [
        f"cells begin with =, +, - or @ ({'; '.join(places)}). They are kept as they are, so that tables can be "
        "joined; a spreadsheet would run them: open what is written with its columns as text"
    ]


def _rows(mask: pd.Series) -> tuple[int, ...]:
    """Numbers of the rows of a mask, from 1."""
    return tuple(row for row, there in enumerate(mask, start=1) if there)


def _listed(rows: tuple[int, ...]) -> str:
    return ", ".join(map(str, rows[:SHOWN_ROWS])) + (", ..." if len(rows) > SHOWN_ROWS else "")
