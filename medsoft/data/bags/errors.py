"""What can be wrong with a file of features."""

from __future__ import annotations


class BagError(Exception):
    """A feature file cannot be used, or features cannot be stored in one.

    Attributes:
        reason: what is wrong with it, in one line and without its name, as ``errors.csv`` lists it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)
