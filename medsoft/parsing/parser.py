"""Parses command lines: options come from the signatures of functions and classes, and every error is one line."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import jsonargparse
from jsonargparse import ArgumentParser, Namespace
from jsonargparse._common import ImportDenied, lenient_check  # there are no public names of these
from jsonargparse._link_arguments import ActionLink

from medsoft.errors import InputError
from medsoft.parsing.configurations import read_configuration, refuse_class_paths
from medsoft.parsing.log_options import LOG_OPTIONS, is_logged
from medsoft.parsing.options import arguments_of, defaults_of, refuse_old_name, settings_in
from medsoft.parsing.unknown import of_unknown
from medsoft.parsing.words import BARE, Words, shown
from medsoft.registry import TRUST

warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse.*")


@contextmanager
def class_paths(trusted: bool) -> Iterator[None]:
    """Decide what values may name while the block runs: no class, function or module, unless they are trusted.

    An option without a type, or of type Any, is never built from a class path, trusted or not; and no configuration is
    read from a URL.

    Args:
        trusted: whether the user has said ``--trust`` on the command line.
    """
    from jsonargparse._common import parsing_settings  # there is no public way to take an entry back

    before = dict(parsing_settings)
    jsonargparse.set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,  # Lightning's command line switches it on
        import_path_denylist=[] if trusted else ["*"],
    )
    try:
        yield
    finally:
        parsing_settings.clear()
        parsing_settings.update(before)


class RefusedError(TypeError):
    """A value that an option does not take, as jsonargparse finds it.

    Attributes:
        action: of the option.
        value: that was given.
        reason: in jsonargparse's words.
    """

    def __init__(self, action: argparse.Action, value: Any, reason: str) -> None:
        super().__init__(reason)
        self.action, self.value, self.reason = action, value, reason


class OneLineErrors(ArgumentParser):
    """A parser whose mistakes are one line, with the nearest known option; a part of an option's name is a mistake.

    Attributes:
        trusted: whether values may name classes to be built.
        verb: whose options it has.
        reads_options: whether ``--config`` names a file of options; a verb may have an option of this name for itself.
    """

    trusted = False
    reads_options = True
    verb = ""
    _file: Path | None = None

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def content_of(self, path: Path) -> dict[str, Any]:
        """What a configuration file says.

        Raises:
            InputError: it is none.
        """
        return read_configuration(path)

    def elsewhere(self, option: str) -> str | None:
        """To what else an option belongs that this parser does not have; None where nobody knows it."""
        return None

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """As jsonargparse, of what ``content_of`` says."""
        self._file = Path(path).absolute()
        try:
            parsed: Namespace = super().parse_path(path, *args, **kwargs)
        finally:
            self._file = None
        return parsed

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """As jsonargparse; a file's content may build no object."""
        if self._file is not None:
            file, self._file = self._file, None
            values = self.content_of(file)
            if not self.trusted:
                refuse_class_paths(values, str(file))
            content = json.dumps(values)
        parsed: Namespace = super().parse_string(content, *args, **kwargs)
        return parsed

    @property
    def flags(self) -> list[str]:
        """Options that mean true where they stand without a value."""
        return [action.dest for action in self._actions if _is_flag(action)]

    def checked(self, words: Words) -> Words:
        """Check the names of all options, on the command line and in the files that it names.

        Returns:
            The words with a value for each option that needs one.

        Raises:
            InputError: some are unknown; all of them are listed, each with the nearest or with where it belongs. Or
                one needs a value, or must not be set.
        """
        unknown = self._unknown_words(words)
        for value in words.all("config") if self.reads_options else ():
            if Path(value).is_file():
                unknown += self._unknown_keys(self.content_of(Path(value)), "")
        known = _options(self) if unknown else []
        parts = [told] if (told := of_unknown(unknown, known, self.elsewhere)) else []
        if words.loose:
            parts.append(f"{', '.join(map(repr, words.loose))} belongs to no option: write --option value")
        if parts:
            raise InputError(". ".join(parts))
        flags = {*self.flags}

        def with_value(name: str, value: str | None) -> list[tuple[str, str | None]]:
            if value is None and name not in BARE and name not in flags:
                raise InputError(f"option {shown(name)} needs a value")
            return [(name, "true" if value is None and name in flags else value)]

        return words.each(with_value)

    def parse_words(self, words: Words) -> Namespace:
        """As ``parse_args``, of words that are checked; what the environment says has no part in it.

        Raises:
            InputError: a value is not of its option's type, or one is missing.
        """
        for action in self._actions:
            _keep_reason(action)
        return self.parse_args(words.as_arguments(), env=False)

    def _unknown_words(self, words: Words) -> list[str]:
        known = {name.removeprefix("--") for action in self._actions for name in action.option_strings}
        own = set(self._leaves())
        unknown = []
        for name, _ in words.options:
            plain = name.removesuffix("+")
            if plain in known or plain in own or any(plain.startswith(f"{leaf}.") for leaf in own):
                follows = self._follows(plain)
                if follows is not None:
                    raise InputError(f"--{plain} cannot be set: it always has the value of --{follows}")
                continue
            refuse_old_name(self.verb, plain, known | own)
            unknown.append(shown(plain))
        return unknown

    def _follows(self, name: str) -> str | None:
        """The option whose value another one always has; None for those with a value of their own."""
        links = [action for action in self._actions if isinstance(action, ActionLink)]
        return next((link.source[0][0] for link in links if link.target[0] == name), None)

    def _unknown_keys(self, content: Mapping[str, Any], above: str) -> list[str]:
        found: list[str] = []
        leaves = set(self._leaves())
        for name, value in content.items():
            key = f"{above}{name}"
            if key in leaves or (key in self._groups() and not isinstance(value, Mapping)):
                continue
            if isinstance(value, Mapping) and value and "class_path" not in value:
                found += self._unknown_keys(value, f"{key}.")
            elif key not in self._groups():
                refuse_old_name(self.verb, key, leaves)
                found.append(key)
        return found

    def _groups(self) -> Mapping[str, Any]:
        return self.groups or {}

    def _leaves(self) -> Iterator[str]:
        """Options that have a value of their own; those below them are parts of the value."""
        return (action.dest for action in self._actions if action.dest not in self._groups())

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse, with our words for what is missing.

        Raises:
            InputError: an option must be given, and is not.
        """
        skipped = kwargs.pop("skip_required", False)
        super().validate(namespace, *args, skip_required=True, **kwargs)
        missing = [] if skipped or lenient_check.get() else [key for key in self._required() if _lacks(namespace, key)]
        if missing:
            raise InputError("missing: " + ", ".join(f"--{name}" if "." in name else name for name in missing))

    def _required(self) -> list[str]:
        return [action.dest for action in self._actions if action.required]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            InputError: always.
        """
        causes = list(_causes(ex))
        refused = next((cause for cause in causes if isinstance(cause, RefusedError)), None)
        option = "a value" if refused is None else f"option {refused.action.dest}"
        if any(isinstance(cause, ImportDenied) for cause in causes):
            raise InputError(f"{option} names a class. {TRUST}")
        if refused is None:
            raise InputError(" ".join(message.split()))
        if kind := kind_in_words(getattr(refused.action, "_typehint", None)):
            raise InputError(f"{option}: {str(refused.value)!r} is not of its type: {kind}")
        raise InputError(f"{option}: {' '.join(refused.reason.split())}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lacks(namespace: Namespace, key: str) -> bool:
    try:
        return namespace[key] is None
    except (KeyError, TypeError):
        return True


def _is_flag(action: argparse.Action) -> bool:
    hint = getattr(action, "_typehint", None)
    return hint is bool or set(typing.get_args(hint)) == {bool, types.NoneType}


def _keep_reason(action: argparse.Action) -> None:
    """Let an action tell which option refused which value, and not only in a message."""
    check = getattr(action, "_check_type", None)
    if check is None or getattr(check, "keeps_reason", False):
        return

    @functools.wraps(check)  # jsonargparse passes what the signature names
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        given = list(value) if isinstance(value, list) else value
        try:
            return check(value, *args, **kwargs)
        except TypeError as error:
            raise RefusedError(action, given, str(error.__cause__ or error)) from error

    checked.keeps_reason = True  # type: ignore[attr-defined]
    action._check_type = checked  # type: ignore[attr-defined]


def kind_in_words(hint: Any) -> str:
    """What an option takes: the words to choose from, or number, text and so on; "" where that has no short name."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (typing.Union, types.UnionType):
        parts = {kind_in_words(part) for part in inner if part is not types.NoneType}
        return " or ".join(sorted(parts, key=simplest_first)) if all(parts) else ""
    if origin is list and inner:
        return f"a list of {kind_in_words(inner[0])}"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}.get(
        origin or hint, ""
    )


def simplest_first(kind: str) -> tuple[int, str]:
    """Order the parts of a union: Python may give them as an equal union was written elsewhere."""
    simple, plain = ("true or false", "whole number", "number", "text"), kind.removeprefix("a ")
    return (simple.index(plain) if plain in simple else len(simple) + plain.startswith(("list", "mapping")), kind)


def _options(parser: ArgumentParser) -> list[str]:
    """Names of the options that a user may set: none that are hidden, or linked to another's value."""
    hidden = ("help", "config", "print_config")
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and not hasattr(action, "target")]
    return [action.dest for action in shown if action.dest not in hidden]


def call(
    function: Callable[..., Any],
    argv: Sequence[str],
    verb: str,
    positional: str | None = None,
    several: bool = False,
    repeated: Sequence[str] = (),
) -> Any:
    """Call a function with the options that its signature and docstring define.

    Every option takes one value; one that is true or false may stand alone for true. In its name, ``-`` may stand for
    ``_``: ``--slide-mpp`` sets ``slide_mpp``. Where runs have an option ``--data.path`` and a verb has ``--path``, that
    takes both names: what describes a table is copied from one command line to the other.

    Args:
        function: fully annotated.
        argv: the command line after the verb.
        verb: as the user typed it, for the help text.
        positional: option that a word of the command line sets that bears no name.
        several: all words that bear no name, wherever they stand, set that option, a ``list[str]``.
        repeated: options that may stand there several times, each with its value, and then are a ``list[str]``.

    Raises:
        InputError: the command line does not fit the function.
    """
    with class_paths(trusted=False):
        parser = parser_of(function, verb, positional, several)
        words = Words.read(argv, flags=parser.flags)
        words = words.without(*LOG_OPTIONS) if is_logged(verb) else words
        words = words.each(functools.partial(_as_here, known={*_options(parser), positional}))
        if positional and words.loose and (several or len(words.loose) == 1):
            value = json.dumps(words.loose) if several else words.loose[0]
            words = replace(words.begun_with(positional, value), loose=())
        words = parser.checked(words)
        for name in repeated:
            if len(values := words.all(name)) > 1:
                words = words.without(name).ended_with(name, json.dumps(values))
        values = parser.instantiate(parser.parse_words(words))
    return run(function, arguments_of(function, values))


def _as_here(name: str, value: str | None, known: Collection[str | None]) -> list[tuple[str, str | None]]:
    """An option of a run's data by its name in a verb that has it too."""
    here = name.removeprefix("data.")
    return [(here if name not in known and here in known else name, value)]


@functools.cache
def parser_of(
    function: Callable[..., Any], verb: str = "", positional: str | None = None, several: bool = False
) -> OneLineErrors:
    """The parser of a verb: its function's parameters as options, with the fields of settings objects flat among them.

    It is made once: to read all signatures takes long, and a parser keeps nothing of what it parses.

    Args:
        function: fully annotated; its docstring, and those of its settings, are the help.
        verb: as ``call``.
        positional: as ``call``.
        several: as ``call``.

    Raises:
        ValueError: two parameters or settings have an option of the same name.
    """
    placeholder = "" if positional is None else f"{positional.upper()} "
    if several:
        placeholder = placeholder.removesuffix("S ").rstrip() + "... "
    usage = f"medsoft {verb} {placeholder}[options]"
    parser = OneLineErrors(usage=usage, description=_first_paragraph(function))
    parser.verb = verb
    parser.reads_options = not _has_config(function)
    if parser.reads_options:
        of_file = jsonargparse.ActionConfigFile  # type: ignore[attr-defined]
        parser.add_argument("--config", action=of_file, help="Path to a configuration file.")
    _add_options(parser, function, {"config": function} if parser.reads_options else {})
    parser.set_defaults(defaults_of(function))
    return parser


def _has_config(function: Callable[..., Any]) -> bool:
    """Whether an option of a verb's own is called config."""
    hints = get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    return "config" in hints or any(_has_config(settings) for settings in settings_in(function).values())


def _add_options(parser: OneLineErrors, function: Callable[..., Any], owners: dict[str, Callable[..., Any]]) -> None:
    """Add a function's own options, then those of each of its settings as a group.

    Args:
        parser: that gets them.
        function: or a settings class.
        owners: of all options so far, by name.
    """
    # As text, jsonargparse would look them up in all that the module imports for type checking: torch, for --help.
    annotated = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    annotated.__annotations__ = get_type_hints(annotated)
    inner = settings_in(function)
    for name in annotated.__annotations__.keys() - inner.keys() - {"return"}:
        if name in owners:
            names = f"{owners[name].__name__} and {function.__name__}"
            raise ValueError(f"two options of one verb are called {name}: {names}")
        owners[name] = function
    if isinstance(function, type):
        parser.add_class_arguments(function, skip=set(inner), instantiate=False, sub_configs=True)
    else:
        parser.add_function_arguments(function, as_group=False, skip=set(inner), sub_configs=True)
    for settings in inner.values():
        _add_options(parser, settings, owners)


def _first_paragraph(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def run(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call the function, once its command line is read."""
    return function(**values)
