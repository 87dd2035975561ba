"""Writes the files of one heatmap: figure, pyramidal TIFF, regions, contributions, and last their provenance.

<id>.png       the slide beside the map, for people
<id>.tif       the map over the slide in grey, with its resolution, for OpenSlide and QuPath
<id>.ome.tif   the same as OME-TIFF, for Bio-Formats and what reads through it
<id>.geojson   outlines of the top regions, for QuPath: from the corner of the slide's bounds, which the map shows too
<id>.csv       place and contribution of every tile, from the corner of the slide
<id>.json      the logit and its parts, and what the files were made from; written when the others are there

Where the slide itself is there, ``<id>.tiles.png`` shows the tiles that add most and least
(``medsoft.slides.heatmaps.tile_sheet``).

Where the contributions are rounding noise only the last two are written, and the last says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.evaluation.attribution import NO_MAP, is_noise, spread_of
from medsoft.slides.heatmaps.geojson import write_regions
from medsoft.slides.heatmaps.heatmap import Heatmap, Pixels, map_size, overlay, paint, write_contributions
from medsoft.slides.heatmaps.regions import Region, top_regions
from medsoft.storage.files import replacing

MASS = 0.5
"""Part of the positive mass that the top regions hold."""

DRAWN = (".png", ".tif", ".ome.tif", ".geojson")
SUFFIXES = (*DRAWN, ".csv", ".json")
Made = Mapping[str, str]


def write_heatmap(
    heatmap: Heatmap, thumbnail: Pixels | None, place: Callable[[str], Path], made_from: Made, note: str = ""
) -> None:
    """Write all files of a heatmap, each whole or not at all; no map if the contributions are rounding noise.

    Args:
        heatmap: contributions and their places.
        thumbnail: the slide at the map's size; None where there are features alone.
        place: from a suffix to the file.
        made_from: what ``is_made`` compares later.
        note: footer of the picture.

    Raises:
        OSError: a file cannot be written.
    """
    place(".json").unlink(missing_ok=True)  # the files that it vouches for are about to change
    write_contributions(place(".csv"), heatmap)
    noise = not heatmap.attention_of and is_noise(heatmap.contributions_N, spread_of(unit=heatmap.unit))
    note_ = NO_MAP if noise else ""
    regions = [] if note_ else top_regions(heatmap.coords_N2_px0, heatmap.tile_px0, heatmap.contributions_N, MASS)
    if note_:
        for suffix in DRAWN:
            place(suffix).unlink(missing_ok=True)
    else:
        _draw(heatmap, regions, thumbnail, place, note)
    about = {
        "id": heatmap.id,
        "class": heatmap.name,
        "quantity": heatmap.quantity,
        "probability": heatmap.probability,
        "logit": heatmap.logit,
        "parts": heatmap.parts,
        "sum_of_contributions": None if heatmap.attention_of else float(heatmap.contributions_N.sum()),
        "tiles": len(heatmap.contributions_N),
        "regions": len(regions),
        "colour_limit": None if note_ else heatmap.limit,
        "bounds_px0": heatmap.bounds_px0,
        "unfamiliar": heatmap.unfamiliar,
        "note": note_,
        "made_from": dict(made_from),
    }
    with replacing(place(".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _draw(
    heatmap: Heatmap, regions: list[Region], thumbnail: Pixels | None, place: Callable[[str], Path], note: str
) -> None:
    from medsoft.slides.heatmaps.figure import write_picture

    width, height = map_size(heatmap)
    coloured = overlay(paint(heatmap, width, height), heatmap.limit, thumbnail)
    bounds_px0, sums = heatmap.bounds_px0, "attention" if heatmap.attention_of else "contributions (logit)"
    write_regions(place(".geojson"), regions, heatmap.name, heatmap.mpp, bounds_px0=bounds_px0, sums=sums)
    each = "" if heatmap.attention_of else "contribution of each tile in the "
    for suffix in (".tif", ".ome.tif"):
        write_pyramid(
            place(suffix),
            (width, height),
            lambda x, y, w, h: coloured[y : y + h, x : x + w],
            heatmap.view_px0[2] * heatmap.mpp / width,
            downsamples=(1, 4),
            compression="deflate",
            description=_ascii(
                f"medsoft heatmap of {heatmap.id}: {each}{heatmap.quantity}, "
                f"red +{heatmap.limit:.4g}, white 0, blue -{heatmap.limit:.4g}"
            ),
            ome=suffix == ".ome.tif",
        )
    outlines = [region.polygon for region in regions]
    what = "the attention" if heatmap.attention_of else f"what raises the {heatmap.quantity}"
    rule = f"Outlined: the fewest tiles that hold {100 * MASS:.0f} % of {what}."
    words = " ".join(filter(None, (rule if regions else "", note)))
    write_picture(place(".png"), heatmap, coloured, thumbnail, outlines, words)


def is_made(place: Callable[[str], Path], made_from: Made) -> bool:
    """Whether all files of a heatmap are there and were made from the same."""
    about = _about(place)
    needed = [suffix for suffix in SUFFIXES if not (about.get("note") and suffix in DRAWN)]
    return about.get("made_from") == dict(made_from) and all(place(suffix).is_file() for suffix in needed)


def why_no_map(place: Callable[[str], Path]) -> str:
    """Why a heatmap that is made has no map; "" where it has one."""
    return str(_about(place).get("note", ""))


def _about(place: Callable[[str], Path]) -> dict[str, Any]:
    return about_heatmap(place(".json"))


def about_heatmap(path: Path) -> dict[str, Any]:
    """What the JSON of a heatmap says; {} where there is none, or it is damaged."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
