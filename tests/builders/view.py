"""What the viewer is tried on: a run with pictures, a folder of slides with contributions, a volume with a map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.tiling import Tiling
from medsoft.slides.tiling.tiling_file import write_tiling
from medsoft.task import Task
from tests.builders.volumes import save

BINARY = Task.of("binary", ("healthy", "ill"))
TILE_PX0 = 96
STRONGEST = (480, 288)
"""Corner of the tile that adds most: the slide is dark there, and nowhere else."""
SLIDE_PX = (1280, 896)


def write_run(folder: Path) -> Path:
    """A run on six pictures; the last two are gone. Numbers 1 and 3 are wrong, 3 is unsure, 2 out of distribution."""
    (folder / "data").mkdir(parents=True)
    ids = [f"im{number}" for number in range(6)]
    for number, id in enumerate(ids[:4]):
        ramp = np.linspace(1000, 1000 + 500 * (number + 1), 60 * 80).reshape(60, 80)
        Image.fromarray(ramp.astype(np.uint16)).save(folder / "data" / f"{id}.png")
    table = folder / "data" / "labels.csv"
    pd.DataFrame({"path": [f"{id}.png" for id in ids], "label": "ill"}).to_csv(table, index=False)
    run = folder / "run"
    run.mkdir()
    config = {"name": "eyes", "data": {"table": str(table), "path": "path", "id": None}, "use": {"data": "image"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    p_N = np.array([0.9, 0.2, 0.8, 0.45, 0.9, 0.9])
    extra = {"ood_score": [0.1, 0.2, 1.5, 0.3, 0.1, 0.1], "abstain": [0, 0, 1, 0, 0, 0], "patient_name": ["Ann"] * 6}
    frame = make_predictions(
        BINARY,
        ids,
        np.stack([1 - p_N, p_N], axis=1),
        [1, 1, 1, 1, 1, -1],
        patient=[f"PATIENT{n}" for n in range(6)],
        split="test",
        extra=extra,
    )
    write_predictions(frame, run / "predictions.csv")
    (run / "report.html").write_text("<!doctype html><title>report</title><script>alert(1)</script>")
    (run / "examples").mkdir()
    Image.new("RGB", (32, 24), (200, 0, 0)).save(run / "examples" / "00_contributions.jpg")
    examples = {"format": 1, "how": "", "examples": [{"id": "im0", "split": "test", "map": "00_contributions.jpg"}]}
    (run / "examples" / "examples.json").write_text(json.dumps(examples))
    return run


def write_slides_folder(folder: Path) -> Path:
    """A folder of ``medsoft slides`` with one slide ``a``, its tiles, contributions and regions."""
    width, height = SLIDE_PX
    pixels = np.full((height, width, 3), 235, np.uint8)
    x, y = STRONGEST
    pixels[y : y + TILE_PX0, x : x + TILE_PX0] = (70, 40, 110)
    folder.mkdir(parents=True)
    slide = folder / "scans" / "a.tif"
    slide.parent.mkdir()
    write_pyramid(slide, (width, height), lambda x, y, w, h: pixels[y : y + h, x : x + w], 0.5, downsamples=(1, 4))
    work = folder / "work"
    grid_x, grid_y = np.meshgrid(np.arange(96, 768, TILE_PX0), np.arange(96, 576, TILE_PX0))
    coords_N2 = np.stack([grid_x.ravel(), grid_y.ravel()], axis=1)
    tiling = Tiling(
        "a.tif", "", SLIDE_PX, 0.5, "tiff resolution", TileSettings(0.5, TILE_PX0), coords_N2,
        np.ones(len(coords_N2), np.float32), 0.1,
    )  # fmt: skip
    write_tiling(work / "tiles" / "a.h5", tiling)
    values_N = np.where((coords_N2 == STRONGEST).all(axis=1), 2.0, 0.0)
    values_N[0] = -1.0
    (work / "heatmaps").mkdir()
    for place, name in ((work / "heatmaps", "ill"), (work / "heatmaps" / "healthy", "healthy")):
        place.mkdir(exist_ok=True)
        rows = [f"{x},{y},{value}" for (x, y), value in zip(coords_N2.tolist(), values_N, strict=True)]
        (place / "a.csv").write_text("\n".join(["x_px0,y_px0,contribution", *rows]) + "\n")
        about = {"id": "a", "class": name, "quantity": f"logit of {name}", "note": ""}
        (place / "a.json").write_text(json.dumps(about))
    square = [[480, 288], [576, 288], [576, 384], [480, 384], [480, 288]]
    area = {"type": "Polygon", "coordinates": [square]}
    region = {"type": "Feature", "geometry": area, "properties": {"classification": {"name": "Tumour"}}}
    (folder / "regions").mkdir()
    (folder / "regions" / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    (work / "slides.csv").write_text(f"id,path,status,mpp,mpp_origin\na,{slide},predicted,0.5,tiff resolution\n")
    return work


def write_volume_run(folder: Path) -> Path:
    """A run on one volume, with a map of contributions."""
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    save(rng.integers(0, 300, (20, 24, 16)).astype(np.float32), affine, folder / "data" / "v.nii.gz")
    table = folder / "data" / "labels.csv"
    table.write_text("path,label\nv.nii.gz,ill\n")
    run = folder / "run"
    contributions = np.zeros((20, 24, 16), np.float32)
    contributions[5:10, 5:10, 5:10], contributions[12:15, 12:15, 5:10] = 0.5, -0.25
    save(contributions, affine, run / "maps" / "test_v.nii.gz")
    (run / "maps" / "maps.csv").write_text("id,split,nifti\nv,test,test_v.nii.gz\n")
    config = {"data": {"table": str(table), "path": "path"}, "use": {"data": "volume"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    write_predictions(make_predictions(BINARY, ["v"], [[0.3, 0.7]], [1], split="test"), run / "predictions.csv")
    return run
