"""Reads true boxes: a table with a box a row, a COCO file, or a folder of Pascal VOC files.

Coordinates are continuous, in pixels of the image as stored: the upper left corner of the image is (0, 0), its lower
right one (width, height). A box of x_min 2 and x_max 5 covers the pixels 2, 3 and 4. With ``first_pixel`` 1 pixels are
counted from 1 and x_max is the last pixel that belongs to the box, as the Pascal VOC challenge has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medsoft.data.tables.reading import load_source, text
from medsoft.errors import InputError
from medsoft.text.xml_text import parse_xml

FirstPixel = Literal[0, 1]
CORNERS = ("x_min", "y_min", "x_max", "y_max")
COLUMNS = {
    "file": ("file", "path", "image", "filename", "image_path"),
    "x_min": ("x_min", "xmin", "x1"),
    "y_min": ("y_min", "ymin", "y1"),
    "x_max": ("x_max", "xmax", "x2"),
    "y_max": ("y_max", "ymax", "y2"),
    "label": ("label", "class", "class_name"),
}
"""How each column of a table may be called."""
SHOWN = 5


@dataclass(frozen=True)
class BoxFile:
    """True boxes as a file has them.

    Attributes:
        source: the file or folder.
        frame: a row a box: ``file`` as written, ``x_min``, ``y_min``, ``x_max``, ``y_max`` (NaN where no number),
            ``label`` and ``where`` (row 3, annotation 12).
        images: files that somebody looked at, with or without boxes; None where all images of the table count as such.
        notes: what was passed over.
    """

    source: Path
    frame: pd.DataFrame
    images: tuple[str, ...] | None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Those that occur, sorted."""
        return sorted(set(self.frame["label"]))


def read_boxes(source: str | Path, first_pixel: FirstPixel = 0) -> BoxFile:
    """Read a file, or a folder, of true boxes.

    Args:
        source: a table (.csv, .parquet, .xlsx), a COCO file (.json), or a folder of Pascal VOC files (.xml).
        first_pixel: what pixels are counted from.

    Raises:
        InputError: it cannot be read, is none of these, or its coordinates are relative.
    """
    path = Path(source)
    if path.is_dir():
        found = _read_voc(path)
    elif path.suffix.lower() == ".json":
        found = _read_coco(path)
    else:
        found = _read_table(path)
    corners = found.frame[list(CORNERS)].to_numpy(dtype=np.float64)
    if len(corners) and not np.isnan(corners).any() and corners.min() >= 0 and corners.max() <= 1:
        raise InputError(
            f"{source}: all coordinates lie between 0 and 1: they are parts of the image's sides. Multiply them by the "
            "width and the height: boxes are in pixels"
        )
    if first_pixel:
        found.frame[["x_min", "y_min"]] -= 1
    return found


def _read_table(path: Path) -> BoxFile:
    source = load_source(path)
    named = {name: next((one for one in ways if one in source), None) for name, ways in COLUMNS.items()}
    if missing := [name for name, column in named.items() if column is None]:
        raise InputError(
            f"{path}: a table of boxes has the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)} "
            f"(there are {', '.join(map(str, source.columns))})"
        )
    texts = pd.DataFrame({name: text(source[column]) for name, column in named.items()})
    empty = (texts.drop(columns="file") == "").all(axis=1)  # an image on which somebody found nothing
    rows = texts[~empty]
    frame = rows.assign(
        **{name: pd.to_numeric(rows[name], errors="coerce") for name in CORNERS},
        where=[f"row {index + 1}" for index in rows.index],
    )
    images = tuple(dict.fromkeys(texts.loc[empty, "file"]))
    _require_labels(path, frame)
    return BoxFile(
        path, frame.reset_index(drop=True), None, (f"{len(images)} images are named without a box",) * bool(images)
    )


def _require_labels(path: Path, frame: pd.DataFrame) -> None:
    if without := frame.loc[(frame["label"] == "") | (frame["file"] == ""), "where"].tolist():
        raise InputError(
            f"{path}: {len(without)} boxes have no label or no file: {', '.join(without[:SHOWN])}. An image without "
            "boxes leaves all but the file empty"
        )


def _read_coco(path: Path) -> BoxFile:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not (isinstance(content, Mapping) and {"images", "annotations", "categories"} <= content.keys()):
            raise InputError(f"{path}: no COCO file (images, annotations and categories)")
        return _of_coco(path, content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: is no such COCO file: {type(error).__name__}: {error}") from None


def _of_coco(path: Path, content: Mapping[str, Any]) -> BoxFile:
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    files = {one["id"]: str(one["file_name"]) for one in content["images"]}
    if len(set(files.values())) < len(files):
        raise ValueError("two images have one file_name")
    rows, crowds = [], 0
    for number, one in enumerate(content["annotations"], start=1):
        if one.get("iscrowd"):
            crowds += 1
            continue
        if one["image_id"] not in files or one["category_id"] not in names:
            raise ValueError(f"annotation {number} is of an image or a category that is not there")
        x, y, width, height = map(float, one["bbox"])
        corners = dict(zip(CORNERS, (x, y, x + width, y + height), strict=True))
        label = names[one["category_id"]]
        rows.append({"file": files[one["image_id"]], **corners, "label": label, "where": f"annotation {number}"})
    notes = (f"{crowds} annotations of crowds are left out",) if crowds else ()
    return BoxFile(path, _frame(rows), tuple(files.values()), notes)


def _read_voc(folder: Path) -> BoxFile:
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise InputError(f"{folder}: this folder has no Pascal VOC files (.xml)")
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            rows += _of_voc(file)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{file}: is no Pascal VOC file: {error}") from None
    return BoxFile(folder, _frame(rows), tuple(file.stem for file in files))


def _of_voc(file: Path) -> Iterator[dict[str, Any]]:
    root = parse_xml(file.read_bytes())
    if root.tag != "annotation":
        raise ValueError(f"it begins with <{root.tag}>, not <annotation>")
    for number, one in enumerate(root.findall("object"), start=1):
        corners = [one.findtext(f"bndbox/{name.replace('_', '')}") for name in CORNERS]
        label = (one.findtext("name") or "").strip()
        if None in corners or not label:
            raise ValueError(f"object {number} has no name, or no bndbox")
        values = dict(zip(CORNERS, (float(str(value)) for value in corners), strict=True))
        yield {"file": file.stem, **values, "label": label, "where": f"object {number} of {file.name}"}


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["file", *CORNERS, "label", "where"])
    return frame.astype(dict.fromkeys(CORNERS, np.float64))
