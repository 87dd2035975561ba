"""Command lines and configurations: one line for a mistake, and shipped configurations by name."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import jsonargparse
from jsonargparse import ArgumentParser

from medsoft.errors import InputError

warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse.*")

SHIPPED = Path(__file__).parent / "configs"
OTHER_NAMES = {"histology": "histo_tiles"}
"""Names that shipped configurations have besides that of their file."""


class OneLineErrors(ArgumentParser):
    """A parser whose mistakes are one line, with the nearest known option; a part of an option's name is a mistake."""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            InputError: always.
        """
        raise InputError(_with_nearest(message, self))


def _with_nearest(message: str, parser: ArgumentParser) -> str:
    """Add the nearest known option to jsonargparse's words for one that it does not know."""
    message = re.sub(r"\s*\n\s*", " ", message).strip()
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
    elif found := re.match(r'Parser key "(.+?)": Does not validate against any.* Given value: (.*)', message):
        message = f"option {found[1]}: {found[2]!r} is not of its type; --help says more"
    if unknown is None:
        return message.replace("Parser key ", "option ")
    near = _nearest(unknown, _options(parser))
    return message + (f"; the nearest is {near}" if near else "; --help lists all options")


def _options(parser: ArgumentParser) -> list[str]:
    """Names of the options that a user may set: none that are hidden, or linked to another's value."""
    hidden = ("help", "config", "print_config")
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and not hasattr(action, "target")]
    return [action.dest for action in shown if action.dest not in hidden]


SAME = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "bs": "batch_size",
    "workers": "num_workers",
    "img_size": "size",
    "image_size": "size",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "weights": "pretrained",
    "arch": "backbone",
    "csv": "table",
    "target": "label",
}
"""What other tools call an option, and its last part here."""


def _nearest(unknown: str, known: Sequence[str]) -> str | None:
    """Of the known names one of the same last part or meaning, else one that it begins, else the most similar one."""
    group, _, last = unknown.rpartition(".")
    if last in SAME and not any(name.rpartition(".")[2] == last for name in known):
        last = SAME[last]
    at_end = [name for name in known if name.rpartition(".")[2] == last]
    begun = [name for name in known if name.rpartition(".")[2].startswith(last) and name.startswith(group)]
    return next(iter([*at_end, *begun, *difflib.get_close_matches(unknown, known, n=1)]), None)


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
    if OTHER_NAMES.get(name, name) in shipped:
        return shipped[OTHER_NAMES.get(name, name)]
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


def call(
    function: Callable[..., Any],
    argv: Sequence[str],
    verb: str,
    positional: str | None = None,
    several: bool = False,
    repeated: Sequence[str] = (),
) -> Any:
    """Call a function with the options that its signature and docstring define.

    Every option takes one value. In its name, ``-`` may stand for ``_``: ``--slide-mpp`` sets ``slide_mpp``.

    Args:
        function: fully annotated.
        argv: the command line after the verb.
        verb: as the user typed it, for the help text.
        positional: option that the first word of the command line sets where it bears no name.
        several: all words that bear no name, wherever they stand, set that option, a ``list[str]``.
        repeated: options that may stand there several times, each with its value, and then are a ``list[str]``; only
            where ``several``.

    Raises:
        InputError: the command line does not fit the function.
    """
    options, words = _split_words(argv) if several else ([*argv], [])
    for name in repeated:
        options = _gathered(options, f"--{name}=")
    shown = f"{positional.upper()} " if positional else ""
    if positional and several:
        shown = f"{positional.upper().removesuffix('S')}... "
        options = [f"--{positional}={json.dumps(words)}", *options] if words else options
    elif positional and options and not options[0].startswith("-"):
        options[0] = f"--{positional}={options[0]}"
    # As text, jsonargparse would look them up in all that the module imports for type checking: torch, for --help.
    function.__annotations__ = get_type_hints(function)
    return jsonargparse.auto_cli(
        function,
        args=[_with_underscores(word) for word in options],
        as_positional=False,
        usage=f"medsoft {verb} {shown}[options]",
        parser_class=OneLineErrors,
    )


def _split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with their values as ``--name=value``, and the words that belong to no option."""
    options: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            rest.append(word)
        elif "=" in word or word in ("-h", "--help", "--print_config"):
            options.append(word)
        elif (value := next(words, None)) is None or value.startswith("--"):
            raise InputError(f"option {word} needs a value")
        else:
            options.append(f"{word}={value}")
    return options, rest


def _gathered(options: list[str], start: str) -> list[str]:
    """The options with all values of one that is there several times as one list."""
    values = [word.removeprefix(start) for word in options if word.startswith(start)]
    if len(values) < 2:
        return options
    return [word for word in options if not word.startswith(start)] + [start + json.dumps(values)]


def _with_underscores(word: str) -> str:
    name, equals, value = word.partition("=")
    return word if not name.startswith("--") else "--" + name[2:].replace("-", "_") + equals + value
