"""Ordinal: grades in rising order, as conditional steps from each to the next (CORN)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medsoft.errors import InputError
from medsoft.task_types import FloatArray, LogitTarget, Objective, ObjectiveOptions
from medsoft.tasks.classes import OneClass, logarithm, sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsoft.data.tables.labels import ClassColumn


class Ordinal(OneClass):
    """A question whose answers are grades, the lowest first."""

    kind = "ordinal"
    ordered = True
    metrics = (*OneClass.metrics, "kappa")
    monitor = "kappa"
    skill = ("kappa", 0.0)
    key_metrics = (*OneClass.key_metrics, "kappa")
    group_metrics = ("auroc", "accuracy", "kappa", "balanced_accuracy")

    @property
    def primary(self) -> dict[str, str]:
        return {"metric": self.monitor}  # of all grades together

    @classmethod
    def meaning(cls, column: ClassColumn, required: bool) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
        names = column.several_names(cls.kind, required, ordered=True)
        return {name: name for name in names}, names, []

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.objectives import Corn

        if options.label_smoothing:
            raise ValueError("label_smoothing is not defined for an ordinal task: set it to 0")
        return Corn(len(self.classes), options.class_weights)

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        return False  # that classes have an order is said by the column task alone

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        """Log-odds of P(y > k | y ≥ k), as CORN learns them."""
        at_least_NC = np.cumsum(p_NC[:, ::-1], axis=1)[:, ::-1]
        return logarithm(at_least_NC[:, 1:]) - logarithm(p_NC[:, :-1])

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        p_NK, not_NK = sigmoid(logits_NK), sigmoid(-logits_NK)
        ones = np.ones((len(p_NK), 1))
        reached_NC = np.concatenate([ones, np.cumprod(p_NK, axis=1)], axis=1)
        ends_NC = np.concatenate([not_NK, ones], axis=1)
        grades: FloatArray = reached_NC * ends_NC
        return grades

    def logit_target(self, name: str) -> LogitTarget:
        """The step to a grade from the one below, given that it is reached."""
        index = self._index(name)
        if index == 0:
            raise InputError(
                f"--classes {name}: is the lowest grade, which has no logit of its own; choose a higher one"
            )
        given = f" | ≥ {self.classes[index - 1]}" if index > 1 else ""
        return LogitTarget(f"≥ {name}{given}", {index - 1: 1.0})

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        """The step to the most probable grade, of the lowest that above it."""
        return self.logit_target(self.classes[max(int(prediction_C.argmax()), 1)])

    def outputs(self) -> list[dict[str, Any]]:
        meaning = "of each grade, from conditional logits P(y > k | y > k - 1) (CORN); they sum to 1"
        return self._outputs([f"logit_beyond_{name}" for name in self.classes[:-1]], meaning)
