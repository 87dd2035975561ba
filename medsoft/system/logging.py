"""Structured logs: one JSON object a line, for machines that watch over long work.

They say what happens, how much and how long: never which patient. No name of a file or a sample, no text of a table and
no message goes in, as any of these can bear a patient's name; numbers, words of medsoft's own and types of errors do.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import sys
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

EVENTS = logging.getLogger("medsoft.events")
EVENTS.setLevel(logging.INFO)
EVENTS.propagate = False  # messages of other libraries may name files: neither goes where the other goes
EVENTS.addHandler(logging.NullHandler())


class EventHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once; a line that cannot be written is an error of the run, not a traceback beside it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that is being handled."""
        raise


class JsonFormatter(logging.Formatter):
    """An event as a line of JSON; a number that JSON does not have is null.

    Args:
        verb: what runs; told with each line, beside a word that all lines of the call have in common.
    """

    def __init__(self, verb: str) -> None:
        super().__init__()
        self._call = {"verb": verb, "run": secrets.token_hex(4)}

    def format(self, record: logging.LogRecord) -> str:
        """The line of an event, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Value] = record.__dict__["fields"]
        fields = {name: None if _is_no_number(value) else value for name, value in fields.items()}
        return json.dumps({"time": time, "level": record.levelname.lower(), "event": record.msg} | self._call | fields)


def event(name: str, level: str = "info", **fields: Value) -> None:
    """Log an event, where logs are asked for.

    Args:
        name: of the event, a word of medsoft's own.
        level: ``info``, ``warning`` or ``error``.
        **fields: numbers, and words of medsoft's own; nothing that comes from the user's data.

    Raises:
        OSError: the line cannot be written.
    """
    EVENTS.log(logging.getLevelNamesMapping()[level.upper()], name, extra={"fields": fields})


@contextmanager
def log_events(verb: str, format: str, file: str | None) -> Iterator[Callable[[int], None]]:
    """Log while the block runs: into a file, else on standard error, which then bears nothing else.

    What is usually said there goes to standard output instead. The first line is ``start`` and the last ``end``.

    Yields:
        A function to be told the exit code; an exception that leaves the block is logged by its type.

    Raises:
        InputError: the file cannot be written.
    """
    if format != "json":
        yield lambda code: None
        return
    try:
        stream = sys.stderr if file is None else Path(file).open("a", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"--log-file {file}: cannot be written: {error.strerror}") from None
    handler = EventHandler(stream)
    handler.setFormatter(JsonFormatter(verb))
    human, show = sys.stderr, warnings.showwarning
    since = time.monotonic()

    def end(code: int, error: str | None = None) -> None:
        seconds = round(time.monotonic() - since, 3)
        event("end", "info" if code in (0, 3) else "error", code=code, error=error, seconds=seconds)

    def told(message: object, category: type[Warning], *place: object, **more: object) -> None:
        event("warning", "warning", category=category.__name__)
        show(message, category, *place, **more)  # type: ignore[arg-type]

    EVENTS.addHandler(handler)
    if file is None:
        sys.stderr = sys.stdout
    warnings.showwarning = told
    try:
        event("start", medsoft=__version__, python=sys.version.split()[0])
        yield end
    except BaseException as error:
        end(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1, type(error).__name__)
        raise
    finally:
        warnings.showwarning, sys.stderr = show, human
        EVENTS.removeHandler(handler)
        if file is not None:
            stream.close()


def _is_no_number(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
