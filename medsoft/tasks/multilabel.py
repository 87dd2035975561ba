"""Multilabel: several labels that are there or not, each with a column of its own, as a sigmoid each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.task import Targets
from medsoft.task_types import (
    BoolArray,
    FloatArray,
    IntArray,
    LabelOptions,
    LogitTarget,
    Objective,
    ObjectiveOptions,
    Pooling,
    Wrong,
)
from medsoft.tasks.classes import WithClasses, in_order, logarithm, numbers_of, require_whole, sigmoid
from medsoft.text.spelling import spellings

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

CELLS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": None}
"""What a target may be in a predictions table."""


class Multilabel(WithClasses):
    """A question of labels of which a sample may have none or several.

    Target columns hold 1, 0, and NaN where a label is not known.
    """

    kind = "multilabel"
    thresholded = True
    key_metrics = ("auroc", "average_precision", "balanced_accuracy", "brier")
    group_metrics = ("auroc", "sensitivity", "specificity", "brier")
    several_columns = True
    unlabelled = "(no label known)"

    @property
    def target_columns(self) -> list[str]:
        return [f"target_{name}" for name in self.classes]

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return True  # the names of the columns are those of the labels

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        from medsoft.data.tables.labels import plain_number, some

        names = list(map(str, labels.columns))
        if alike := spellings(names):
            what = "; ".join(" and ".join(map(repr, ways)) for ways in alike.values())
            raise InputError(f"label columns differ in writing only, and would be two labels: {what}")
        if options.positive or (options.classes and list(options.classes) != names):
            raise InputError(
                f"the classes of a multilabel task are its columns ({some(names)}): leave out classes, positive"
            )
        numbers, notes = _without_uncertain(labels.map(plain_number), options)
        advice = (
            "write 1 for present, 0 for absent, nothing for unknown; say with uncertain (fit: --data.uncertain ignore, "
            "zero or one) what -1 counts as"
        )
        found = [
            Problem("unknown label", (row,), f"{name} is {value!r}", advice)
            for name in names
            for row, value in enumerate(numbers[name], start=1)
            if value not in ("0", "1", "")
        ]
        columns = numbers.map({"0": 0.0, "1": 1.0}.get).astype(np.float64).add_prefix("target_")
        return Targets(cls(tuple(names)), columns, [*problems, *found], notes)

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        return frame[self.target_columns].to_numpy(dtype=np.float32, na_value=np.nan)

    def known(self, frame: pd.DataFrame) -> BoolArray:
        found: BoolArray = frame[self.target_columns].notna().any(axis=1).to_numpy(dtype=bool)
        return found

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        columns = zip(self.classes, self.target_columns, strict=True)
        return {name: (frame[column] == 1).to_numpy(dtype=bool, na_value=False) for name, column in columns}

    def label_table(self, frame: pd.DataFrame, splits: Sequence[str]) -> Table | None:
        """How often each label is 1, 0, and neither."""
        from rich.table import Table
        from rich.text import Text

        counts = Table("label", "present", "absent", "not known")
        for column in counts.columns[1:]:
            column.justify = "right"
        for name, target in zip(self.classes, self.target_columns, strict=True):
            values = frame[target]
            counts.add_row(Text(name), *(str(int(rows.sum())) for rows in (values == 1, values == 0, values.isna())))
        return counts

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """1 + the rarest label that a row has, 0 for none."""
        present = targets == 1
        rarest_first = np.argsort(present.sum(axis=0), kind="stable")
        first = present[:, rarest_first].argmax(axis=1)
        return np.where(present.any(axis=1), 1 + rarest_first[first], 0)

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.stack([(targets == 0).sum(axis=0), (targets == 1).sum(axis=0)], axis=1)

    @property
    def class_counts_shape(self) -> tuple[int, ...]:
        return (len(self.classes), 2)

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        raise InputError("data.balanced_sampling: not for multilabel tasks; use model.class_weights")

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.objectives import MaskedBinaryCrossEntropy

        return MaskedBinaryCrossEntropy(len(self.classes), options.class_weights, options.label_smoothing)

    def class_weights(self, class_counts: npt.NDArray[Any]) -> Tensor:
        """Negatives over positives, a label."""
        import torch

        counts = torch.as_tensor(class_counts, dtype=torch.float32)
        return counts[:, 0] / counts[:, 1].clamp(min=1)

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        labels = [column for column in columns if column.startswith("target_")]
        return bool(labels) and "target" not in columns and any(column.startswith("p_") for column in columns)

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        values = numbers_of(targets, (n, len(self.classes)))
        require_whole(values, 1, self.kind)
        columns = zip(self.target_columns, values.T, strict=True)
        return {name: pd.array(column, dtype="Float64").astype("Int8") for name, column in columns}

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        columns: dict[str, pd.Series] = {}
        wrong: list[Wrong] = []
        for column in self.target_columns:
            if column not in text:
                continue
            for value in text.loc[~text[column].isin(list(CELLS)), column].unique():
                rows = (text[column] == value).to_numpy(dtype=bool)
                wrong.append((f"{column} is {value!r}: 0, 1 or empty is allowed;", rows))
            columns[column] = text[column].map(CELLS).astype("Int8")
        return columns, wrong

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        return frame[self.target_columns].to_numpy(dtype=np.float64, na_value=np.nan)

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """What the rows agree on; for ``max`` present where a row says so, absent only where every row does."""
        grouped = numbers.groupby(group_N)
        highest = grouped.max()
        if how == "mean":
            return in_order(highest.where(highest == grouped.min()))
        return in_order(highest.where((highest == 1) | (grouped.count().eq(grouped.size(), axis=0))))

    def sentence(self, unit: str) -> str:
        return f"Multilabel: which of {self._quoted} does the {unit} show?"

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return logarithm(p_NC) - logarithm(1 - p_NC)

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        return sigmoid(logits_NK)

    def logit_target(self, name: str) -> LogitTarget:
        """The log-odds of a label."""
        return LogitTarget(name, {self._index(name): 1.0})

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        """Of the most probable label."""
        return self.logit_target(self.classes[int(prediction_C.argmax())])

    def outputs(self) -> list[dict[str, Any]]:
        meaning = "sigmoid of each label's logit, each by itself"
        return self._outputs([f"logit_{name}" for name in self.classes], meaning)


def _without_uncertain(numbers: pd.DataFrame, options: LabelOptions) -> tuple[pd.DataFrame, list[str]]:
    """Replace -1 as the option says, and note how many there were."""
    from medsoft.data.tables.labels import some

    names, uncertain = list(map(str, numbers.columns)), options.uncertain
    rules = dict.fromkeys(names, uncertain) if isinstance(uncertain, str) else dict(uncertain or {})
    if absent := [name for name in rules if name not in names]:
        raise InputError(f"uncertain names {some(absent)}, which is no label: the labels are {some(names)}")
    notes = []
    for name, rule in rules.items():
        rows = numbers[name] == "-1"
        numbers[name] = numbers[name].mask(rows, {"ignore": "", "zero": "0", "one": "1"}[rule])
        if rows.any():
            meaning = {"ignore": "missing", "zero": "absent", "one": "present"}[rule]
            notes.append(f"{name}: {rows.sum()} uncertain labels (-1) count as {meaning}")
    return numbers, notes
