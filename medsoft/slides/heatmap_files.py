"""The files of one heatmap: picture, pyramidal TIFF, regions, shares, and last of all what they were made from.

<id>.png       the slide beside the map, for people
<id>.tif       the map over the slide in grey, with its resolution, for OpenSlide and QuPath
<id>.geojson   outlines of the top regions, for QuPath
<id>.csv       place and share of every tile
<id>.json      the logit and its parts, and what the files were made from; written when the others are there
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from medsoft.data.pyramid import write_pyramid
from medsoft.files import replacing
from medsoft.slides.geojson import write_regions
from medsoft.slides.heatmap import Heatmap, Pixels, map_size, overlay, paint, write_shares
from medsoft.slides.regions import top_regions

MASS = 0.5
"""Part of the positive mass that the top regions hold."""

SUFFIXES = (".png", ".tif", ".geojson", ".csv", ".json")
Made = Mapping[str, str]


def write_heatmap(
    heatmap: Heatmap, thumbnail: Pixels | None, place: Callable[[str], Path], made_from: Made, note: str = ""
) -> None:
    """Write all files of a heatmap, each whole or not at all.

    Args:
        heatmap: shares and their places.
        thumbnail: the slide at the map's size; None where there are features alone.
        place: from a suffix to the file.
        made_from: what ``is_made`` compares later.
        note: footer of the picture.

    Raises:
        OSError: a file cannot be written.
    """
    from medsoft.slides.heatmap_picture import write_picture

    width, height = map_size(heatmap)
    coloured = overlay(paint(heatmap, width, height), heatmap.limit, thumbnail)
    regions = top_regions(heatmap.coords_N2_px0, heatmap.tile_px0, heatmap.shares_N, MASS)
    place(".json").unlink(missing_ok=True)  # the files that it vouches for are about to change
    write_shares(place(".csv"), heatmap)
    write_regions(place(".geojson"), regions, heatmap.name, heatmap.mpp)
    write_pyramid(
        place(".tif"),
        (width, height),
        lambda x, y, w, h: coloured[y : y + h, x : x + w],
        heatmap.size_px0[0] * heatmap.mpp / width,
        downsamples=(1, 4),
        compression="deflate",
        description=_ascii(
            f"medsoft heatmap of {heatmap.id}: share of each tile in the logit of {heatmap.name}, "
            f"red +{heatmap.limit:.4g}, white 0, blue -{heatmap.limit:.4g}"
        ),
    )
    outlines = [region.polygon for region in regions]
    rule = f"Outlined: the fewest tiles that hold {100 * MASS:.0f} % of what speaks for {heatmap.name}."
    words = " ".join(filter(None, (rule if regions else "", note)))
    write_picture(place(".png"), heatmap, coloured, thumbnail, outlines, words)
    about = {
        "id": heatmap.id,
        "class": heatmap.name,
        "probability": heatmap.probability,
        "logit": heatmap.logit,
        "parts": heatmap.parts,
        "sum_of_shares": float(heatmap.shares_N.sum()),
        "tiles": len(heatmap.shares_N),
        "regions": len(regions),
        "colour_limit": heatmap.limit,
        "made_from": dict(made_from),
    }
    with replacing(place(".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def is_made(place: Callable[[str], Path], made_from: Made) -> bool:
    """Whether all files of a heatmap are there and were made from the same."""
    try:
        about = json.loads(place(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = isinstance(about, dict) and about.get("made_from") == dict(made_from)
    return same and all(place(suffix).is_file() for suffix in SUFFIXES)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
