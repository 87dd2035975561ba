"""Multiclass: one of several classes without an order, as a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medsoft.task_types import FloatArray, LogitTarget, Objective, ObjectiveOptions
from medsoft.tasks.classes import OneClass, logarithm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsoft.data.tables.labels import ClassColumn


class Multiclass(OneClass):
    """A question with several answers, of which one is right and none is more than another."""

    kind = "multiclass"
    _has_highest = False

    @classmethod
    def meaning(cls, column: ClassColumn, required: bool) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
        names = column.several_names(cls.kind, required)
        return {name: name for name in names}, names, []

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.objectives import CrossEntropy

        return CrossEntropy(len(self.classes), options.class_weights, options.label_smoothing)

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        labels = [column for column in columns if column.startswith("target_")]
        several = sum(column.startswith("p_") for column in columns) not in (0, 2)
        return several and not (labels and "target" not in columns)

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return logarithm(p_NC)

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        shifted: FloatArray = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
        sums: FloatArray = shifted.sum(axis=1, keepdims=True)
        return shifted / sums

    def logit_target(self, name: str) -> LogitTarget:
        """The logit of a class, of which only differences mean something."""
        return LogitTarget(name, {self._index(name): 1.0}, sigmoid=False)

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        """Of the most probable class."""
        return self.logit_target(self.classes[int(prediction_C.argmax())])

    def outputs(self) -> list[dict[str, Any]]:
        return self._outputs([f"logit_{name}" for name in self.classes], "softmax of the logits; they sum to 1")
