"""Saves and lists the tiles of many slides, as each of them is tiled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from medsoft.errors import SlideError
from medsoft.slides.annotations.settings import RegionOptions
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.records import write_table
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import failed, open_source
from medsoft.slides.tiling.save_tiles import Format, SavedTiles, place_of, save_tiles, saved_tiles
from medsoft.slides.tiling.tiles_table import COLUMNS, TileRows, tile_rows
from medsoft.slides.tiling.tiling import Tiling
from medsoft.slides.tiling.tiling_file import read_tiling

TABLE = "tiles.csv"


class TilesOut:
    """Saved tiles and their table.

    Args:
        folder: of the results.
        format: of the pictures; "table" saves none.
        drawn: which regions label tiles.
        other: label of tiles that lie mostly outside all regions.
    """

    def __init__(
        self, folder: SlidesFolder, format: Format | Literal["table"], drawn: RegionOptions, other: str | None
    ) -> None:
        self._folder, self._format, self._drawn, self._other = folder, format, drawn, other
        self._rows: dict[str, TileRows] = {}
        self._unreadable = 0

    def take(self, source: SlideSource, slide_status: SlideStatus) -> SlideStatus:
        """Save and list the tiles of a slide that was tiled; from any thread.

        Returns:
            Its status: failed where the tiles cannot be saved or labelled, which is recorded.

        Raises:
            OSError: the folder cannot be written.
        """
        if slide_status.status == "failed" or not slide_status.tiles:
            return slide_status
        since = time.perf_counter()
        try:
            tiling = read_tiling(self._folder.tiles(source.id))
            saved = None if self._format == "table" else self._save(source, tiling, self._format)
            found = tile_rows(source, tiling, saved, self._folder.path, self._drawn, self._other)
        except SlideError as error:
            slide_status = failed("save", error, since)
            self._folder.record(source, slide_status)
            return slide_status
        lost = 0 if saved is None else len(tiling) - len(saved.rows)
        self._rows[source.id] = found
        self._unreadable += lost
        if lost:
            more = f"{lost} tiles cannot be read, and were not saved"
            slide_status = replace(slide_status, warnings="; ".join(filter(None, [slide_status.warnings, more])))
            self._folder.record(source, slide_status)
        return slide_status

    def _save(self, source: SlideSource, tiling: Tiling, format: Format) -> SavedTiles:
        place = place_of(self._folder.path, source.id, format)
        if (kept := saved_tiles(place, tiling, format)) is not None:
            return kept
        with open_source(source) as slide:
            return save_tiles(slide, tiling, place, format)

    def write(self, sources: Sequence[SlideSource]) -> str:
        """Write the table, slide by slide in their order; says how many tiles each label has.

        Raises:
            OSError: the folder cannot be written.
        """
        found = [self._rows[source.id] for source in sources if source.id in self._rows]
        rows = [row for one in found for row in one.rows]
        path = self._folder.path / TABLE
        write_table(path, COLUMNS, rows)
        labelled = sum((one.labelled for one in found), Counter[str]())
        words = f"{len(rows)} tiles in {path}"
        if labelled:
            words += ": " + ", ".join(f"{labelled[name]} {name}" for name in sorted(labelled) if name)
        if labelled[""]:
            words += f"; {labelled['']} tiles are not listed, as no class has more than half of their area"
        return words + (f"; {self._unreadable} tiles cannot be read" if self._unreadable else "")
