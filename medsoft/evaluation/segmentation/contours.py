"""Pictures of outlines over images: true ones and predicted ones, worst cases first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from medsoft.evaluation.examples import Example, reported_part, write_examples
from medsoft.storage.files import replacing
from medsoft.task import Task

LONGEST_SIDE_PX = 320
COLOURS = ((0, 158, 255), (255, 159, 0), (0, 200, 120), (230, 80, 180), (240, 228, 66), (160, 110, 60))
"""Of the classes in their order, again from the start where there are more; they differ for the colour-blind too."""
HOW = (
    "Worst cases first, by Dice; then the best. Left of each pair the true outlines, right the predicted ones, in the "
    "colour of their class: {legend}."
)
NAMES = ("blue", "orange", "green", "pink", "yellow", "brown")

Pixels = npt.NDArray[np.uint8]
Masks = Callable[[str, str], "tuple[Pixels, npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None"]


def pick_worst(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """The ``n`` rows of lowest Dice, rising, then the ``n`` of highest that are left, falling; no row without one."""
    known = frame[frame["dice"].notna()].sort_values("dice", kind="stable")
    best = known.iloc[n:].iloc[::-1].head(n)
    return pd.concat([known.head(n), best])


def outlined(picture_HWC: Pixels, mask_HW: npt.NDArray[np.uint8], classes: int) -> Pixels:
    """A picture with the outline of each class, no larger than ``LONGEST_SIDE_PX``.

    Args:
        picture_HWC: (H, W, 3).
        mask_HW: (H, W), 0 for no class, then the classes.
        classes: their number.
    """
    import cv2

    scale = min(1.0, LONGEST_SIDE_PX / max(mask_HW.shape))
    size = (max(1, round(mask_HW.shape[1] * scale)), max(1, round(mask_HW.shape[0] * scale)))
    drawn = np.ascontiguousarray(cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA))
    small = cv2.resize(mask_HW, size, interpolation=cv2.INTER_NEAREST)
    return with_outlines(drawn.astype(np.uint8), small.astype(np.uint8), classes, 2)


def with_outlines(picture_HWC: Pixels, mask_HW: npt.NDArray[np.uint8], classes: int, width: int) -> Pixels:
    """A picture with the outline of each class in its colour.

    Args:
        picture_HWC: (H, W, 3).
        mask_HW: (H, W), 0 for no class, then the classes.
        classes: their number.
        width: of a line in pixels; it has a dark rim of half as much.
    """
    import cv2

    drawn = np.ascontiguousarray(picture_HWC).copy()
    for index in range(classes):
        found, _ = cv2.findContours((mask_HW == index + 1).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, found, -1, (0, 0, 0), 2 * width)
        cv2.drawContours(drawn, found, -1, COLOURS[index % len(COLOURS)], width)
    return drawn


def write_contours(folder: Path, frame: pd.DataFrame, task: Task, masks: Masks, n: int) -> Path | None:
    """Draw the ``n`` worst and the ``n`` best rows of the part that is reported.

    Args:
        folder: made anew.
        frame: the predictions.
        task: theirs.
        masks: from split and id to (H, W, 3) picture, true and predicted mask (H, W), 0 for no class; None where it
            cannot be had.
        n: of each kind.

    Returns:
        ``examples.json``; None where there is nothing to draw.
    """

    def pair(row: pd.Series) -> tuple[Pixels, Pixels] | None:
        found = masks(str(row["split"]), str(row["id"]))
        if found is None:
            return None
        picture, true, predicted = found
        return outlined(picture, true, len(task.classes)), outlined(picture, predicted, len(task.classes))

    known = frame[task.known(frame)]
    if not len(known):
        return None
    picked = pick_worst(reported_part(known), n)
    values = [float(value) for value in picked["dice"]]
    return write_pairs(folder, picked, values, [_said(row, task) for _, row in picked.iterrows()], pair, _how(task), n)


def write_pairs(
    folder: Path,
    picked: pd.DataFrame,
    values: Sequence[float],
    said: Sequence[str],
    pair: Callable[[pd.Series], tuple[Pixels, Pixels] | None],
    how: str,
    n: int,
) -> Path | None:
    """Draw pairs of what is true and what was predicted.

    Args:
        folder: made anew.
        picked: rows of a predictions table; the first ``n`` are the worst.
        values: by which they were picked.
        said: of each, in words.
        pair: both pictures of a row (H, W, 3); None where they cannot be had.
        how: what the report says of the pictures.
        n: of each kind.

    Returns:
        ``examples.json``; None where there is nothing to draw.
    """
    rows: list[tuple[Example, str | None, str | None]] = []
    for number, ((_, row), value, words) in enumerate(zip(picked.iterrows(), values, said, strict=True)):
        if (pictures := pair(row)) is None:
            continue
        names = (f"{number:02d}_true.jpg", f"{number:02d}_predicted.jpg")
        for name, pixels in zip(names, pictures, strict=True):
            _save(pixels, folder / name)
        kind = "worst" if number < min(n, len(picked)) else "best"
        rows.append((Example(str(row["id"]), str(row["split"]), "", kind, kind, value, said=words), *names))
    return write_examples(folder, rows, how) if rows else None


def _how(task: Task) -> str:
    how = HOW.format(legend=legend(task.classes))
    return f"{how} {task.drawn}." if task.drawn else how


def legend(classes: Sequence[str]) -> str:
    """``lesion blue, vessel orange``: the colours of classes in their order."""
    return ", ".join(f"{name} {NAMES[index % len(NAMES)]}" for index, name in enumerate(classes))


def _said(row: pd.Series, task: Task) -> str:
    """``Dice 0.412: lesion 0.412 (area 5210, true 9120)``; of volumes in mm³."""
    size = next(column.removesuffix(f"_{task.classes[0]}") for column in task.p_columns)
    said = size.replace("_mm3", " mm³")
    parts = []
    for name in task.classes:
        value = row[f"dice_{name}"]
        overlap = "absent" if np.isnan(value) else f"{value:.3f}"
        parts.append(f"{name} {overlap} ({said} {row[f'{size}_{name}']:.0f}, true {row[f'true_{size}_{name}']:.0f})")
    return f"Dice {row['dice']:.3f}: {', '.join(parts)}"


def _save(pixels: Pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=88, subsampling=0)
