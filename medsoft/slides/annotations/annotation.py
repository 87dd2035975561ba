"""What an annotation file holds, whatever program wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from medsoft.slides.annotations.shapes import Area

Corner = Literal["slide", "bounds"]
"""Where coordinates begin: at the corner of the slide, as OpenSlide and ASAP count, or of its bounds (QuPath)."""

UNCLASSIFIED = ""
"""The class of a region to which its author gave none."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """A region.

    Attributes:
        name: its class; ``UNCLASSIFIED`` where it has none.
        area: in the unit of the file.
    """

    name: str
    area: Area


@dataclass(frozen=True, eq=False)
class AnnotationFile:
    """The regions of a file.

    Attributes:
        program: that writes such files, in words.
        corner: that its coordinates are counted from.
        regions: what has an area, in the order of the file.
        passed: what has none (points, lines) or was not drawn as a region (cells), counted by kind.
        mpp: µm per pixel of the slide, where the file states it.
        size_px: (width, height) of the slide, where the file states it.
    """

    program: str
    corner: Corner
    regions: Sequence[Annotation]
    passed: Counter[str] = field(default_factory=Counter)
    mpp: float | None = None
    size_px: tuple[int, int] | None = None

    @property
    def classes(self) -> Counter[str]:
        """How many regions each class has."""
        return Counter(region.name for region in self.regions)


def listed(classes: Counter[str]) -> str:
    """Classes with their numbers of regions, as words: "Tumor (3), Stroma (1), no class (2)"."""
    return ", ".join(f"{name or 'no class'} ({number})" for name, number in sorted(classes.items())) or "none"
