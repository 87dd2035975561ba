"""How values of a table are written: what differs in writing only, what stands for nothing, what is no plain text.

One rule for labels, patients, exams, sites, ids, column names and the keys that tables are joined by.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

_IGNORED = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
_INVISIBLE = re.compile(f"[{_IGNORED}\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")
"""Characters that leave no mark: soft hyphens, zero widths, marks of direction, byte order marks, fillers."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Line breaks, tabs, NUL, escapes, and halves of characters."""
_ONE_FOR_ALL = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"))
_ONE_FOR_ALL |= str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'"))
_NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.0*)?")
_ROUNDED = re.compile(r"[0-9](\.[0-9]+)?[eE]\+[0-9]{2,}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?%?")
SHOWN = 10
_FORMULA = ("=", "+", "-", "@")

_PLACEHOLDERS = """
    na, n/a, n.a., n.a, #n/a, <na>, nan, none, null, nil, ?, ??, ???, -, --, ---, ., unknown, unk, not known, missing,
    unspecified, undefined, tbd, tba, to be determined, not available, not applicable, not done
"""
PLACEHOLDERS = frozenset(map(str.strip, _PLACEHOLDERS.split(",")))
"""Normal forms of words that often mean that a value is missing."""


@lru_cache(maxsize=2**16)
def normal_form(value: str) -> str:
    """The form that values have in common which differ in writing only.

    Alike are: upper and lower case; compatible forms of Unicode (NFKC), kinds of dashes and apostrophes; invisible
    characters and none; one space and several, and none at the ends; 7, 07, +7 and 7.0; p7 and p07. Not alike are 1.1
    and 1.10, which may number a patient of a site. Exponents are not looked at: 0e12 may be part of a hash.

    Args:
        value: as written.

    Returns:
        A text whose normal form is itself.
    """
    before = None
    while value != before:  # a step can make work for another, and each makes the text simpler
        before = value
        if value.isascii():  # most are, and a table has 100,000 of them: of what follows, ASCII knows this alone
            value = value.replace("`", "'").lower()
        else:
            value = unicodedata.normalize("NFKC", _INVISIBLE.sub("", value)).translate(_ONE_FOR_ALL).casefold()
            value = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in value)
        value = " ".join(_CONTROL.sub(" ", value).split())
        if whole := _NUMBER.fullmatch(value):
            digits = whole[2].lstrip("0") or "0"
            value = digits if whole[1] != "-" or digits == "0" else f"-{digits}"
        else:
            value = re.sub(r"(?<![0-9.,])0+(?=[0-9])", "", value)
    return value


def spellings(values: Iterable[str]) -> dict[str, list[str]]:
    """Normal form to the values that have it, of those that are written in several ways; "" is left out."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for value in values:
        if value:
            found[normal_form(value)][value] = None
    return {form: list(ways) for form, ways in found.items() if len(ways) > 1}


def one_spelling(values: Iterable[str]) -> dict[str, str]:
    """Value to the first one in the alphabet that differs from it in writing only, mostly itself."""
    first: dict[str, str] = {}
    ordered = sorted(set(values))
    return {value: first.setdefault(normal_form(value), value) for value in ordered}


def notes_on_spellings(values: Iterable[str], what: str) -> list[str]:
    """A sentence on names that differ in writing only, with their rows (from 1) and not their values.

    Args:
        values: of all rows.
        what: one of them is: "patient".
    """
    values = list(values)
    found = [
        [row for row, value in enumerate(values, start=1) if value in ways]
        for ways in map(set, spellings(values).values())
    ]
    if not found:
        return []
    listed = [", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "") for rows in found[:SHOWN]]
    which = "; ".join(listed) + ("; ..." if len(found) > SHOWN else "")
    return [
        f"{len(found)} {what}{'s are' if len(found) > 1 else ' is'} written in several ways, which differ in case, "
        f"zeros, spaces or invisible marks only: rows {which}. They are taken for one; write them alike, or make them "
        "differ in more if they are not the same"
    ]


def is_placeholder(value: str) -> bool:
    """Whether a word often means that a value is missing, such as N/A, ? or unknown; "" is no word."""
    return bool(value) and (normal_form(value) in PLACEHOLDERS or not normal_form(value))


def is_plain(value: str) -> bool:
    """Whether a text has no line break, tab, NUL or other control character in it."""
    return _CONTROL.search(value) is None


def is_rounded(value: str) -> bool:
    """Whether a name is a number as a spreadsheet rounds it, such as 1.23457E+17: others may have been the same."""
    return _ROUNDED.fullmatch(value) is not None


def is_formula(value: str) -> bool:
    """Whether a spreadsheet would run a cell: it begins with =, +, - or @ and is no number."""
    return value.startswith(_FORMULA) and len(value) > 1 and _DECIMAL.fullmatch(value) is None


def clean(value: str) -> str:
    """A column's name without surrounding spaces and invisible characters."""
    return _INVISIBLE.sub("", value).strip()


def printable(text: str) -> str:
    """A message for the terminal: control characters and invisible ones as escapes; line breaks stay.

    Names of files and columns may hold sequences that a terminal would obey.
    """
    return "".join(c if c == "\n" or (is_plain(c) and not _INVISIBLE.match(c)) else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """As ``printable``, with line breaks as escapes too: for a sentence that quotes a value."""
    return printable(text).replace("\n", "\\n")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
