"""Images with their true and their predicted boxes, as the pictures of a report take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.data.boxes.of_images import NONE, Boxes
from medsoft.data.boxes.read import CORNERS
from medsoft.data.transforms.pixels import to_channels, to_uint8
from medsoft.evaluation.detection.pictures import Drawn, with_boxes
from medsoft.inference.detection.write import read_features
from medsoft.runs.run_folder import RunFolder


def boxes_of(data: Any, run: Path) -> Callable[[str, str], Drawn | None]:
    """From split and id to an image and its boxes; None where they were not predicted.

    Args:
        data: the data module of a detection, with loaded parts.
        run: the folder whose predicted boxes are shown.
    """
    folder, classes = RunFolder(run).boxes, data.task.classes

    def found(split: str, id_: str) -> Drawn | None:
        rows = np.flatnonzero(data.part(split).frame["id"] == id_)
        if not len(rows):
            return None
        dataset, index = data.dataset(split), int(rows[0])
        file = folder / f"{dataset.names[index]}.geojson"
        if not file.is_file():
            return None
        boxes = read_features(file)
        corners = np.array([[box[name] for name in CORNERS] for box in boxes], np.float64).reshape(-1, 4)
        class_D = np.array([classes.index(box["label"]) for box in boxes], np.int64)
        score_D = np.array([box["score"] for box in boxes], np.float64)
        true = dataset.boxes[index] or NONE
        return Drawn(_picture(dataset.image_as_stored(index)), true.corners_N4, true.class_N, corners, class_D, score_D)

    return found


def boxed_truth(image: npt.NDArray[Any], true: Boxes | None) -> npt.NDArray[np.uint8]:
    """An image with its true boxes, (H, W, 3).

    Args:
        image: (H, W, C) as read.
        true: its boxes; None where they are not known.
    """
    known = true or NONE
    return with_boxes(_picture(image), known.corners_N4, known.class_N)


def _picture(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return to_channels(to_uint8(image), 3)
