"""The options of structured logs, which all long verbs have (``medsoft.system.logging``)."""

from __future__ import annotations

from medsoft.errors import InputError
from medsoft.parsing.words import Words

LOG_OPTIONS = ("log_format", "log_file")


def is_logged(verb: str) -> bool:
    """Whether a verb works for long, and logs what it does where that is asked for."""
    verbs = ("fit", "crossval", "auto", "pretrain", "validate", "test", "predict", "encode")
    return verb in verbs or verb.startswith("slides ")


def log_options(words: Words) -> tuple[str, str | None]:
    """What ``--log-format`` and ``--log-file`` say.

    Raises:
        InputError: an option without a value, or a format that there is not.
    """
    if bare := [name for name, value in words.options if name in LOG_OPTIONS and not value]:
        raise InputError(f"option --{bare[0].replace('_', '-')} needs a value")
    file = words.last("log_file")
    format = words.last("log_format") or ("text" if file is None else "json")
    if format not in ("text", "json"):
        raise InputError(f"--log-format {format}: text or json")
    if format == "text" and file is not None:
        raise InputError("--log-file is for --log-format json")
    return format, file
