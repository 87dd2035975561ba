"""Average precision and FROC of predicted boxes, as functions of how often each unit was drawn.

``map``      mean of COCO's average precision over the IoU thresholds 0.50, 0.55, …, 0.95 and the classes that have a
             true box; precision is interpolated at 101 values of recall (Lin et al. 2014, arXiv 1405.0312). The oracle
             in the tests is torchmetrics' MeanAveragePrecision.
``map50``    the same at 0.50 alone.
``sensitivity_fp_…``  share of the true boxes that are hit (IoU of 0.5) at the lowest score at which there are no more
             than so many false positives per image, negatives included: a step function, without interpolation.
``froc``     mean of these at 1/8, 1/4, 1/2, 1, 2, 4 and 8 (Setio et al. 2017, LUNA16, doi 10.1016/j.media.2017.06.015);
             CAMELYON16 takes the mean of the last six (Ehteshami Bejnordi et al. 2017, doi 10.1001/jama.2017.14585).

Of all classes together FROC pools the boxes: one threshold for all, false positives of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.detection.answers import MATCHES, TRUE, parse
from medsoft.evaluation.detection.matching import IOU_THRESHOLDS
from medsoft.evaluation.metrics.weighted import Key, Values

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

RECALLS = np.linspace(0, 1, 101)
RATES: dict[str, float] = {
    "sensitivity_fp_1_8": 1 / 8,
    "sensitivity_fp_1_4": 1 / 4,
    "sensitivity_fp_1_2": 1 / 2,
    "sensitivity_fp_1": 1.0,
    "sensitivity_fp_2": 2.0,
    "sensitivity_fp_4": 4.0,
    "sensitivity_fp_8": 8.0,
}
"""False positives per image of each metric."""
CURVE_RATES = np.geomspace(1 / 16, 16, 65)
"""Where the FROC curve is known; 1/8, 1/4, … are among them."""
CURVE = "froc_curve"
CELLS_AT_ONCE = 500_000
"""Draws times boxes that are looked at together."""


@dataclass(frozen=True)
class _Boxes:
    """Boxes in falling order of their scores.

    Attributes:
        unit_D: of each one's image.
        hit_TD: whether it hits, at each IoU threshold.
        last_D: whether the next one has a lower score, so that a threshold can lie between.
        true_U: true boxes of each unit.
    """

    unit_D: IntArray
    hit_TD: npt.NDArray[np.bool_]
    last_D: npt.NDArray[np.bool_]
    true_U: FloatArray


class Detections:
    """Average precision and FROC of each class and of all together.

    Args:
        frame: rows of a predictions table whose true boxes are known.
        classes: names C.
        unit_N: (N,) unit of each row.
        curves: whether to give the FROC curve (B, ``CURVE_RATES``) too.
    """

    def __init__(self, frame: pd.DataFrame, classes: Sequence[str], unit_N: IntArray, curves: bool = False) -> None:
        n_units = int(unit_N.max()) + 1 if len(unit_N) else 0
        self._images_U = np.bincount(unit_N, minlength=n_units).astype(np.float64)
        self._classes, self._curves = tuple(classes), curves
        read = [_read(frame, name, unit_N, n_units) for name in classes]
        self._of = {name: _ordered(*parts) for name, parts in zip(classes, read, strict=True)}
        scores, bits, units = (np.concatenate(parts) for parts in zip(*(one[:3] for one in read), strict=True))
        self._of[""] = _ordered(scores, bits, units, np.sum([one[3] for one in read], axis=0))

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        weights_BU = weights_BU[:, : len(self._images_U)]
        most = max(1, CELLS_AT_ONCE // max(1, len(self._of[""].unit_D)))
        parts = [self._some(weights_BU[start : start + most]) for start in range(0, len(weights_BU), most)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _some(self, weights_BU: FloatArray) -> Values:
        images_B = weights_BU @ self._images_U
        precision_CBT = np.stack([_average_precision(self._of[name], weights_BU) for name in self._classes])
        sensitivities = {name: _froc(boxes, weights_BU, images_B) for name, boxes in self._of.items()}
        asked = {"": precision_CBT} | {name: precision_CBT[i : i + 1] for i, name in enumerate(self._classes)}
        shown = ["", *(self._classes if len(self._classes) > 1 else ())]
        values: Values = {}
        for name in shown:
            values[Key("map", name)] = _mean_of_defined(asked[name].mean(axis=2))
        for name in shown:
            values[Key("map50", name)] = _mean_of_defined(asked[name][..., 0])
        stated = list(RATES.values())
        at = {name: _at(found, stated) for name, found in sensitivities.items()}
        for name in shown:
            values[Key("froc", name)] = at[name].mean(axis=1)
        for index, metric in enumerate(RATES):
            for name in shown:
                values[Key(metric, name)] = at[name][:, index]
        for name in shown if self._curves else ():
            values[Key(CURVE, name)] = sensitivities[name]
        return values


def _read(
    frame: pd.DataFrame, name: str, unit_N: IntArray, n_units: int
) -> tuple[FloatArray, IntArray, IntArray, FloatArray]:
    boxes = [
        (score, bits, unit)
        for cell, unit in zip(frame[f"{MATCHES}{name}"], unit_N, strict=True)
        for score, bits in parse(str(cell))
    ]
    scores = np.array([one[0] for one in boxes], np.float64)
    bits = np.array([one[1] for one in boxes], np.intp)
    units = np.array([one[2] for one in boxes], np.intp)
    true_N = frame[f"{TRUE}{name}"].to_numpy(dtype=np.float64)
    true_U = np.bincount(unit_N, weights=true_N, minlength=n_units).astype(np.float64)
    return scores, bits, units, true_U


def _ordered(score_D: FloatArray, bits_D: IntArray, unit_D: IntArray, true_U: FloatArray) -> _Boxes:
    order = np.argsort(-score_D, kind="stable")
    sorted_D = score_D[order]
    hit_TD = (bits_D[order][None, :] >> np.arange(len(IOU_THRESHOLDS))[:, None]) & 1 == 1
    last_D = np.append(sorted_D[1:] < sorted_D[:-1], True)[: len(sorted_D)]
    return _Boxes(unit_D[order], hit_TD, last_D, true_U)


def _average_precision(boxes: _Boxes, weights_BU: FloatArray) -> FloatArray:
    """(B, T) of a class at each IoU threshold; NaN where it has no true box."""
    true_B = weights_BU @ boxes.true_U
    found_BT = np.full((len(weights_BU), len(IOU_THRESHOLDS)), np.nan)
    weight_BD = weights_BU[:, boxes.unit_D]
    all_BD = np.cumsum(weight_BD, axis=1)
    for index, hit_D in enumerate(boxes.hit_TD):
        tp_BD = np.cumsum(weight_BD * hit_D, axis=1)
        precision_BD = np.divide(tp_BD, all_BD, out=np.zeros_like(tp_BD), where=all_BD > 0)
        highest_BD = np.maximum.accumulate(precision_BD[:, ::-1], axis=1)[:, ::-1]
        for draw in np.flatnonzero(true_B > 0):
            at = np.searchsorted(tp_BD[draw] / true_B[draw], RECALLS, side="left")
            inside = at < tp_BD.shape[1]
            found_BT[draw, index] = highest_BD[draw, at[inside]].sum() / len(RECALLS)
    return found_BT


def _froc(boxes: _Boxes, weights_BU: FloatArray, images_B: FloatArray) -> FloatArray:
    """(B, ``CURVE_RATES``) sensitivities; NaN where there is no true box."""
    true_B = weights_BU @ boxes.true_U
    weight_BD = weights_BU[:, boxes.unit_D]
    tp_BD, fp_BD = (np.cumsum(weight_BD * hit_D, axis=1)[:, boxes.last_D] for hit_D in _hit_or_not(boxes))
    found_BR = np.full((len(weights_BU), len(CURVE_RATES)), np.nan)
    for draw in np.flatnonzero(true_B > 0):
        limits = CURVE_RATES * images_B[draw] * (1 + 1e-9)
        lowest = np.searchsorted(fp_BD[draw], limits, side="right")
        found_BR[draw] = np.append(0.0, tp_BD[draw])[lowest] / true_B[draw]
    return found_BR


def _hit_or_not(boxes: _Boxes) -> tuple[FloatArray, FloatArray]:
    hit_D = boxes.hit_TD[0].astype(np.float64)
    return hit_D, 1 - hit_D


def _at(found_BR: FloatArray, rates: Sequence[float]) -> FloatArray:
    places = [int(np.abs(CURVE_RATES - rate).argmin()) for rate in rates]
    return found_BR[:, places]


def _mean_of_defined(values_CB: FloatArray) -> FloatArray:
    """(B,) over the classes that have a value; NaN where none has."""
    there = ~np.isnan(values_CB)
    counts = there.sum(axis=0)
    sums = np.where(there, values_CB, 0.0).sum(axis=0)
    means_B: FloatArray = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means_B
