"""The terminal: names from data are printed as they are written, and obeyed by nobody."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from medsoft.text.spelling import printable


class _Plain(Console):
    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        """Control characters as escapes: the name of a file may hold some."""
        return super().render_str(printable(text), *args, **options)


def plain_console(stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that takes every text, in tables too, as it is: no markup, no emoji codes, no highlighting.

    A class may be called ``nodule [benign]``. What is to be coloured says so with ``style``.

    Args:
        stderr: print on standard error.
        soft_wrap: leave long lines to the terminal.
    """
    return _Plain(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)
