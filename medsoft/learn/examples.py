"""Pictures of right and wrong answers for the report, with what the image's parts add to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from medsoft.evaluation.arrays import has_target
from medsoft.evaluation.report.examples import Example, pick_examples, write_examples
from medsoft.files import replacing
from medsoft.learn.outcome import Data
from medsoft.learn.shares import answer_shares, can_be_taken_apart
from medsoft.learn.volume_shares import is_explainable
from medsoft.task import Task

LONGEST_SIDE_PX = 256
OPACITY = 0.75
COLOURS = "RdBu_r"  # of Matplotlib
Pixels = npt.NDArray[np.uint8]

WITH_MAPS = (
    "On the right of each image: what its patches add to the log-odds of the answer through the last attention layer, "
    "red for, blue against, strongest at the largest share. Patches hold what they gathered of others in the layers "
    "before: a share belongs to a place and its surroundings, and is no proof of why. What belongs to no patch adds "
    "to the answer too, so that shares can be against a sure one."
)
WITHOUT_MAPS = (
    "Maps of shares are drawn of medsoft's vision transformers that read a class token; this model is another."
)
OF_VOLUMES = "Four slices of each volume. Maps of shares are written by medsoft predict --maps, as NIfTI and pictures."


def write_run_examples(folder: Path, frame: pd.DataFrame, data: Data, model: Any, n: int) -> Path | None:
    """Draw ``n`` right and ``n`` wrong answers about the part that is reported: test, else val, else the first one.

    Args:
        folder: made anew.
        frame: the predictions.
        data: has the images, and tensors for the model.
        model: in evaluation mode.
        n: of each kind.

    Returns:
        ``examples.json``; None where there is nothing to draw.
    """
    if data.task.kind == "regression":
        return None
    known = frame[has_target(frame, data.task)]
    splits = [split for split in ("test", "val", *known["split"]) if (known["split"] == split).any()]
    if not splits:
        return None
    picked = pick_examples(known[known["split"] == splits[0]], data.task, n)
    maps = can_be_taken_apart(model)
    rows = []
    for number, example in enumerate(picked):
        pixels = data.thumbnail(example.id)
        if pixels is None or pixels.ndim != 3:
            continue
        image, map_ = f"{number:02d}.jpg", f"{number:02d}_shares.jpg" if maps else None
        _save(_rgb(pixels), folder / image)
        if map_ is not None:
            shares = _shares(model, data, example)
            _save(overlay(_rgb(pixels), shares), folder / map_)
        rows.append((example, image, map_))
    about = WITH_MAPS if maps else OF_VOLUMES if is_explainable(model) else WITHOUT_MAPS
    return write_examples(folder, rows, about) if rows else None


def _shares(model: Any, data: Data, example: Example) -> npt.NDArray[np.float64]:
    dataset: Any = data.split_dataloader(example.split).dataset
    row = int(np.flatnonzero(data.part(example.split).frame["id"] == example.id)[0])
    index, positive = _answer(example, data.task)
    return answer_shares(model, dataset[row], index, positive)


def _answer(example: Example, task: Task) -> tuple[int, bool]:
    """Which output is asked, and whether for it or against it."""
    if task.kind == "multilabel":
        return task.classes.index(example.label), example.predicted == "yes"
    return task.classes.index(example.predicted), True


def overlay(pixels_HWC: Pixels, shares: npt.NDArray[np.float64]) -> Pixels:
    """Shares over an image in grey: red for, blue against, the more opaque the larger.

    Args:
        pixels_HWC: (H, W, 3).
        shares: (rows, columns) of the patch grid, which covers the image from its upper left corner.
    """
    from matplotlib import colormaps

    height, width = pixels_HWC.shape[:2]
    limit = float(np.abs(shares).max()) or 1.0
    relative = np.asarray(
        Image.fromarray((shares / limit).astype(np.float32)).resize((width, height), Image.Resampling.NEAREST)
    )
    colours = colormaps[COLOURS](0.5 + relative / 2)[..., :3] * 255
    grey = np.asarray(Image.fromarray(pixels_HWC).convert("L"), dtype=np.float64)[..., None]
    opacity = OPACITY * np.abs(relative)[..., None]
    mixed: Pixels = np.round(opacity * colours + (1 - opacity) * grey).astype(np.uint8)
    return mixed


def _rgb(pixels: Pixels) -> Pixels:
    """(H, W, 1) and (H, W, 3) alike as (H, W, 3)."""
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])


def _save(pixels: Pixels, path: Path) -> None:
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    with replacing(path) as temporary:
        image.save(temporary, format="JPEG", quality=85)
