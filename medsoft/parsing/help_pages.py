"""Makes pages of help from parsers and classes; ``scripts/help_table`` stores them, so that printing help is quick."""

from __future__ import annotations

import types
import typing
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping
from typing import Any

from medsoft.parsing.help import RUN, TITLES, Option, Page
from medsoft.parsing.log_options import is_logged
from medsoft.parsing.parser import OneLineErrors, kind_in_words, simplest_first

LOGS = (
    Option(
        "log_format",
        "one of text, json",
        "text",
        "Format of the event log: text writes none, json writes one JSON object per line.",
    ),
    Option("log_file", "text", None, "File to write the log to, instead of standard error."),
)
SHORT_FORMS = (
    Option("batch_size", "a whole number", None, "Short for data.batch_size."),
    Option("workers", "a whole number", None, "Short for data.num_workers."),
    Option(
        "device",
        "text",
        "auto",
        "Device to compute on: auto, cpu, cuda, cuda:1 or mps; sets trainer.accelerator and trainer.devices.",
    ),
)


def page_of(parser: OneLineErrors, verb: str, more: Mapping[str, str] | None = None) -> Page:
    """The help of a verb.

    Args:
        parser: of its options.
        verb: as in ``medsoft.cli.main.VERBS``.
        more: of a verb whose options are those of classes, their names by role.
    """
    groups: dict[str, list[Option]] = {}
    for title, actions in _groups(parser, more):
        shown = [option_of(parser, action) for action in actions if _is_shown(parser, action)]
        groups.setdefault(title, []).extend(shown)
    if more is not None:
        groups[RUN] += SHORT_FORMS if verb != "data show" else ()
    if is_logged(verb):
        groups["Logs"] = list(LOGS)
    found = tuple((title, tuple(options)) for title, options in groups.items() if options)
    return Page(str(parser.usage), str(parser.description), found)


def _groups(parser: OneLineErrors, more: Mapping[str, str] | None) -> Iterator[tuple[str, list[Action]]]:
    """Titles and what is under them: as the parser has it, or by the role of the class that an option belongs to."""
    if more is None:
        for group in parser._action_groups:
            title = (group.title or "options").rstrip(":. ")
            yield title[:1].upper() + title[1:], group._group_actions
        return
    yield RUN, [action for action in parser._actions if action.dest.partition(".")[0] not in TITLES]
    for role, title in TITLES.items():
        actions = [action for action in parser._actions if action.dest.startswith(f"{role}.")]
        yield title.format(more.get(role)), actions


def option_of(parser: OneLineErrors, action: Action) -> Option:
    """What the help says of one option of a parser."""
    kind = kind_of(action)
    # The configuration of the run that a checkpoint is of names its table.
    required = action.required and not (action.dest == "data.table" and parser.verb in ("validate", "test"))
    return Option(action.dest, kind, _plain(parser.get_default(action.dest)), _sentence(action.help, kind), required)


def _sentence(text: str | None, kind: str) -> str:
    """Text with a capital letter at its beginning, unless that is a value of the option, and a full stop."""
    if not text:
        return ""
    text = " ".join(text.split()).rstrip(".") + "."
    is_value = text.split()[0].strip(",") in kind.replace(",", "").split()
    return text if is_value else text[0].upper() + text[1:]


def kind_of(action: Action) -> str:
    """What an option takes, in words; a class by its name."""
    if action.nargs == 0:
        return ""
    return _kind(getattr(action, "_typehint", action.type))


def _kind(hint: Any) -> str:
    if short := kind_in_words(hint):
        return short
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(sorted({_kind(part) for part in inner if part is not types.NoneType}, key=simplest_first))
    if origin is tuple:
        return f"a list of {len(inner)}: {', '.join(map(_kind, inner))}"
    if origin is not None and inner:
        return f"a list of {_kind(inner[0])}"
    return "text" if hint is None else getattr(hint, "__name__", "any value")


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)


def _is_shown(parser: OneLineErrors, action: Action) -> bool:
    hidden = action.help == SUPPRESS or hasattr(action, "target") or action.dest.endswith(".help")
    # A group's own option, to load a file for it, has no default.
    return not hidden and action.dest not in ("help", "print_config") and action.dest not in (parser.groups or {})
