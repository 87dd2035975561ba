"""How slides are segmented; light, as the command line imports it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.slides.tiling.settings import Precision, TissueSettings


@dataclass(frozen=True)
class SegmentOptions(Settings):
    """How slides are shown to the model, and what becomes of its map.

    Attributes:
        mpp: Resolution at which the model sees the slides, in µm per pixel: that of its training images. A published
            model (--recipe) has its own.
        tile: Side of the windows in pixels at that resolution, a multiple of 32; the size of the training by default.
        overlap: Overlap of neighbouring windows, in the same pixels; half of a window by default.
        tissue: Where the model is shown the slide, window by window; what holds no tissue is background.
        min_area_um2: Pieces of a class smaller than this, in µm², get no outline, and smaller holes are closed in the
            outlines; the map and the areas keep them.
        batch_size: Number of windows that the model sees together.
        workers: Number of threads that read windows; one per processor by default, 4 at most.
        max_unreadable: A slide with a larger fraction of unreadable windows than this fails.
        precision: Floating-point precision of the model; auto is 16 on a GPU and 32 otherwise.

    Raises:
        InputError: a value is out of its range.
    """

    mpp: float | None = None
    tile: int | None = None
    overlap: int | None = None
    tissue: TissueSettings = field(default_factory=TissueSettings)
    min_area_um2: float = 0.0
    batch_size: int = 8
    workers: int | None = None
    max_unreadable: float = 0.01
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.mpp is not None:
            check_range("mpp", self.mpp, 0.01, 1000)
        if self.tile is not None:
            check_range("tile", self.tile, 32, 16384)
            if self.tile % 32:
                raise InputError(f"tile {self.tile} must be a multiple of 32, the stride of the networks")
        check_range("min_area_um2", self.min_area_um2, 0, 1e12)
        check_range("batch_size", self.batch_size, 1)
        check_range("workers", 1 if self.workers is None else self.workers, 1)
        check_range("max_unreadable", self.max_unreadable, 0, 1)

    def resolved(self, side: int, mpp: float | None) -> SegmentSettings:
        """The settings for a model.

        Args:
            side: of its windows.
            mpp: its resolution; None: nobody but the user knows it.

        Raises:
            InputError: a value is out of its range, or nobody says it.
        """
        resolution = mpp if self.mpp is None else self.mpp
        if resolution is None:
            raise InputError("missing: --mpp, the µm per pixel of the images that the model was trained on")
        overlap = side // 2 if self.overlap is None else self.overlap
        check_range("overlap", overlap, 0, side * 0.9)
        return SegmentSettings(float(resolution), overlap, self.tissue, float(self.min_area_um2))


@dataclass(frozen=True)
class SegmentSettings:
    """What decides a slide's map and outlines, beside the model.

    Attributes:
        mpp: as in ``SegmentOptions``, likewise the others.
        overlap_px: see there.
        tissue: see there.
        min_area_um2: see there.
    """

    mpp: float
    overlap_px: int
    tissue: TissueSettings
    min_area_um2: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "tissue": self.tissue.as_dict()}
