"""Outlines of maps: their area is that of the pixels, holes stay open, and every polygon is valid."""

import cv2
import numpy as np
import pytest
from shapely import contains_xy

from medsoft.slides.segmentation import label_map, outlines
from medsoft.slides.segmentation.label_map import LabelMap
from medsoft.slides.segmentation.outlines import TooManyCornersError, outlines_of


def found(mask: np.ndarray, value: int = 1, **options: float):
    with LabelMap((mask.shape[1], mask.shape[0])) as labels:
        labels.write(0, 0, mask)
        return outlines_of(labels, value, **options)


@pytest.mark.parametrize("seed", range(40))
def test_outlines_of_noise_cover_its_pixels_and_no_others(seed, monkeypatch):
    monkeypatch.setattr(label_map, "ROWS", 5)  # maps are read in bands
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 24, 2)
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8) * 3
    polygons = found(mask, 3)
    assert all(polygon.is_valid for polygon in polygons)
    assert len(polygons) == cv2.connectedComponents(mask, connectivity=4)[0] - 1
    assert sum(polygon.area for polygon in polygons) == np.count_nonzero(mask)
    y, x = np.mgrid[:height, :width] + 0.5
    covered = sum((contains_xy(polygon, x, y).astype(int) for polygon in polygons), np.zeros(mask.shape, int))
    assert np.array_equal(covered, mask > 0)


def test_a_ring_with_an_island_in_its_hole_is_a_polygon_with_a_hole_and_another():
    mask = np.zeros((12, 14), np.uint8)
    mask[1:11, 1:11] = 1
    mask[3:9, 3:9] = 0
    mask[5:7, 5:7] = 1
    ring, island = found(mask)
    assert ring.bounds == (1, 1, 11, 11)
    assert [hole.bounds for hole in ring.interiors] == [(3, 3, 9, 9)]
    assert (island.area, len(island.interiors)) == (4, 0)


def test_small_pieces_are_left_out_where_asked_and_other_values_are_not_seen():
    mask = np.zeros((8, 8), np.uint8)
    mask[0:3, 0:3], mask[6, 6], mask[4, 0:2] = 1, 1, 2
    assert [polygon.area for polygon in found(mask)] == [9, 1]
    assert [polygon.area for polygon in found(mask, min_px=2)] == [9]
    assert [polygon.area for polygon in found(mask, 2)] == [2]
    assert found(mask, 5) == []


def test_small_holes_are_closed_where_asked():
    mask = np.ones((8, 9), np.uint8)
    mask[1, 1] = mask[4:6, 4:6] = 0
    assert sorted(hole.bounds for hole in found(mask)[0].interiors) == [(1, 1, 2, 2), (4, 4, 6, 6)]
    (closed,) = found(mask, min_px=2)
    assert [hole.bounds for hole in closed.interiors] == [(4, 4, 6, 6)]
    assert closed.area == mask.sum() + 1


def test_outlines_that_nobody_could_open_are_refused(monkeypatch):
    monkeypatch.setattr(outlines, "MOST_CORNERS", 10)
    with pytest.raises(TooManyCornersError):
        found((np.indices((8, 8)).sum(0) % 2).astype(np.uint8))
