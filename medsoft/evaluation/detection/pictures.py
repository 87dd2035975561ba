"""Pictures of boxes over images: true ones and predicted ones, worst cases first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.detection.answers import CALLED, MATCHES, TRUE, parse
from medsoft.evaluation.detection.matching import FloatArray, IntArray, taken
from medsoft.evaluation.examples import reported_part
from medsoft.evaluation.segmentation.contours import COLOURS, Pixels, legend, write_pairs
from medsoft.task import Task

LONGEST_SIDE_PX = 420
HOW = (
    "Worst cases first, by the number of errors (missed boxes and false ones, IoU of 0.5); then the best. Left of each "
    "pair the true boxes, thick where they were missed; right the boxes that were called, with their scores in per "
    "cent, thick where they are false. In the colour of their class: {legend}."
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image and its boxes.

    Attributes:
        picture: (H, W, 3) uint8.
        true_T4: true boxes, in its pixels.
        true_class_T: index of each one's class.
        boxes_D4: predicted boxes, best first.
        class_D: index of each one's class.
        score_D: of each.
    """

    picture: Pixels
    true_T4: FloatArray
    true_class_T: IntArray
    boxes_D4: FloatArray
    class_D: IntArray
    score_D: FloatArray


def errors(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Of each row, how many true boxes were ``missed_<class>``, and how many called ones are ``false_<class>``."""
    found = {}
    for name in classes:
        called, true = frame[f"{CALLED}{name}"], frame[f"{TRUE}{name}"]
        hit = [
            sum(bits & 1 for _, bits in parse(str(cell))[: int(n)])
            for cell, n in zip(frame[f"{MATCHES}{name}"], called, strict=True)
        ]
        found[f"missed_{name}"], found[f"false_{name}"] = true - hit, called - hit
    return pd.DataFrame(found, index=frame.index)


def write_box_pictures(
    folder: Path, frame: pd.DataFrame, task: Task, boxes: Callable[[str, str], Drawn | None], n: int
) -> Path | None:
    """Draw the ``n`` worst and the ``n`` best rows of the part that is reported.

    Args:
        folder: made anew.
        frame: the predictions.
        task: theirs.
        boxes: from split and id to image and boxes, of which the called ones are drawn; None where they cannot be had.
        n: of each kind.

    Returns:
        ``examples.json``; None where there is nothing to draw.
    """
    known = frame[task.known(frame)]
    if not len(known):
        return None
    part = reported_part(known)
    wrong = errors(part, task.classes)
    order = wrong.sum(axis=1).sort_values(ascending=False, kind="stable").index
    picked = [*order[:n], *order[n:][::-1][:n]]

    def pair(row: pd.Series) -> tuple[Pixels, Pixels] | None:
        found = boxes(str(row["split"]), str(row["id"]))
        return (
            None
            if found is None
            else draw(found, {i: int(row[f"{CALLED}{name}"]) for i, name in enumerate(task.classes)})
        )

    said = [_said(part.loc[index], wrong.loc[index], task.classes) for index in picked]
    values = [float(wrong.loc[index].sum()) for index in picked]
    how = HOW.format(legend=legend(task.classes))
    return write_pairs(folder, part.loc[picked], values, said, pair, how, n)


def draw(found: Drawn, called: dict[int, int]) -> tuple[Pixels, Pixels]:
    """The picture with the true boxes, and with those that were called, no larger than ``LONGEST_SIDE_PX``.

    Args:
        found: what to draw.
        called: how many boxes of each class, by its index, the best first.
    """
    rank_D = np.array([(found.class_D[:at] == name).sum() for at, name in enumerate(found.class_D)], np.int64)
    keep_D = rank_D < np.array([called[int(name)] for name in found.class_D], np.int64)
    boxes, class_D, score_D = found.boxes_D4[keep_D], found.class_D[keep_D], found.score_D[keep_D]
    of_D = taken(boxes, class_D, found.true_T4, found.true_class_T, np.array([0.5]))[0]
    missed_T = ~np.isin(np.arange(len(found.true_T4)), of_D)
    left = with_boxes(found.picture, found.true_T4, found.true_class_T, missed_T)
    return left, with_boxes(found.picture, boxes, class_D, of_D < 0, score_D)


def with_boxes(
    picture_HWC: Pixels,
    boxes_N4: FloatArray,
    class_N: IntArray,
    thick_N: npt.NDArray[np.bool_] | None = None,
    score_N: FloatArray | None = None,
) -> Pixels:
    """A picture with boxes in the colours of their classes, no larger than ``LONGEST_SIDE_PX``."""
    import cv2

    height, width = picture_HWC.shape[:2]
    scale = min(1.0, LONGEST_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawn = np.ascontiguousarray(cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA)).astype(np.uint8)
    for number in range(len(boxes_N4) - 1, -1, -1):  # the best last, on top
        low_x, low_y, high_x, high_y = (round(float(value) * scale) for value in boxes_N4[number])
        corners = (low_x, low_y), (max(low_x, high_x - 1), max(low_y, high_y - 1))
        colour, line = COLOURS[int(class_N[number]) % len(COLOURS)], 4 if thick_N is not None and thick_N[number] else 2
        cv2.rectangle(drawn, *corners, (0, 0, 0), line + 1)
        cv2.rectangle(drawn, *corners, colour, line)
        if score_N is not None:
            at, words = (low_x + 3, min(size[1] - 3, low_y + 12)), f"{100 * score_N[number]:.0f}"
            for ink, stroke in (((0, 0, 0), 3), (colour, 1)):
                cv2.putText(drawn, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, ink, stroke, cv2.LINE_AA)
    return drawn


def _said(row: pd.Series, wrong: pd.Series, classes: tuple[str, ...]) -> str:
    """``lesion: 3 true, 1 missed, 2 false``."""
    counts = [(name, row[f"{TRUE}{name}"], wrong[f"missed_{name}"], wrong[f"false_{name}"]) for name in classes]
    return "; ".join(
        f"{name}: {true:.0f} true, {missed:.0f} missed, {false:.0f} false" for name, true, missed, false in counts
    )
