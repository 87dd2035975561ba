"""What the viewer shows: cases, each with its file and what was found beside it, and the places that were named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medsoft.data.features.names import SCANNED
from medsoft.data.images.read import TILE, locate
from medsoft.data.volumes.read import NIFTI, NRRD
from medsoft.data.volumes.rows import IMAGES

Kind = Literal["slide", "picture", "volume", "none"]
"""How a case is shown; ``none``: its file is not here, or of no kind that is shown."""

TIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class Case:
    """One sample.

    Attributes:
        name: its id, or the file's place below the folder that was named.
        kind: how it is shown.
        place: index of the place that it belongs to.
        path: what the project's readers open: a file, a folder of a series, ``file.npz#key/index``; "" for none.
        split: its part, "" where it has none.
        fold: of a cross-validation, likewise.
        mpp: µm per level-0 pixel of a slide as somebody stated it; None: its file says it.
        contributions: of a slide, the table of the contributions of its tiles, by the class that they are for.
        features: of a slide, the file that knows the size of its tiles.
        tiles: of a slide, the file of its tiling.
        regions: of a slide, files of annotations, ``drawn`` among them.
        drawn: those of them that the heatmap drew, of its top regions.
        map: of a volume, contributions as NIfTI.
        example: of a picture, the picture of its contributions that the run drew.
        missing: in words, why there is nothing to show.
        row: what the predictions table says, as the page shows it; {} without one.
    """

    name: str
    kind: Kind
    place: int
    path: str = ""
    split: str = ""
    fold: str = ""
    mpp: float | None = None
    contributions: dict[str, Path] = field(default_factory=dict)
    features: Path | None = None
    tiles: Path | None = None
    regions: tuple[Path, ...] = ()
    drawn: tuple[Path, ...] = ()
    map: Path | None = None
    example: Path | None = None
    missing: str = ""
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the other cases of its place, in ``reviews.csv`` too."""
        return self.name, self.split, self.fold


@dataclass(frozen=True)
class Place:
    """A run, a folder of slides, a folder of files, or a file.

    Attributes:
        name: for the page.
        folder: where ``reviews.csv`` lies.
        report: of a run; None where there is none.
        columns: of the cases' rows, in the order in which they are shown, with what they hold.
        about: facts of the whole, a line each.
    """

    name: str
    folder: Path
    report: Path | None = None
    columns: tuple[dict[str, str], ...] = ()
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """All that was named.

    Attributes:
        places: in the order in which they were named.
        cases: of all places; a case's index is its number in addresses.
        notes: what was passed over, a line each.
    """

    places: Sequence[Place]
    cases: Sequence[Case]
    notes: Sequence[str] = ()


def kind_of_file(path: str) -> Kind:
    """How a file is shown, by its name; of TIFF by its header: tiled ones are slides.

    A DICOM file may be anything: see ``medsoft.viewer.files``.
    """
    file, key, _ = locate(path)
    if key:
        return "picture" if key.startswith(TILE) or file.endswith((".npz", ".h5")) else "none"
    lower = path.lower()
    if lower.endswith((*NIFTI, *NRRD)):
        return "volume"
    if lower.endswith(TIFF):
        return "slide" if _is_tiled(Path(path)) else "picture"
    if lower.endswith(SCANNED):
        return "slide"
    return "picture" if lower.endswith(IMAGES) else "none"


def _is_tiled(path: Path) -> bool:
    from tifffile import TiffFile  # waits until there is a TIFF

    try:
        with TiffFile(path) as file:
            return bool(file.pages and file.pages[0].is_tiled)  # type: ignore[union-attr]
    except Exception:  # of damaged files; the reader says what is wrong
        return False


def is_inside(path: str | Path, roots: Sequence[Path]) -> bool:
    """Whether a path, links followed, lies in one of the roots, or is one; the roots have their links followed."""
    real = Path(os.path.realpath(path))
    return any(real == root or root in real.parents for root in roots)
