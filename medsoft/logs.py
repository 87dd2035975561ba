"""Structured logs: one JSON object a line, for machines that watch over long work.

They say what happens, how much and how long: never which patient. No name of a file or a sample, no text of a table and
no message goes in, as any of these can bear a patient's name; numbers, words of medsoft's own and types of errors do.
"""

from __future__ import annotations

import json
import math
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from medsoft import __version__
from medsoft.errors import InputError

Value = str | int | float | bool | None


class Log:
    """A stream of events.

    Args:
        stream: where the lines go.
        verb: what runs; told with each line.
    """

    def __init__(self, stream: TextIO, verb: str) -> None:
        self._stream, self._verb = stream, verb
        self._run = secrets.token_hex(4)
        self._lock = threading.Lock()

    def write(self, event: str, level: str, fields: dict[str, Value]) -> None:
        """Write a line at once; a number that JSON does not have is null."""
        line: dict[str, Value] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
        }
        line |= {"verb": self._verb, "run": self._run}
        line |= {name: None if _is_no_number(value) else value for name, value in fields.items()}
        with self._lock:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()


_log: Log | None = None


def event(name: str, level: str = "info", **fields: Value) -> None:
    """Log an event, where logs are asked for.

    Args:
        name: of the event, a word of medsoft's own.
        level: ``info``, ``warning`` or ``error``.
        **fields: numbers, and words of medsoft's own; nothing that comes from the user's data.
    """
    if _log is not None:
        _log.write(name, level, fields)


def log_options(words: list[str]) -> tuple[list[str], str, str | None]:
    """A command line without ``--log-format`` and ``--log-file``, and what they say.

    Raises:
        InputError: an option without a value, or a format that there is not.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    words_left = iter(words)
    for word in words_left:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in ("--log-format", "--log-file"):
            rest.append(word)
            continue
        given = value if equals else next(words_left, None)
        if not given:
            raise InputError(f"option {name} needs a value")
        found[name] = given
    format = found.get("--log-format", "json" if "--log-file" in found else "text")
    if format not in ("text", "json"):
        raise InputError(f"--log-format {format}: text or json")
    if format == "text" and "--log-file" in found:
        raise InputError("--log-file is for --log-format json")
    return rest, format, found.get("--log-file")


@contextmanager
def logging(verb: str, format: str, file: str | None) -> Iterator[Callable[[int], None]]:
    """Log while the block runs: into a file, else on standard error, which then bears nothing else.

    What is usually said there goes to standard output instead. The first line is ``start`` and the last ``end``.

    Yields:
        A function to be told the exit code; an exception that leaves the block is logged by its type.

    Raises:
        InputError: the file cannot be written.
    """
    global _log
    if format != "json":
        yield lambda code: None
        return
    try:
        stream = sys.stderr if file is None else Path(file).open("a", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"--log-file {file}: cannot be written: {error.strerror}") from None
    human, show = sys.stderr, warnings.showwarning
    since = time.monotonic()

    def end(code: int, error: str | None = None) -> None:
        seconds = round(time.monotonic() - since, 3)
        event("end", "info" if code in (0, 3) else "error", code=code, error=error, seconds=seconds)

    def told(message: object, category: type[Warning], *place: object, **more: object) -> None:
        event("warning", "warning", category=category.__name__)
        show(message, category, *place, **more)  # type: ignore[arg-type]

    _log = Log(stream, verb)
    if file is None:
        sys.stderr = sys.stdout
    warnings.showwarning = told
    event("start", medsoft=__version__, python=sys.version.split()[0])
    try:
        yield end
    except BaseException as error:
        end(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1, type(error).__name__)
        raise
    finally:
        warnings.showwarning, sys.stderr, _log = show, human, None
        if file is not None:
            stream.close()


def _is_no_number(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
