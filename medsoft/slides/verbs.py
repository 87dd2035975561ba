"""The verb ``medsoft slides tile``: the command line to its function."""

from __future__ import annotations

from collections.abc import Sequence

from medsoft.parsing import call


def tile(argv: Sequence[str]) -> int:
    """Find the tissue of slides and lay tiles over it."""
    from medsoft.slides.tile_slides import tile as run

    code: int = call(run, argv, "slides tile", positional="slides", several=True)
    return code
