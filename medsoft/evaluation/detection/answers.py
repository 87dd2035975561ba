"""What a detector says of images as numbers, and as cells of a predictions table.

Numbers of an image, for batches and processes: how many boxes of each class are called (C), how many true ones there
are (C; NaN where that is not known), and then three for each box: index of its class, score, and what it hits as bits
(``medsoft.evaluation.detection.matching``); the class is -1 where an image has fewer boxes.

In the table a text holds the boxes of a class, best first: ``0.912:3ff 0.4:0`` is two boxes, of which the first hits a
true one at all ten thresholds. So metrics can be computed from the table alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BEST, CALLED, TRUE, MATCHES = "best_score", "detections_", "true_", "matches_"
"""Columns; all but the first are followed by the name of a class."""
CELL = r"(?:\d[\d.e-]*:[0-9a-f]{1,3}(?: |$))*"
"""What a cell of ``MATCHES`` looks like."""
_PER_BOX = 3


def pack(
    classes: int,
    slots: int,
    class_D: IntArray,
    score_D: FloatArray,
    bits_D: IntArray,
    called: float,
    true_C: FloatArray,
) -> FloatArray:
    """The numbers of an image, (2 C + 3 slots,).

    Args:
        classes: C.
        slots: boxes that an image can have at most.
        class_D: index of each box's class, best boxes first.
        score_D: from 0 to 1.
        bits_D: what each hits.
        called: score from which a box is called.
        true_C: true boxes of each class; NaN where not known.
    """
    row = np.full(2 * classes + _PER_BOX * slots, -1.0)
    row[:classes] = np.bincount(class_D[score_D >= called], minlength=classes)
    row[classes : 2 * classes] = true_C
    of_boxes = row[2 * classes :].reshape(slots, _PER_BOX)
    of_boxes[: len(class_D)] = np.stack([class_D, score_D, bits_D], axis=1)
    return row


def cells(names: Sequence[str], rows_NW: FloatArray) -> dict[str, npt.NDArray[np.float64] | list[str]]:
    """Columns of a predictions table from the numbers of N images.

    Args:
        names: of the classes.
        rows_NW: of ``pack``.
    """
    n, classes = len(rows_NW), len(names)
    boxes_NS3 = rows_NW[:, 2 * classes :].reshape(n, -1, _PER_BOX)
    there_NS = boxes_NS3[..., 0] >= 0
    best = np.where(there_NS, boxes_NS3[..., 1], 0.0).max(axis=1, initial=0.0)
    found: dict[str, npt.NDArray[np.float64] | list[str]] = {BEST: best}
    found |= {f"{CALLED}{name}": rows_NW[:, index] for index, name in enumerate(names)}
    found |= {f"{TRUE}{name}": rows_NW[:, classes + index] for index, name in enumerate(names)}
    for index, name in enumerate(names):
        found[f"{MATCHES}{name}"] = [
            " ".join(f"{score:.6g}:{int(bits):x}" for _, score, bits in boxes[boxes[:, 0] == index])
            for boxes in boxes_NS3
        ]
    return found


def parse(cell: str) -> list[tuple[float, int]]:
    """Score and bits of each box of a cell."""
    return [(float(score), int(bits, 16)) for score, _, bits in (word.partition(":") for word in cell.split())]
