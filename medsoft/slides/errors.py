"""What can be wrong with a slide."""

from __future__ import annotations


class SlideError(Exception):
    """A slide cannot be used.

    Attributes:
        reason: what is wrong with it, in one line and without its name, as ``errors.csv`` lists it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


class TileError(SlideError):
    """A part of a slide cannot be read; the rest of the slide may well be."""
