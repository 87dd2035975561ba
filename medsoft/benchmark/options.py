"""Parses the options of the benchmarks, and reports invalid ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from medsoft.benchmark.measure import Conditions
from medsoft.errors import InputError, check_range

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
FEWEST_ROUNDS = 7


def choices(option: str, value: str, known: Iterable[str]) -> list[str]:
    """Names separated by commas, each once, in the order given.

    Raises:
        InputError: a name is not known, or there is none.
    """
    known = list(known)
    names = list(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
    for name in names:
        if name not in known:
            raise InputError(f"{option}: unknown {name!r}; {_hint(name, known)}")
    if not names:
        raise InputError(f"{option} is empty: {_hint('', known)}")
    return names


def _hint(name: str, known: list[str]) -> str:
    """All that may be given, or of many the nearest."""
    if len(known) <= 10:
        return f"one of {', '.join(known)}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"the nearest is {near[0]}" if near else f"there are {len(known)}, such as {known[0]}"


def numbers(option: str, value: str) -> list[int]:
    """Positive whole numbers separated by commas, each once, in rising order.

    Raises:
        InputError: something else is given, or nothing.
    """
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"{option} {value}: give whole numbers, 1 or more, separated by commas")
    return sorted({int(word) for word in words})


def conditions_from(
    device: str, dtype: str, rounds: int, max_seconds: float, sample_seconds: float, seed: int
) -> Conditions:
    """The conditions that options ask for.

    Raises:
        InputError: one is out of its range, or there is no such device.
    """
    if rounds < FEWEST_ROUNDS:
        raise InputError(
            f"--rounds {rounds}: a median of fewer than {FEWEST_ROUNDS} is unreliable; give {FEWEST_ROUNDS} or more"
        )
    check_range("--max_seconds", max_seconds, 0)
    check_range("--sample_seconds", sample_seconds, 0)
    choices("--dtype", dtype, DTYPES)
    choices("--device", device, ("auto", "cpu", "cuda"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU here; medsoft doctor says what it finds")
    return Conditions(torch.device(device), DTYPES[dtype], rounds, max_seconds, sample_seconds, seed)


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """PyTorch computes with so many threads in the block, and with as many as before after it; 0 changes nothing.

    Raises:
        InputError: the number is negative.
    """
    check_range("--threads", number, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
