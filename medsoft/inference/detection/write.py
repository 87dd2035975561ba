"""Writes predicted boxes: GeoJSON of each image, and a table of all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import shapely

from medsoft.classifiers.detection.detector import FoundBoxes
from medsoft.data.boxes.read import CORNERS
from medsoft.data.datasets.segmentation.module import file_names
from medsoft.data.tables.reading import write_table
from medsoft.evaluation.segmentation.contours import COLOURS
from medsoft.slides.heatmaps.geojson import annotation, write_features

COLUMNS = ("id", "split", "label", "score", *CORNERS, "hit")
"""Of the table; ``hit`` is 1 where a box hits a true one by an IoU of 0.5, 0 where not, empty where nobody knows."""


def write_boxes(folder: Path, classes: Sequence[str], name: str, found: FoundBoxes) -> None:
    """Write the boxes of an image as GeoJSON, in pixels of the image as stored, for QuPath and others.

    Args:
        folder: made where it is not there.
        classes: names in order.
        name: of the image, for files.
        found: its boxes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    features = []
    for number, (corners, class_, score, bits) in enumerate(
        zip(found.corners_D4, found.class_D, found.score_D, found.bits_D, strict=True), start=1
    ):
        measurements = {"score": float(score)}
        if found.true is not None:
            measurements["hit"] = int(bits) & 1
        outline = shapely.box(*(round(float(value), 2) for value in corners), ccw=False)
        colour = COLOURS[int(class_) % len(COLOURS)]
        label = classes[int(class_)]
        features.append(annotation(outline, f"{label} {number}", label, colour, measurements))
    write_features(folder / f"{name}.geojson", features)


def read_features(file: Path) -> list[dict[str, Any]]:
    """What ``write_boxes`` wrote of an image, as rows: label, score, corners, hit."""
    rows = []
    for feature in json.loads(file.read_text(encoding="utf-8"))["features"]:
        corners = shapely.Polygon(feature["geometry"]["coordinates"][0]).bounds
        about = feature["properties"]
        hit = about["measurements"].get("hit", "")
        row = {"label": about["classification"]["name"], "score": about["measurements"]["score"]}
        rows.append(row | dict(zip(CORNERS, corners, strict=True)) | {"hit": hit})
    return rows


def write_detections(path: Path, folder: Path, frame: pd.DataFrame) -> None:
    """Write one table of the boxes of all images.

    Args:
        path: the table.
        folder: of ``write_boxes``.
        frame: the predictions, whose order the table has.
    """
    rows = []
    for split, part in frame.groupby("split", sort=False):
        ids = part["id"].tolist()
        for id_, name in zip(ids, file_names(str(split), ids), strict=True):
            rows += [{"id": id_, "split": split} | row for row in read_features(folder / f"{name}.geojson")]
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), path)
