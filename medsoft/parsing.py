"""Command lines and configurations: one line for a mistake, and shipped configurations by name."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
from jsonargparse import ArgumentParser

from medsoft.errors import InputError

warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse.*")

SHIPPED = Path(__file__).parent / "configs"


class OneLineErrors(ArgumentParser):
    """A parser whose mistakes are one line, with the nearest known option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            InputError: always.
        """
        raise InputError(_with_nearest(message, self))


def _with_nearest(message: str, parser: ArgumentParser) -> str:
    """Add the nearest known option to jsonargparse's words for one that it does not know."""
    message = re.sub(r"\s*\n\s*", " ", message).strip()
    known = [action.dest for action in parser._actions if action.dest not in ("help", "config", "print_config")]
    unknown = None
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        unknown = found[1].lstrip("-").split("=")[0]
        message = f"unknown option {found[1].split('=')[0]}"
    elif found := re.search(r"Group '(.+?)' does not accept option '(.+?)'", message):
        unknown = f"{found[1]}.{found[2]}"
        message = f"unknown option {unknown}"
    elif found := re.search(r"Option '(.+?)' is not accepted", message):
        unknown = found[1]
        message = f"unknown option {unknown}"
    elif found := re.search(r"the following arguments are required: (.+)", message):
        message = "missing: " + ", ".join(f"--{name}" if "." in name else name for name in found[1].split(", "))
    if unknown is None:
        return message.replace("Parser key ", "option ")
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.4)
    if not near:  # right name, wrong group
        near = [name for name in known if name.split(".")[-1] == unknown.split(".")[-1]][:1]
    return message + (f"; the nearest is {near[0]}" if near else "; --help lists all options")


def shipped_configurations() -> dict[str, Path]:
    """Names and files of the configurations that come with medsoft."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def find_configuration(name: str) -> Path:
    """The file of ``--config NAME|PATH``: an existing path, else a shipped configuration.

    Raises:
        InputError: neither; the shipped names are listed.
    """
    shipped = shipped_configurations()
    if Path(name).is_file():
        return Path(name)
    if name in shipped:
        return shipped[name]
    raise InputError(f"--config {name}: no such file, and no shipped configuration: {', '.join(shipped)}")


def with_configurations_found(argv: Sequence[str]) -> list[str]:
    """The command line with every ``--config`` value replaced by the path of its file."""
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--config", "-c"):
            value = next(words, None)
            if value is None:
                raise InputError("--config needs a name or a path: " + ", ".join(shipped_configurations()))
            found += ["--config", str(find_configuration(value))]
        elif word.startswith("--config="):
            found += ["--config", str(find_configuration(word.removeprefix("--config=")))]
        else:
            found.append(word)
    return found


def call(function: Callable[..., Any], argv: Sequence[str], verb: str, positional: str | None = None) -> Any:
    """Call a function with the options that its signature and docstring define.

    Args:
        function: fully annotated.
        argv: the command line after the verb.
        verb: as the user typed it, for the help text.
        positional: option that the first word of the command line sets where it bears no name.

    Raises:
        InputError: the command line does not fit the function.
    """
    if positional and argv and not argv[0].startswith("-"):
        argv = [f"--{positional}={argv[0]}", *argv[1:]]
    usage = f"medsoft {verb} {positional.upper() + ' ' if positional else ''}[options]"
    return jsonargparse.auto_cli(
        function, args=list(argv), as_positional=False, usage=usage, parser_class=OneLineErrors
    )
