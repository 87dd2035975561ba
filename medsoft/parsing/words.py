"""A command line as it was typed: options with their values, and words without an option.

jsonargparse parses the values, and knows which options there are. Which classes have options at all is said by some of
them (``--config``, ``--use.model``, ``--checkpoint``): so the words are divided once, here, before there is a parser.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from medsoft.errors import InputError

SHORT = {"-h": "help", "-c": "config"}

BARE = ("help", "print_config")
"""Options that every verb has and that stand without a value."""

OF_A_TABLE = ("show", "plan", "auto")
"""Verbs of runs whose word without a name is the table."""


@dataclass(frozen=True)
class Words:
    """The words of a command line after the verb.

    Attributes:
        options: names without ``--`` and with ``_`` for ``-``, and their values, in order; None where none was given.
        loose: words that belong to no option.
    """

    options: tuple[tuple[str, str | None], ...] = ()
    loose: tuple[str, ...] = ()

    @classmethod
    def read(cls, argv: Sequence[str], flags: Collection[str] = (), several: Collection[str] = ()) -> Words:
        """Divide a command line.

        Args:
            argv: after the verb.
            flags: options that mean true where they stand alone; a following ``true`` or ``false`` is their value.
            several: options that take all words up to the next option, each as a value.
        """
        options: list[tuple[str, str | None]] = []
        loose: list[str] = []
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            if not is_option(word):
                loose.append(word)
                continue
            name, equals, value = word.partition("=")
            name = SHORT.get(name, name.removeprefix("--").replace("-", "_") if name.startswith("--") else name)
            follows = bool(rest) and not is_option(rest[0])
            if equals:
                options.append((name, value))
            elif name in flags:
                options.append((name, rest.pop(0) if follows and rest[0] in ("true", "false") else "true"))
            elif name in BARE:
                options.append((name, rest.pop(0) if name == "help" and rest[:1] == ["all"] else None))
            elif name in several and follows:
                while rest and not is_option(rest[0]):
                    options.append((name, rest.pop(0)))
            else:
                options.append((name, rest.pop(0) if follows else None))
        return cls(tuple(options), tuple(loose))

    @property
    def help(self) -> str | None:
        """Which help is asked for: ``common``, ``all`` or, as in most calls, None.

        Raises:
            InputError: another one than these.
        """
        asked = [value for name, value in self.options if name == "help"]
        if not asked:
            return None
        if asked[-1] not in (None, "all"):
            raise InputError(f"--help {asked[-1]}: use --help for the common options, or --help all for every option")
        return asked[-1] or "common"

    def all(self, name: str) -> list[str]:
        """All values of an option, in order."""
        return [value for given, value in self.options if given == name and value is not None]

    def last(self, name: str) -> str | None:
        """The value of an option that counts; None where it is not given."""
        return next(iter(reversed(self.all(name))), None)

    def is_true(self, name: str) -> bool:
        """Whether a flag is given.

        Raises:
            InputError: its value is neither true nor false.
        """
        value = self.last(name)
        if value not in (None, "true", "false"):
            raise InputError(f"--{name} {value}: must be true or false")
        return value == "true"

    def without(self, *names: str) -> Words:
        """The same without some options."""
        return replace(self, options=tuple(option for option in self.options if option[0] not in names))

    def begun_with(self, name: str, value: str) -> Words:
        """The same with an option before all others, which they may override."""
        return replace(self, options=((name, value), *self.options))

    def ended_with(self, name: str, value: str) -> Words:
        """The same with an option behind all others, whose value counts."""
        return replace(self, options=(*self.options, (name, value)))

    def each(self, change: Callable[[str, str | None], Sequence[tuple[str, str | None]]]) -> Words:
        """The same with every option replaced by those that a function gives for its name and value."""
        return replace(self, options=tuple(made for option in self.options for made in change(*option)))

    def as_arguments(self) -> list[str]:
        """The options in the form that has one meaning to every parser."""
        return [shown(name) + ("" if value is None else f"={value}") for name, value in self.options]


def is_option(word: str) -> bool:
    """Whether a word is an option, and neither a value nor a negative number."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def shown(name: str) -> str:
    """An option as it is typed."""
    return name if name.startswith("-") else f"--{name}"
