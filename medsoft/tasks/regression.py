"""Regression: a number, learnt in standard deviations from the mean of the training targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.evaluation.metrics.table import headline_of
from medsoft.task import Targets, Task
from medsoft.task_types import (
    BoolArray,
    FloatArray,
    IntArray,
    LabelOptions,
    LogitTarget,
    Measure,
    Objective,
    ObjectiveOptions,
    Pooling,
    Wrong,
)
from medsoft.tasks.classes import in_order

if TYPE_CHECKING:
    from rich.table import Table

    from medsoft.evaluation.metrics.thresholds import OperatingPoint


class Regression(Task):
    """A question whose answer is a number; target columns hold numbers, NaN where unknown."""

    kind = "regression"
    metrics = ("mae", "rmse", "r2", "concordance")
    monitor = "mae"
    skill = ("concordance", 0.0)
    key_metrics = ("mae", "r2", "concordance", "bias")
    group_metrics = ("mae", "bias", "r2")
    figures = ("agreement", "risk_coverage")
    table_figures = ("agreement",)
    report_sections = ("figures", "metrics", "subgroups")
    glossary = ("r2", "concordance", "limits_of_agreement")

    def __post_init__(self) -> None:
        if self.classes:
            raise ValueError(f"a regression has no classes, not {', '.join(self.classes)}")

    @property
    def p_columns(self) -> list[str]:
        return ["prediction"]

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return True

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        from medsoft.data.tables.labels import is_number, some
        from medsoft.data.tables.values import asked_about

        names = list(map(str, labels.columns))
        if len(names) != 1:
            raise InputError(f"a {cls.kind} has one label column, not {len(names)}: {some(names)}")
        if options.positive or options.classes:
            raise InputError(f"positive and classes belong to classes, not to a {cls.kind}: leave them out")
        column = labels.iloc[:, 0]
        found, in_doubt = list(problems), asked_about(problems)
        for row, value in enumerate(column, start=1):
            if not value and options.required and row not in in_doubt:
                found.append(Problem("missing label", (row,), "the label is empty", "fill it in or delete the row"))
            elif value and not is_number(value):
                advice = f"a {cls.kind} needs numbers with a decimal point and without a unit"
                found.append(Problem("unknown label", (row,), f"{value!r} is no number", advice))
        numbers = column.map(lambda value: float(value) if is_number(value) else np.nan).astype(np.float64)
        if options.required and numbers.notna().any() and numbers.nunique() == 1:
            only = f"the label column {column.name!r} has one value only ({numbers.max():g})"
            raise InputError(f"{only}: nothing to predict")
        return Targets(cls(()), pd.DataFrame({"target": numbers}), found)

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        return frame["target"].to_numpy(dtype=np.float64)

    def known(self, frame: pd.DataFrame) -> BoolArray:
        return frame["target"].notna().to_numpy(dtype=bool)

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        return {}

    def kinds(self, frame: pd.DataFrame) -> list[BoolArray]:
        """Above the mean, and up to it."""
        targets = self.targets(frame)
        mean, _ = self.target_scale(targets)
        return [targets > mean, targets <= mean]

    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        """Check that the targets in train differ; without such rows those of the table."""
        train = targets.loc[splits == "train" if (splits == "train").any() else splits == splits, "target"]
        if train.nunique() != 1:
            return []
        advice = "add rows with other values, or split otherwise"
        return [Problem("constant label", (), f"every label in train is {train.max():g}", advice, False)]

    def label_table(self, frame: pd.DataFrame, splits: Sequence[str]) -> Table | None:
        """How many there are, mean, SD and range, by split."""
        from rich.table import Table

        counts = Table("label", "samples", "without", "mean", "SD", "lowest", "median", "highest")
        for name in [*splits, "all"]:
            rows = frame["split"] == name if name != "all" else pd.Series(True, index=frame.index)
            values = frame.loc[rows, "target"]
            known = values.dropna()
            facts = (known.mean(), known.std(ddof=0), known.min(), known.median(), known.max())
            counts.add_row(name, str(len(known)), str(len(values) - len(known)), *(f"{fact:.6g}" for fact in facts))
        return counts

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The fifth of the range of ranks, from 1; 0 where unknown."""
        known = ~np.isnan(targets)
        limits = np.quantile(targets[known], [0.2, 0.4, 0.6, 0.8]) if known.any() else np.zeros(0)
        fifths = 1 + np.searchsorted(np.unique(limits), targets, side="right")
        return np.where(known, fifths, 0)

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.zeros(0, np.int64)

    def of_numbers(self, numbers: Any) -> Any:
        return numbers[:, 0]

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        raise InputError(f"data.balanced_sampling: a {self.kind} has no classes to balance; leave it out")

    def target_scale(self, targets: npt.NDArray[Any]) -> tuple[float, float]:
        return float(targets.mean()), float(targets.std())

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.objectives import Quantity

        if options.label_smoothing or options.class_weights is not None:
            raise ValueError(f"label_smoothing and class_weights are for classes: leave them out of a {self.kind}")
        return Quantity(options.target_scale, options.regression_loss)

    def check_precision(self, precision: str) -> None:
        """Half precision would round the labels."""
        if precision in ("16-true", "bf16-true"):
            mixed = precision.replace("true", "mixed")
            raise InputError(f"trainer.precision {precision} would round the labels of a {self.kind}: use {mixed}")

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        return "prediction" in columns and not any(column.startswith("p_") for column in columns)

    @classmethod
    def from_columns(cls, columns: Sequence[str]) -> Task:
        if "prediction" not in columns:
            raise ValueError("column 'prediction' is missing")
        return cls(())

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        numbers = np.full(n, np.nan) if targets is None else np.asarray(targets, dtype=np.float64)
        if numbers.shape != (n,):
            raise ValueError(f"targets have shape {numbers.shape}, not {(n,)}")
        return {"target": numbers}

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        if "target" not in text:
            return {}, []
        numbers = pd.to_numeric(text["target"], errors="coerce").astype(np.float64)
        wrong = ~np.isfinite(numbers.to_numpy()) & (text["target"] != "").to_numpy()
        return {"target": numbers}, [("target is not a finite number in", wrong)]

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        finite = np.isfinite(frame["prediction"].to_numpy(dtype=np.float64))
        return [("prediction is not a finite number in", ~finite)]

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        return frame[["target"]].to_numpy(dtype=np.float64)

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """The mean of the rows' numbers, or the largest."""
        grouped = numbers.groupby(group_N)
        return in_order(grouped.mean() if how == "mean" else grouped.max())[:, 0]

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return p_NC

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        return logits_NK

    def sentence(self, unit: str) -> str:
        return f"Regression: a number for each {unit}"

    @property
    def headline(self) -> tuple[str, ...]:
        return headline_of(self.metrics)

    def measures(
        self,
        frame: pd.DataFrame,
        unit_N: IntArray,
        points: Sequence[OperatingPoint] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> list[Measure]:
        from medsoft.evaluation.metrics.regression import Measured

        return [Measured(frame, unit_N)]

    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        values = frame["prediction"].to_numpy(dtype=np.float64)
        targets = frame["target"].to_numpy(dtype=np.float64)
        known = targets[np.isfinite(targets)]
        unit = float(known.std()) if len(known) > 1 else 0.0
        constant = float(np.ptp(values)) <= 1e-9 * (1 + float(np.abs(values).max()))
        if not constant and (not unit or values.std() >= least_spread * unit):
            return ""
        return f"the predictions hardly vary ({values.min():.4g} to {values.max():.4g})"

    def logit_target(self, name: str) -> LogitTarget:
        """``prediction``, whose logit is in standard deviations."""
        if name != "prediction":
            raise InputError(f"--classes {name}: a {self.kind} has no classes; leave it out")
        return LogitTarget(name, {0: 1.0})

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        return self.logit_target("prediction")

    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        return frame["prediction"].to_numpy(np.float64)

    def outputs(self) -> list[dict[str, Any]]:
        return [
            {"name": "logits", "columns": ["logit"], "what": "standard deviations from the mean of the training"},
            {"name": "prediction", "columns": ["prediction"], "what": "the number, in the unit of the labels"},
        ]
