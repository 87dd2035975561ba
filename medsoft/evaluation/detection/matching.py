"""Which predicted boxes hit a true one, by the rules of COCO.

A predicted box hits a true box of its class if they overlap by an IoU of at least a threshold; boxes are asked in
falling order of their scores, each takes the free true box with which it overlaps most, and a true box is taken once.
Source: Lin et al. 2014 (arXiv 1405.0312) and the code of its evaluation, cocoeval.py. Coordinates are continuous: a box
of 2 to 5 is 3 wide.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of COCO's mean average precision."""


def overlaps(boxes_D4: FloatArray, others_T4: FloatArray) -> FloatArray:
    """(D, T) IoU of boxes (x_min, y_min, x_max, y_max)."""
    low = np.maximum(boxes_D4[:, None, :2], others_T4[None, :, :2])
    high = np.minimum(boxes_D4[:, None, 2:], others_T4[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas_D, areas_T = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (boxes_D4, others_T4))
    union = areas_D[:, None] + areas_T[None, :] - shared
    iou: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def taken(
    boxes_D4: FloatArray, class_D: IntArray, true_T4: FloatArray, true_class_T: IntArray, thresholds: FloatArray
) -> IntArray:
    """Which true box each predicted box of an image hits.

    Args:
        boxes_D4: in falling order of their scores.
        class_D: index of each one's class.
        true_T4: true boxes.
        true_class_T: index of each one's class.
        thresholds: (K,) of the IoU.

    Returns:
        (K, D) index of the true box; -1 for none.
    """
    of_KD = np.full((len(thresholds), len(boxes_D4)), -1, np.int64)
    if not len(boxes_D4) or not len(true_T4):
        return of_KD
    iou_DT = np.where(class_D[:, None] == true_class_T[None, :], overlaps(boxes_D4, true_T4), 0.0)
    for of_D, threshold in zip(of_KD, np.minimum(thresholds, 1 - 1e-10), strict=True):
        free_T = np.ones(len(true_T4), bool)
        for box in np.flatnonzero(iou_DT.max(axis=1) >= threshold):
            left_T = np.where(free_T, iou_DT[box], -1.0)
            best = len(left_T) - 1 - int(left_T[::-1].argmax())  # of equals the last, as there
            if left_T[best] >= threshold:
                free_T[best] = False
                of_D[box] = best
    return of_KD


def hits(boxes_D4: FloatArray, class_D: IntArray, true_T4: FloatArray, true_class_T: IntArray) -> IntArray:
    """(D,) with bit k set where a box hits a true one at ``IOU_THRESHOLDS[k]``; arguments as of ``taken``."""
    of_KD = taken(boxes_D4, class_D, true_T4, true_class_T, IOU_THRESHOLDS)
    bits: IntArray = ((of_KD >= 0) << np.arange(len(of_KD))[:, None]).sum(axis=0)
    return bits
