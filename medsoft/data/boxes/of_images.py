"""Which boxes belong to which image of a table, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.data.boxes.read import CORNERS, SHOWN, BoxFile
from medsoft.errors import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """The true boxes of an image.

    Attributes:
        corners_N4: x_min, y_min, x_max, y_max in pixels of the image as stored.
        class_N: index of each one's class.
        where: each one's place in the file.
    """

    corners_N4: FloatArray
    class_N: npt.NDArray[np.int64]
    where: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.class_N)

    def wrong(self, size: tuple[int, int] | None) -> str:
        """What is wrong with some of them, in words; "" where nothing is.

        Args:
            size: (height, width) of the image; None where it is not known.
        """
        found = []
        for (x_min, y_min, x_max, y_max), where in zip(self.corners_N4, self.where, strict=True):
            box = f"{where} ({x_min:g}, {y_min:g}, {x_max:g}, {y_max:g})"
            if np.isnan([x_min, y_min, x_max, y_max]).any():
                found.append(f"{where} has a coordinate that is no number")
            elif x_min > x_max or y_min > y_max:
                found.append(f"{box} has its minimum and maximum exchanged, or is x, y, width, height")
            elif x_min == x_max or y_min == y_max:
                found.append(f"{box} has no area")
            elif min(x_min, y_min) < 0 or (size is not None and (x_max > size[1] or y_max > size[0])):
                of = "" if size is None else f" of {size[1]} x {size[0]} px"
                found.append(f"{box} reaches beyond the image{of}")
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return "; ".join(found[:SHOWN]) + more


NONE = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64))


def by_image(
    found: BoxFile, paths: Sequence[str], base: Path, classes: Sequence[str], leave_out: bool
) -> tuple[dict[str, Boxes], list[str]]:
    """The boxes of each image of a table, by its path; an image that nobody looked at is not there.

    A file is found by its path from ``base``, else by its name, else by its name without suffix.

    Args:
        found: of ``read_boxes``.
        paths: absolute ones of the table's images.
        base: folder that relative paths start from.
        classes: names in order; labels beside them are an error.
        leave_out: boxes of images that the table does not have, instead of refusing them.

    Returns:
        The boxes, and sentences on what was done.

    Raises:
        InputError: a box has a label that is no class, or belongs to no image, or to several.
    """
    if others := sorted(set(found.labels) - set(classes)):
        first = found.frame.loc[found.frame["label"] == others[0], "where"]
        unknown = ", ".join(map(repr, others[:SHOWN]))
        raise InputError(
            f"{found.source}: {unknown} is no class ({first.iloc[0]}, {len(first)} boxes): "
            f"the classes are {', '.join(classes)}; correct the label, or name it in data.classes before a training"
        )
    named = list(dict.fromkeys([*found.frame["file"], *(found.images or ())]))
    place = _find(named, paths, base, found.source)
    notes = list(found.notes)
    if lost := [name for name in named if name not in place]:
        rows = found.frame[found.frame["file"].isin(lost)]
        if not leave_out and len(rows):
            raise InputError(
                f"{found.source}: {len(rows)} boxes are of {rows['file'].nunique()} images that the table does not "
                f"have, such as {rows['file'].iloc[0]!r} ({rows['where'].iloc[0]}): name the images as the table does, "
                "add them, or leave these boxes out with --data.on_error skip"
            )
        notes += [f"boxes of images that the table does not have were left out: {len(rows)}"] * bool(len(rows))
    of: dict[str, Boxes] = {}
    looked_at = set(paths) if found.images is None else {place[name] for name in found.images if name in place}
    index = {name: number for number, name in enumerate(classes)}
    for path, rows in found.frame.assign(path=found.frame["file"].map(place)).groupby("path", sort=False):
        class_N: npt.NDArray[np.int64] = np.asarray(rows["label"].map(index), np.int64)
        of[str(path)] = Boxes(rows[list(CORNERS)].to_numpy(dtype=np.float64), class_N, tuple(rows["where"]))
    return {path: of.get(path, NONE) for path in paths if path in looked_at}, notes


def _find(named: Sequence[str], paths: Sequence[str], base: Path, source: Path) -> dict[str, str]:
    whole = set(paths)
    names, stems = _unique(paths, lambda path: path.name), _unique(paths, lambda path: path.stem)
    place, unclear = {}, []
    for name in named:
        path = os.path.normpath(base / name)
        if path in whole:
            place[name] = path
            continue
        for known, part in ((names, Path(name).name), (stems, Path(name).name)):
            if part in known:
                if not known[part]:
                    unclear.append(name)
                else:
                    place[name] = known[part]
                break
    if unclear:
        raise InputError(f"{source}: {unclear[0]!r} is the name of several images of the table: write their paths")
    return place


def _unique(paths: Sequence[str], part: Callable[[Path], str]) -> Mapping[str, str]:
    """By a part of the path, the path; "" where several have it."""
    found: dict[str, str] = {}
    for path in paths:
        name = part(Path(path))
        found[name] = "" if name in found and found[name] != path else path
    return found


def counts(of: Mapping[str, Boxes], paths: Sequence[str]) -> pd.Series:
    """How many boxes each image has, as text; "" where nobody looked."""
    return pd.Series([str(len(of[path])) if path in of else "" for path in paths], dtype=object)
