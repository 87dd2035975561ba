"""What docs/experiments/tile_quality.md says: measures of real tiles, and of the same with artefacts put in.

    .venv/bin/python scripts/tile_quality.py ../shared/data

Blur is a Gaussian; a fold is a strip of 80 × 400 µm where the light passes through a second place of the same slide.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from medsoft.slides.quality.measure import SHARPNESS_MPP, folds_and_bubbles, sharpness
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.tiling.settings import TileSettings, TissueSettings
from medsoft.slides.tiling.tiling import tile_slide
from medsoft.slides.tiling.tissue import find_tissue, whitened_channels

SLIDES = (
    ("CMU-1-Small-Region.svs", None, 4),
    ("cptac_brca_15BR001_level.dcm", None, 60),
    ("multi_frame_jpeg_camelyon_challenge_image.dcm", None, 60),
    ("histoprep_slide_with_ink.jpeg", 2.5, 60),
)
"""Name, µm per pixel where the file says none, and strips."""


def main(data: Path) -> None:
    """Print the tables."""
    print("sharpness: name, blur in µm, tiles, percentiles 0, 1, 50, 95")
    for name, mpp, tiles in _tiles(data):
        for blur_um in (0, 1, 2, 4):
            _print_sharpness(name, mpp, tiles, blur_um)
    print("folds: slide, µm/px, part of its tissue taken for folds, part of the strips found; bubbles in its tissue")
    for name, mpp, strips in SLIDES:
        _print_folds(data / "wsi" / name, mpp, strips)


def _tiles(data: Path) -> list[tuple[str, float, list[np.ndarray]]]:
    def of(folder: str) -> list[np.ndarray]:
        place = data / "histo_tiles" / folder
        with (place / "labels.csv").open(newline="") as file:
            return [np.asarray(Image.open(place / row["file"]).convert("RGB")) for row in csv.DictReader(file)]

    with open_slide(data / "wsi" / SLIDES[0][0]) as slide:
        corners = tile_slide(slide, TileSettings(slide.mpp, 224))[0].coords_N2_px0.tolist()
        cmu = [slide.read_tile(x, y, 224, slide.mpp) for x, y in corners]
    idc = [tile for tile in of("idc_patches") if tile.shape == (50, 50, 3)]
    return [("CMU", 0.499, cmu), ("CRC", 0.5, of("crc_val_he_7k")), ("IDC", 0.25, idc)]


def _print_sharpness(name: str, mpp: float, tiles: list[np.ndarray], blur_um: float) -> None:
    found = []
    for tile in tiles:
        blurred = cv2.GaussianBlur(tile, (0, 0), blur_um / mpp) if blur_um else tile
        factor = mpp / SHARPNESS_MPP
        found.append(sharpness(cv2.resize(blurred, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)))
    found_N = np.array(found)
    found_N = found_N[~np.isnan(found_N)]
    low = (found_N < 100).mean()
    print(name, blur_um, len(found_N), *(f"{q:.3g}" for q in np.percentile(found_N, (0, 1, 50, 95))), f"<100 {low:.3f}")


def _print_folds(path: Path, stated: float | None, strips: int) -> None:
    with open_slide(path, stated) as slide:
        mpp = max(8.0, slide.mpp)
        overview = slide.overview(mpp)
    tissue = find_tissue(overview, mpp, TissueSettings())
    rng = np.random.default_rng(0)
    places = np.argwhere(cv2.erode(tissue.mask_HW.astype(np.uint8), np.ones((5, 5), np.uint8)))
    drawn = np.zeros(overview.shape[:2], np.uint8)
    for _ in range(strips):
        y, x = places[rng.integers(len(places))]
        angle = rng.uniform(0, np.pi)
        half = np.array([np.cos(angle), np.sin(angle)]) * 200 / mpp
        ends = [np.rint(np.array([x, y]) + sign * half).astype(int).tolist() for sign in (-1, 1)]
        cv2.line(drawn, ends[0], ends[1], 1, max(1, round(80 / mpp)))
    fold_HW = (drawn > 0) & tissue.mask_HW
    white = np.stack(whitened_channels(overview), -1)
    second = np.roll(white, (round(88 / mpp),) * 2, (0, 1))
    folded = overview.copy()
    folded[fold_HW] = (folded[fold_HW] * (second[fold_HW] / 255)).astype(np.uint8)
    clean, bubbles = folds_and_bubbles(overview, mpp, tissue)
    found, _ = folds_and_bubbles(folded, mpp, tissue)
    tissue_px = tissue.mask_HW.sum()
    parts = clean.sum() / tissue_px, found[fold_HW].mean(), (bubbles & tissue.mask_HW).sum() / tissue_px
    print(path.name, f"{mpp:.3g}", *(f"{part:.4f}" for part in parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
