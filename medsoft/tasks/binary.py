"""Binary: a yes-or-no question with a positive class, as a softmax over two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medsoft.errors import InputError
from medsoft.task_types import FloatArray, LabelOptions, LogitTarget, Objective, ObjectiveOptions
from medsoft.tasks.classes import OneClass, logarithm, sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsoft.data.tables.labels import ClassColumn


class Binary(OneClass):
    """A question with a negative and a positive class, in this order."""

    kind = "binary"
    thresholded = True
    key_metrics = ("auroc", "sensitivity", "specificity", "brier")
    group_metrics = ("auroc", "sensitivity", "specificity", "brier")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) != 2:
            raise ValueError(f"a binary task has 2 classes, not {len(self.classes)}")

    @property
    def positive(self) -> str:
        return self.classes[1]

    @property
    def asked_classes(self) -> tuple[str, ...]:
        return self.classes[1:]

    def sentence(self, unit: str) -> str:
        negative, positive = self.classes
        return f"Binary: is the {unit} “{positive}” (positive) or “{negative}”?"

    @property
    def primary(self) -> dict[str, str]:
        return {"metric": self.monitor, "class_name": self.positive}

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return bool(options.classes or options.positive)

    @classmethod
    def meaning(cls, column: ClassColumn, required: bool) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
        """Values that are named positive, and all others; without such, 0 and 1 or the two classes as named."""
        from medsoft.data.tables.labels import some

        seen, positive, classes = column.seen, column.positive, column.classes
        if classes and len(classes) != 2:
            raise InputError(f"a binary task has two classes (negative, positive), not {len(classes)}: {some(classes)}")
        if not positive:
            if not classes and not set(seen) <= {"0", "1"}:
                values = f"{column.about} has the values {some(seen)}"
                raise InputError(f"{values}: say which are positive (fit: --data.positive)")
            names = tuple(classes) or ("0", "1")
            return {name: name for name in names}, names, []
        absent = [value for value in positive if value not in seen]
        if required and (len(absent) == len(positive) or set(seen) <= set(positive)):
            which = "none" if absent else "all"
            values = f"{column.about}: {which} of its values ({some(seen)})"
            raise InputError(f"{values} are positive ({', '.join(positive)})")
        negative = [value for value in seen if value not in positive]
        words = not any(value.isdecimal() for value in (*positive, *negative))
        one_each = len(positive) == len(negative) == 1 and words
        names = tuple(classes) or ((negative[0], positive[0]) if one_each else ("negative", "positive"))
        meaning = {value: names[value in positive] for value in seen}
        notes = [f"{column.about}: {names[1]} is {', '.join(positive)}; {names[0]} is {some(negative)}"]
        if one_each and not classes:
            notes = [f"{column.about}: the positive class is {names[1]}, the negative one {names[0]}"]
        elif all(value == name for value, name in meaning.items()):
            notes = []  # nothing has another name than in the table
        if absent and seen:
            notes.append(f"{column.about}: the positive {', '.join(absent)} does not occur in this table")
        return meaning, names, notes

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.objectives import CrossEntropy

        return CrossEntropy(2, options.class_weights, options.label_smoothing)

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        labels = [column for column in columns if column.startswith("target_")]
        two = sum(column.startswith("p_") for column in columns) == 2
        return two and not (labels and "target" not in columns)

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return logarithm(p_NC[:, 1:]) - logarithm(p_NC[:, :1])

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        return np.concatenate([sigmoid(-logits_NK), sigmoid(logits_NK)], axis=1)

    def logit_target(self, name: str) -> LogitTarget:
        """The log-odds of a class: the difference of the two logits."""
        index = self._index(name)
        return LogitTarget(name, {index: 1.0, 1 - index: -1.0})

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        return self.logit_target(self.positive)

    def outputs(self) -> list[dict[str, Any]]:
        meaning = "softmax of the logits; the last is that of the positive class; they sum to 1"
        return self._outputs([f"logit_{name}" for name in self.classes], meaning)
