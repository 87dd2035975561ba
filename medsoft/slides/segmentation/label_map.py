"""A map of values of a whole slide, kept in a file, so that its size costs no memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from medsoft.data.images.write_pyramid import Pixels

ROWS = 1024
"""Of a map that are read together."""


class LabelMap:
    """uint8 values, 0 where nothing was written; to be closed.

    A file without a name, which is gone with the process. What is never written takes no room where the file system
    knows files with holes.

    Attributes:
        size_px: (width, height).

    Args:
        size_px: as above.
        folder: in which the file lies; None: the system's folder for such files.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, size_px: tuple[int, int], folder: Path | None = None) -> None:
        self.size_px = size_px
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self._file.truncate(size_px[0] * size_px[1])

    def write(self, left: int, top: int, values_HW: Pixels) -> None:
        """Put a block of values, which lies wholly inside."""
        width, height = self.size_px
        # Mapped for this block alone: pages of a mapping that stays open count as memory of the process.
        mapped = np.memmap(self._file, np.uint8, "r+", shape=(height, width))
        mapped[top : top + values_HW.shape[0], left : left + values_HW.shape[1]] = values_HW

    def block(self, left: int, top: int, width: int, height: int) -> Pixels:
        """A copy of a block (height, width), which lies wholly inside."""
        mapped = np.memmap(self._file, np.uint8, "r", shape=self.size_px[::-1])
        return np.array(mapped[top : top + height, left : left + width])

    def bands(self) -> Iterator[tuple[int, Pixels]]:
        """The map from the top in bands of ``ROWS``: the first row of each, and its values."""
        width, height = self.size_px
        for top in range(0, height, ROWS):
            yield top, self.block(0, top, width, min(ROWS, height - top))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> LabelMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
