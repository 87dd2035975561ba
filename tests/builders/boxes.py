"""Tiny sets of images with boxes: bright discs and darker squares on noise."""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
from PIL import Image

CLASSES = ("disc", "square")


def objects(seed: int, height: int = 80, width: int = 96) -> tuple[np.ndarray, list[tuple[int, int, int, int, str]]]:
    """(H, W, 3) image, and (x_min, y_min, x_max, y_max, label) of what is in it."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 12, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    found = []
    for column, label in enumerate(CLASSES):
        side = int(rng.integers(24, 32))
        left = int(rng.integers(column * width // 2, (column + 1) * width // 2 - side))
        top = int(rng.integers(0, height - side))
        inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        if label == "disc":
            inside &= np.hypot(x + 0.5 - left - side / 2, y + 0.5 - top - side / 2) <= side / 2
        image[inside] = (210, 200, 60) if label == "disc" else (20, 30, 160)
        found.append((left, top, left + side, top + side, label))
    return np.clip(image, 0, 255).astype(np.uint8), found


def write_boxes(folder: Path, n: int, empty: tuple[int, ...] = ()) -> Path:
    """Images with their boxes, two of each patient, as ``boxes.csv``, ``boxes.json`` and ``voc``; returns the table.

    Args:
        folder: made.
        n: images.
        empty: numbers of images that show nothing.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "voc").mkdir()
    rows, boxes = [], []
    coco: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": 5 + index, "name": name} for index, name in enumerate(CLASSES)]
    for number in range(n):
        image, found = objects(number)
        if number in empty:
            image, found = np.full_like(image, 60), []
            image[number % 80] += 1
        file = f"images/im{number:02d}.png"
        Image.fromarray(image).save(folder / file)
        rows.append({"file": file, "patient": f"P{number // 2}"})
        boxes += [
            dict(zip(("x_min", "y_min", "x_max", "y_max", "label"), box, strict=True), file=file) for box in found
        ]
        coco["images"].append({"id": number, "file_name": Path(file).name})
        coco["annotations"] += [
            {"image_id": number, "category_id": 5 + CLASSES.index(name), "bbox": [x, y, x2 - x, y2 - y]}
            for x, y, x2, y2, name in found
        ]
        text = "".join(
            f"<object><name>{escape(name)}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for x, y, x2, y2, name in found
        )
        (folder / "voc" / f"im{number:02d}.xml").write_text(f"<annotation>{text}</annotation>")
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    pd.DataFrame(boxes).to_csv(folder / "boxes.csv", index=False)
    (folder / "boxes.json").write_text(json.dumps(coco))
    return folder / "images.csv"
