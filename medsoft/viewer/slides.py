"""Slides that are open, and what is known of each: its pyramid, maps, tiles, regions and top tiles."""

from __future__ import annotations

import csv
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from medsoft.data.features.open import open_bag
from medsoft.errors import BagError, SlideError
from medsoft.evaluation.attribution import NO_MAP
from medsoft.slides.annotations.on_slide import regions_on_slide
from medsoft.slides.annotations.settings import AnnotationSource
from medsoft.slides.heatmaps.heatmap import Heatmap
from medsoft.slides.heatmaps.write import about_heatmap
from medsoft.slides.reading.slide import Slide, open_slide
from medsoft.slides.reading.tile_cache import TileCache
from medsoft.slides.tiling.tiling_file import read_tiling
from medsoft.viewer.cases import Case
from medsoft.viewer.deep_zoom import TILE_PX, GridTiles, MapTiles, jpeg, pyramid_of, slide_tile

OPEN_SLIDES = 6
KEPT_TILES = 1024
"""Encoded tiles in memory, of all slides together: about 20 KiB each."""
TOP_TILES = 12
STRIP_PX = 144
"""Side of a tile in the strip."""
MOST_POINTS = 200_000
"""Of the outlines of one slide: more make the page slow."""

GRID = "tiles"
"""Name of the overlay of the outlines of tiles; maps are numbered."""


class OpenSlide:
    """One open slide of a case.

    Raises:
        SlideError: it cannot be opened.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        path = Path(case.path)
        self.resolution_known = True
        try:
            self.slide: Slide = open_slide(path, case.mpp, "table")
        except SlideError as error:
            if case.mpp is not None:
                raise
            # A picture is shown without its resolution too: then there is no scale bar.
            try:
                self.slide = open_slide(path, 1.0)
            except SlideError:
                raise error from None
            self.resolution_known = False
        self.pyramid = pyramid_of(self.slide)
        self.users = 0

    @cached_property
    def maps(self) -> list[tuple[str, MapTiles]]:
        """The maps of contributions, by class."""
        found = []
        for name, path in self.case.contributions.items():
            tile_px0 = self._tile_px0
            if tile_px0 is not None:
                heatmap = read_heatmap(path, self.slide, tile_px0)
                if len(heatmap.contributions_N):
                    found.append((name, MapTiles(heatmap)))
        return found

    @cached_property
    def _tile_px0(self) -> float | None:
        """Side of the tiles in level-0 pixels, as the file of features or of tiles says."""
        try:
            if self.case.features is not None:
                with open_bag(self.case.features) as bag:
                    return None if bag.tile_px0 is None else float(bag.tile_px0)
            return None if self.case.tiles is None else float(read_tiling(self.case.tiles).tile_px0)
        except (BagError, SlideError):
            return None

    @cached_property
    def grid(self) -> GridTiles | None:
        """The outlines of the tiles; None where nobody has tiled the slide."""
        try:
            if self.case.tiles is not None:
                tiling = read_tiling(self.case.tiles)
                return GridTiles(tiling.coords_N2_px0, tiling.tile_px0)
        except SlideError:
            pass
        maps = self.maps
        return GridTiles(maps[0][1].heatmap.coords_N2_px0, maps[0][1].heatmap.tile_px0) if maps else None

    def layer(self, name: str) -> MapTiles | GridTiles | None:
        """What lies over the slide by this name: ``GRID``, or the number of a map; None where there is none."""
        if name == GRID:
            return self.grid
        return self.maps[int(name)][1] if int(name) < len(self.maps) else None

    def top_tiles(self, number: int) -> list[tuple[int, int, float]]:
        """(x, y, contribution) of the tiles of a map that add most, the first of them first."""
        heatmap = self.maps[number][1].heatmap
        order = np.argsort(-heatmap.contributions_N, kind="stable")[:TOP_TILES]
        return [(*map(int, heatmap.coords_N2_px0[index]), float(heatmap.contributions_N[index])) for index in order]  # type: ignore[misc]

    def about(self) -> dict[str, Any]:
        """What the page must know of it."""
        regions, notes = self._regions()
        notes = [*self.slide.notes, *notes]
        if self.case.contributions and not self.maps:
            notes.append("its contributions are not drawn: no file beside them says how large their tiles are")
        maps = []
        for number, (name, tiles) in enumerate(self.maps):
            about = about_heatmap(self.case.contributions[name].with_suffix(".json"))
            if about.get("note"):
                notes.append(f"{name}: {NO_MAP}")
            top = [
                {"x": x, "y": y, "contribution": value, "side": tiles.heatmap.tile_px0}
                for x, y, value in self.top_tiles(number)
            ]
            quantity = str(about.get("quantity") or "")
            maps.append({"name": name, "quantity": quantity, "limit": tiles.limit, "top": top})
        return {
            "width": self.pyramid.width,
            "height": self.pyramid.height,
            "tile": TILE_PX,
            "least": self.pyramid.least,
            "top": self.pyramid.top,
            "mpp": self.slide.mpp if self.resolution_known else None,
            "maps": maps,
            "grid": self.grid is not None,
            "regions": regions,
            "notes": notes,
        }

    def _regions(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Outlines in level-0 pixels, by class and file; and what cannot be drawn."""
        found: list[dict[str, Any]] = []
        notes: list[str] = []
        points = 0
        for path in self.case.regions:
            try:
                drawn = regions_on_slide(AnnotationSource(path), self.slide)
            except SlideError as error:
                notes.append(error.reason)
                continue
            notes += drawn.notes
            for region in drawn.regions:
                points += shapely.get_num_coordinates(region.area)
                if points > MOST_POINTS:
                    notes.append(
                        f"{path.name}: only the first {len(found)} regions are drawn, as there are too many points"
                    )
                    break
                name = f"top regions of {region.name}" if path in self.case.drawn else region.name
                found.append({"name": name, "rings": _rings(region.area)})
        return found, notes


def _rings(area: Any) -> list[list[float]]:
    """The rings of an area, each as x, y, x, y, …"""
    polygons = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon"]
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    return [np.round(shapely.get_coordinates(ring), 1).ravel().tolist() for ring in rings]


def read_heatmap(path: Path, slide: Slide, tile_px0: float) -> Heatmap:
    """The contributions that ``medsoft slides heatmap`` wrote, as a heatmap over the whole slide.

    Args:
        path: ``<id>.csv``.
        slide: that they are of.
        tile_px0: side of a tile in level-0 pixels.

    Raises:
        SlideError: the file is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        values: npt.NDArray[np.float64] = np.array(rows, np.float64).reshape(len(rows), 3)
    except (OSError, ValueError):
        raise SlideError(f"{path.name}: is no table of contributions, or was cut short") from None
    attention = header[2] if header[2] == "attention" else ""
    about = about_heatmap(path.with_suffix(".json"))
    return Heatmap(
        id=str(about.get("id", path.stem)),
        name=str(about.get("class", "")),
        size_px0=slide.size_px0,
        mpp=slide.mpp,
        coords_N2_px0=values[:, :2].astype(np.int64),
        tile_px0=tile_px0,
        contributions_N=values[:, 2],
        logit=float("nan"),
        probability=None,
        attention_of=attention,
    )


class Slides:
    """The open slides of a viewer; a few at a time, and a cache of what was encoded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenSlide] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}
        self._encoded = TileCache(KEPT_TILES)

    @contextmanager
    def lend(self, number: int, case: Case) -> Iterator[OpenSlide]:
        """An open slide, which is not closed within the block.

        Args:
            number: of the case.
            case: of a slide.

        Raises:
            SlideError: it cannot be opened.
        """
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:  # one thread opens, the others wait for it
            with self._lock:
                found = self._open.get(number)
                if found is not None:
                    found.users += 1
                    self._open.move_to_end(number)
            if found is None:
                found = OpenSlide(case)
                with self._lock:
                    found.users += 1
                    self._open[number] = found
        try:
            yield found
        finally:
            with self._lock:
                found.users -= 1
                idle = [key for key, one in self._open.items() if not one.users]
                for key in idle[: max(0, len(self._open) - OPEN_SLIDES)]:
                    self._open.pop(key).slide.close()

    def tile(self, number: int, case: Case, overlay: str, level: int, column: int, row: int) -> bytes | None:
        """A tile of the slide (overlay "") as JPEG, or of an overlay as PNG; None where there is none.

        Raises:
            SlideError: the slide cannot be opened.
        """
        with self.lend(number, case) as opened:
            box = opened.pyramid.box(level, column, row)
            if box is None:
                return None
            layer = opened.layer(overlay) if overlay else None
            if overlay and layer is None:
                return None

            def encode() -> npt.NDArray[np.uint8]:
                if layer is not None:
                    coded = layer.tile(opened.pyramid, level, box)
                else:
                    coded = slide_tile(opened.slide, opened.pyramid, level, box)
                return np.frombuffer(coded, np.uint8)

            return self._encoded.get((number, overlay, level, column, row), encode).tobytes()

    def top_tile(self, number: int, case: Case, overlay: int, rank: int) -> bytes | None:
        """A tile of the strip as JPEG; None where there is none.

        Raises:
            SlideError: the slide cannot be opened, or the tile not be read.
        """
        with self.lend(number, case) as opened:
            if overlay >= len(opened.maps) or rank >= len(top := opened.top_tiles(overlay)):
                return None
            x, y, _ = top[rank]
            side = opened.maps[overlay][1].heatmap.tile_px0

            def encode() -> npt.NDArray[np.uint8]:
                px = max(1, min(STRIP_PX, round(side)))  # not finer than the slide
                pixels = opened.slide.read_tile(x, y, px, opened.slide.mpp * side / px)
                return np.frombuffer(jpeg(pixels), np.uint8)

            return self._encoded.get((number, "strip", overlay, rank), encode).tobytes()

    def close(self) -> None:
        """Close all slides."""
        with self._lock:
            for opened in self._open.values():
                opened.slide.close()
            self._open.clear()
