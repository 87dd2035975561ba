"""The tumour of a planned slide as a GeoJSON that QuPath opens."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from medsoft.data.phantoms.slides.coarse_maps import PAD
from medsoft.data.phantoms.slides.plan import INSIDE, REGION, TISSUE, SlidePlan

FINER = 4  # outlines are found on a grid this much finer than the maps
RED = [200, 0, 0]


def tumour_share(plan: SlidePlan) -> float:
    """The share of the tissue that is tumour."""
    if not plan.tumour:
        return 0.0
    inside = plan.maps.values >= INSIDE
    return float(inside[..., REGION].sum() / inside[..., TISSUE].sum())


def tumour_regions(plan: SlidePlan) -> dict[str, Any]:
    """A FeatureCollection with a polygon (level-0 pixels, holes kept) for each patch of tumour; none without tumour."""
    polygons = _polygons(plan) if plan.tumour else []
    return {"type": "FeatureCollection", "features": [_feature(rings) for rings in polygons]}


def _polygons(plan: SlidePlan) -> list[list[list[list[int]]]]:
    """Rings of points, the outline first, for each patch."""
    region = np.ascontiguousarray(plan.maps.values[..., REGION])
    fine = cv2.resize(region, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_LINEAR) >= INSIDE
    contours, hierarchy = cv2.findContours(fine.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    step = plan.maps.cell_px0 / FINER
    polygons: dict[int, list[list[list[int]]]] = {}
    # OpenCV lists an outline before its holes.
    for number, (contour, (_, _, _, parent)) in enumerate(zip(contours, hierarchy[0], strict=True)):
        if len(contour) < 3:
            continue
        points = np.rint((contour[:, 0] + 0.5) * step - PAD * plan.maps.cell_px0).astype(int).tolist()
        ring = [*points, points[0]]
        if parent < 0:
            polygons[number] = [ring]
        elif parent in polygons:
            polygons[parent].append(ring)
    return list(polygons.values())


def _feature(rings: list[list[list[int]]]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "tumour", "color": RED},
            "measurements": {},
        },
    }
