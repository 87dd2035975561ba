"""The verbs ``medsoft data check``, ``split``, ``index`` and ``phantom``: command lines to functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medsoft.errors import InputError
from medsoft.parsing import call


def check(argv: Sequence[str]) -> None:
    """Report all problems of a sample table, and what it holds."""
    from medsoft.data import verbs_table

    call(verbs_table.check, argv, "data check", positional="table")


def split(argv: Sequence[str]) -> None:
    """Split a sample table."""
    from medsoft.data import verbs_table

    call(verbs_table.split, argv, "data split", positional="table")


def index(argv: Sequence[str]) -> int:
    """Make a sample table of a folder of DICOM files."""
    from medsoft.data import verbs_index

    bare = ("--check-phi", "--check_phi")
    followed = [*argv[1:], ""]
    words = [
        f"{word}=true" if word in bare and after not in ("true", "false") else word
        for word, after in zip(argv, followed, strict=True)
    ]
    return int(call(verbs_index.index, words, "data index", positional="folder") or 0)


def phantom(argv: Sequence[str]) -> None:
    """Make phantoms of a modality.

    Raises:
        InputError: no such modality.
    """
    from medsoft.data.phantoms.slides import phantom_slides
    from medsoft.data.phantoms.volumes import phantom_volumes
    from medsoft.data.phantoms.write import phantom_fundus

    makers: dict[str, Callable[..., Any]] = {
        "fundus": phantom_fundus,
        "slides": phantom_slides,
        "volumes": phantom_volumes,
    }
    if not argv or argv[0] not in makers:
        raise InputError(f"usage: medsoft data phantom {{{','.join(makers)}}} --out DIR [--n N] [--seed S]")
    call(makers[argv[0]], argv[1:], f"data phantom {argv[0]}")
