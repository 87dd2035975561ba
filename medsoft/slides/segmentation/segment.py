"""The one function that shows a slide to a segmentation model, window by window, and joins what it says.

Windows lie as those of MONAI's sliding window: the last of a row and of a column is moved back to the edge. Where they
overlap, the weighted mean of their scores decides. Rows of the map are done when no further window reaches them: memory
holds the scores of one row of windows, and of a wide slide those of a part of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medsoft.errors import SlideError, TileError
from medsoft.slides.reading.overview import overview_size
from medsoft.slides.segmentation.label_map import LabelMap
from medsoft.slides.segmentation.mask_model import MaskModel

if TYPE_CHECKING:
    from medsoft.slides.reading.slide import Slide

MOST_BYTES = 2**28
"""Of the scores in memory; a wider slide is done in several strips, whose common windows are shown twice."""

Select = Callable[[np.ndarray, float], npt.NDArray[np.bool_]]
"""From the corners (N, 2) of windows and their side, in level-0 pixels, to whether each is shown."""


@dataclass(frozen=True)
class WindowSettings:
    """How a slide is shown to a model.

    Attributes:
        mpp: µm per pixel.
        overlap_px: of neighbouring windows.
        batch_size: windows that are shown together.
        workers: threads that read.
        max_unreadable: largest part of the windows that may be unreadable.
    """

    mpp: float
    overlap_px: int
    batch_size: int = 8
    workers: int = 2
    max_unreadable: float = 0.01


@dataclass(eq=False)
class Segmented:
    """The map of a slide; its labels are to be closed.

    Attributes:
        labels: of the scanned part of the slide, 0 for the background and where no window was shown.
        classes: of the values 1, 2, …
        mpp: µm per pixel of the map.
        scale_px0: level-0 pixels along the side of one of its pixels.
        origin_px0: (x, y) of its corner, which is that of the slide's bounds.
        pixels_C: how many pixels each value has, int64, that of 0 first.
        windows: how many there are.
        shown: how many the model was shown.
        unreadable: how many could not be read.
    """

    labels: LabelMap
    classes: tuple[str, ...]
    mpp: float
    scale_px0: float
    origin_px0: tuple[int, int]
    pixels_C: np.ndarray
    windows: int = 0
    shown: int = 0
    unreadable: int = 0
    reason: str = field(default="", repr=False)

    @contextmanager
    def labels_kept(self) -> Iterator[Segmented]:
        """The map, whose labels are closed when the block ends."""
        with self.labels:
            yield self

    @property
    def mm2(self) -> dict[str, float]:
        """Area of each class."""
        pixel_mm2 = (self.mpp / 1000) ** 2
        return {name: float(self.pixels_C[value] * pixel_mm2) for value, name in enumerate(self.classes, start=1)}


def segment_slide(
    slide: Slide,
    model: MaskModel,
    settings: WindowSettings,
    folder: Path | None = None,
    select: Select | None = None,
    advance: Callable[[int], None] = lambda windows: None,
) -> Segmented:
    """Say the class of every pixel of the scanned part of a slide.

    Args:
        slide: an open slide.
        model: what says it.
        settings: how it is shown the slide.
        folder: for the map while it is made, see ``LabelMap``.
        select: which windows are shown; None: all. What no window shows is background.
        advance: told how many windows are done, batch by batch; what it raises ends the work.

    Raises:
        SlideError: the slide is too coarse, or too much of it cannot be read.
        OSError: the folder cannot be written.
    """
    slide.check_mpp(settings.mpp)
    scale = settings.mpp / slide.mpp
    x0, y0, *scanned = slide.bounds_px0
    size = overview_size((scanned[0], scanned[1]), slide.mpp, settings.mpp)
    columns, rows = (window_starts(length, model.side, settings.overlap_px) for length in size)
    starts_N2 = np.stack([np.tile(columns, len(rows)), np.repeat(rows, len(columns))], axis=1)
    corners_N2_px0 = np.floor(starts_N2 * scale + 0.5).astype(np.int64) + np.array([x0, y0])
    shown_N = np.ones(len(starts_N2), bool) if select is None else select(corners_N2_px0, model.side * scale)
    labels = LabelMap(size, folder)
    found = Segmented(
        labels, model.classes, settings.mpp, scale, (x0, y0), np.zeros(1 + len(model.classes), np.int64), len(shown_N)
    )
    try:
        for left, right in strips(size[0], model.side, len(model.values_K)):
            inside_N = shown_N & (starts_N2[:, 0] < right) & (starts_N2[:, 0] + model.side > left)
            _fill(slide, model, settings, found, (left, right), starts_N2[inside_N], corners_N2_px0[inside_N], advance)
        if found.unreadable > settings.max_unreadable * max(1, found.shown + found.unreadable):
            words = f"{found.unreadable} of {found.shown + found.unreadable} windows cannot be read"
            raise SlideError(f"{words}, the last as: {found.reason}")
    except BaseException:
        labels.close()
        raise
    found.pixels_C[0] = size[0] * size[1] - found.pixels_C[1:].sum()
    return found


def window_starts(length: int, side: int, overlap: int) -> npt.NDArray[np.int64]:
    """Where windows begin along an axis; the last is moved back to the end, and one alone begins at 0."""
    step = side - overlap
    number = 1 + max(0, math.ceil((length - side) / step))
    return np.minimum(np.arange(number) * step, max(0, length - side)).astype(np.int64)


def strips(width: int, side: int, scores: int) -> list[tuple[int, int]]:
    """First and one past the last column of each part of a map whose scores fit into ``MOST_BYTES``."""
    most = max(2 * side, MOST_BYTES // (4 * scores * side))
    number = math.ceil(width / most)
    edges = [round(index * width / number) for index in range(number + 1)]
    return list(itertools.pairwise(edges))


def _fill(
    slide: Slide,
    model: MaskModel,
    settings: WindowSettings,
    found: Segmented,
    strip: tuple[int, int],
    starts_n2: np.ndarray,
    corners_n2_px0: np.ndarray,
    advance: Callable[[int], None],
) -> None:
    """Put the columns of a strip into the map."""
    band = _Band(model, found, strip)
    for rows, images in _batches(slide, model.side, settings, found, corners_n2_px0):
        for row, scores_Khw in zip(rows, model(images), strict=True):
            band.add(starts_n2[row], scores_Khw)
        advance(len(rows))
    band.finish()


def _batches(
    slide: Slide, side: int, settings: WindowSettings, found: Segmented, corners_n2_px0: np.ndarray
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Windows that can be read, from the top: which they are, and their pixels (B, side, side, 3)."""
    rows: list[int] = []
    images: list[np.ndarray] = []
    for row, tile in slide.read_tiles(corners_n2_px0, side, settings.mpp, settings.workers):
        if isinstance(tile, TileError):
            found.unreadable += 1
            found.reason = tile.reason
            continue
        found.shown += 1
        rows.append(row)
        images.append(tile)
        if len(rows) == settings.batch_size:
            yield rows, np.stack(images)
            rows, images = [], []
    if rows:
        yield rows, np.stack(images)


class _Band:
    """Weighted sums of scores of a strip, as high as a window, which moves down with the windows."""

    def __init__(self, model: MaskModel, found: Segmented, strip: tuple[int, int]) -> None:
        self._model, self._found = model, found
        self._left, self._right = strip
        self._top = 0
        self._sums_KHW = np.zeros((len(model.values_K), model.side, self._right - self._left), np.float32)
        self._seen_HW = np.zeros(self._sums_KHW.shape[1:], bool)

    def add(self, start: Any, scores_Khw: np.ndarray) -> None:
        """Add a window, which begins at (x, y) of the map, no higher than those before."""
        x, y = int(start[0]), int(start[1])
        self._move_to(y)
        first, last = max(x, self._left), min(x + self._model.side, self._right)
        here, there = slice(first - x, last - x), slice(first - self._left, last - self._left)
        self._sums_KHW[:, :, there] += scores_Khw[:, :, here] * self._model.weights_hw[:, here]
        self._seen_HW[:, there] = True

    def finish(self) -> None:
        """Write what is left."""
        self._move_to(self._top + self._model.side)

    def _move_to(self, top: int) -> None:
        """Write the rows above, which no further window reaches."""
        done = min(top - self._top, self._model.side)
        if done <= 0:
            return
        self._write(min(done, self._found.labels.size_px[1] - self._top))
        for values_HW in (*self._sums_KHW, self._seen_HW):  # one by one: NumPy copies what overlaps
            values_HW[: self._model.side - done] = values_HW[done:]
            values_HW[self._model.side - done :] = 0
        self._top = top

    def _write(self, rows: int) -> None:
        columns = np.flatnonzero(self._seen_HW[:rows].any(axis=0))
        if not len(columns):
            return
        part = slice(int(columns[0]), int(columns[-1]) + 1)
        labels_hw = self._model.values_K[self._sums_KHW[:, :rows, part].argmax(axis=0)]
        labels_hw[~self._seen_HW[:rows, part]] = 0
        self._found.pixels_C += np.bincount(labels_hw.ravel(), minlength=len(self._found.pixels_C))
        self._found.labels.write(self._left + part.start, self._top, labels_hw)
