"""Survival: the time until an event, of which those who were last seen without it are censored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.task import Targets, Task
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
from medsoft.tasks.classes import in_order
from medsoft.tasks.survival_evaluation import SurvivalEvaluation, plain_time

if TYPE_CHECKING:
    from rich.table import Table


LONGEST = {"days": 43_830.0, "months": 1_440.0, "years": 120.0}
"""What nobody has been observed for, by the units that times may have."""
ADVICE = "split otherwise, or add rows in which the event happened"
MIXED = {"days and weeks": 7.0, "months and years": 12.0, "days and months": 30.4, "days and years": 365.25}
"""Units that are mixed up, and by what factor they differ."""


@dataclass(frozen=True)
class Survival(SurvivalEvaluation):
    """A question whose answer is a risk, and the chance of surviving beyond stated times.

    Attributes:
        logits: outputs of the network that answers, all of which are larger for a larger risk.
    """

    logits: int = field(default=1, compare=False)

    kind = "survival"

    def __post_init__(self) -> None:
        if self.classes:
            raise ValueError(f"a survival task has no classes, not {', '.join(self.classes)}")
        if not all(np.isfinite(time) and time > 0 for time in self.times):
            raise ValueError("times at which survival is stated must be above 0")
        if list(self.times) != sorted(set(self.times)):
            raise ValueError("times at which survival is stated must be different and rising")
        if self.unit not in ("", *LONGEST):
            raise ValueError(f"the unit of times is one of {', '.join(LONGEST)}, not {self.unit!r}")

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"times": self.times, "unit": self.unit, "logits": self.logits}

    @classmethod
    def described(cls, known: Mapping[str, Any]) -> Task:
        try:
            times = tuple(float(time) for time in known["times"])
            return cls(tuple(known["classes"]), times, str(known["unit"]), int(known["logits"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"its times are missing or damaged: {error}") from None

    def asks_the_same(self, other: Task) -> bool:
        return self == other and isinstance(other, Survival) and self.unit == other.unit

    def __str__(self) -> str:
        """With its times: ``survival (at 365, 730 days)``."""
        at = ", ".join(map(plain_time, self.times))
        return f"survival (at {at} {self.unit})".replace(" )", ")") if at else "survival"

    @property
    def p_columns(self) -> list[str]:
        return ["risk", *(f"s_{plain_time(time)}" for time in self.times)]

    @property
    def target_columns(self) -> list[str]:
        return ["time", "event"]

    @classmethod
    def label_columns(cls, label: str | Sequence[str] | None, time: str | None, event: str | None) -> Sequence[str]:
        if label not in ("label", None):
            raise InputError("a survival task has data.time and data.event in place of data.label: leave that out")
        return [time or "time", event or "event"]

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return True

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        from medsoft.data.tables.survival import read_events, read_times

        if options.classes:
            raise InputError("classes belong to classes, not to a survival task: leave them out")
        if len(labels.columns) != 2:
            raise InputError(
                "a survival task has two label columns, the time and whether the event happened (fit: --data.time and "
                f"--data.event), not {len(labels.columns)}"
            )
        if options.time_unit is None and options.required:
            units = ", ".join(LONGEST)
            raise InputError(
                f"say the unit of the column {labels.columns[0]!r}: one of {units} (fit: --data.time_unit)"
            )
        try:
            task = cls((), options.times, options.time_unit or "")
        except ValueError as error:
            raise InputError(f"{error} (fit: --data.times)") from None
        found, notes = list(problems), []
        time, wrong = read_times(
            labels.iloc[:, 0], problems, options.required, LONGEST.get(task.unit, np.inf), task.unit
        )
        event, more, said = read_events(labels.iloc[:, 1], problems, options)
        found += wrong + more
        notes += said + mixed_units(time.to_numpy(), task.unit)
        return Targets(task, pd.DataFrame({"time": time, "event": event}), found, notes)

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        return frame[["time", "event"]].astype(np.float64).to_numpy()

    def known(self, frame: pd.DataFrame) -> BoolArray:
        return frame[["time", "event"]].notna().all(axis=1).to_numpy(dtype=bool)

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        return {}

    def kinds(self, frame: pd.DataFrame) -> list[BoolArray]:
        """Events, and the censored."""
        event = self.targets(frame)[:, 1]
        return [event == 1, event == 0]

    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        """Check that there are events in train, at several times, and one in val."""
        there = [part for part in ("train", "val") if (splits == part).any()]
        known = targets[self.known(targets)]
        parts = {part: known[(splits.reindex(known.index) == part).to_numpy()] for part in there} or {
            "the table": known
        }
        problems = []
        for part, rows in parts.items():
            happened = rows.loc[(rows["event"] == 1).to_numpy(dtype=bool), "time"]
            said = ""
            if happened.empty:
                said = f"no event in {part}: all {len(rows)} rows are censored"
            elif part != "val" and len(happened) == 1:
                said = f"a single event in {part}, of {len(rows)} rows"
            elif part != "val" and happened.nunique() == 1:
                said = f"all {len(happened)} events in {part} are at one time ({happened.iloc[0]:g})"
            problems += [Problem("too few events", (), said, ADVICE, False)] if said else []
        return problems

    def label_table(self, frame: pd.DataFrame, splits: Sequence[str]) -> Table | None:
        """Events, their share, and the times, by split."""
        from rich.table import Table

        counts = Table("survival", "samples", "without", "events", "censored", "median time", "longest")
        for name in [*splits, "all"]:
            rows = frame[(frame["split"] == name)] if name != "all" else frame
            known = rows[self.known(rows)]
            happened = int((known["event"] == 1).sum())
            facts = (len(known), len(rows) - len(known), happened, len(known) - happened)
            counts.add_row(name, *map(str, facts), f"{known['time'].median():.6g}", f"{known['time'].max():.6g}")
        return counts

    def part_notes(self, frame: pd.DataFrame, part: str) -> list[str]:
        known = self.targets(frame[self.known(frame)])
        events = int((known[:, 1] == 1).sum())
        what = "no event" if events == 0 else "a single event" if events == 1 else ""
        if not has_pair(known):
            what = what or f"{events} events"
            return [f"{part} has {what} and no two samples that can be compared: its concordance is undefined"]
        return [f"{part} has {what}: what is measured there says little"] if what else []

    def monitor_of(self, val: pd.DataFrame) -> str:
        return self.monitor if has_pair(self.targets(val[self.known(val)])) else "loss"

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The quarter of the times, 1 to 4, of the censored, and 5 to 8 where the event happened; 0 where unknown."""
        known = ~np.isnan(targets).any(axis=1)
        strata = np.zeros(len(targets), np.int64)
        for event, first in ((0, 1), (1, 5)):
            rows = known & (targets[:, 1] == event)
            times = targets[rows, 0]
            limits = np.unique(np.quantile(times, [0.25, 0.5, 0.75])) if len(times) else np.zeros(0)
            strata[rows] = first + np.searchsorted(limits, times, side="right")
        return strata

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.zeros(0, np.int64)

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        raise InputError("data.balanced_sampling: a survival task has no classes to balance; leave it out")

    def settled(self, targets: npt.NDArray[Any]) -> Survival:
        """With times at the quartiles of the events, to three digits, where nobody said others."""
        happened = self.event_times(targets)
        if self.times or happened is None:
            return self
        quartiles = np.quantile(happened, [0.25, 0.5, 0.75], method="inverted_cdf")
        return replace(self, times=tuple(sorted({float(f"{time:.3g}") for time in quartiles})))

    def stated(self) -> dict[str, Any]:
        return {"times": list(self.times) or None}

    def event_times(self, targets: npt.NDArray[Any]) -> FloatArray | None:
        happened: FloatArray = np.sort(targets[targets[:, 1] == 1, 0])
        return happened if len(happened) else None

    def check_objective(self, options: ObjectiveOptions) -> None:
        if options.label_smoothing or options.class_weights is not None:
            raise ValueError("label_smoothing and class_weights are for classes: leave them out of a survival task")

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.survival.objectives import make_objective

        self.check_objective(options)
        return make_objective(self.times, options)

    def linear_baseline(
        self, train_NK: FloatArray, targets: npt.NDArray[Any], x_MK: FloatArray, penalty: float
    ) -> FloatArray | None:
        """Cox's regression."""
        from medsoft.classifiers.survival.linear import predict_by_cox

        return predict_by_cox(train_NK, targets, x_MK, penalty, self.times)

    def answered_by(self, outputs: int) -> Survival:
        return replace(self, logits=outputs)

    def check_precision(self, precision: str) -> None:
        """Half precision would round the times."""
        if precision in ("16-true", "bf16-true"):
            mixed = precision.replace("true", "mixed")
            raise InputError(f"trainer.precision {precision} would round the times of survival: use {mixed}")

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        return "risk" in columns and "prediction" not in columns and not any(name.startswith("p_") for name in columns)

    @classmethod
    def from_columns(cls, columns: Sequence[str]) -> Task:
        if "risk" not in columns:
            raise ValueError("column 'risk' is missing")
        return cls((), tuple(time for name in columns if (time := _time_of(name)) is not None))

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        values = np.full((n, 2), np.nan) if targets is None else np.asarray(targets, dtype=np.float64)
        if values.shape != (n, 2):
            raise ValueError(f"targets have shape {values.shape}, not {(n, 2)}")
        unknown = np.isnan(values).any(axis=1)
        if not np.isin(values[~unknown, 1], (0, 1)).all():
            raise ValueError("an event is 1 or 0")
        time, event = np.where(unknown[:, None], np.nan, values).T
        return {"time": time, "event": pd.array(event).astype("Int8")}

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        found: dict[str, pd.Series] = {}
        wrong: list[Wrong] = []
        if "time" in text:
            time = pd.to_numeric(text["time"], errors="coerce").astype(np.float64)
            written = (text["time"] != "").to_numpy()
            wrong.append(("time is no finite number above 0 in", written & ~np.asarray(np.isfinite(time) & (time > 0))))
            found["time"] = time
        if "event" in text:
            event = pd.to_numeric(text["event"], errors="coerce").astype(np.float64)
            bad = (text["event"] != "").to_numpy() & ~event.isin([0.0, 1.0]).to_numpy()
            wrong.append(("event is neither 0 nor 1 in", bad))
            found["event"] = event.where(~bad).astype("Int8")
        if len(found) == 2:
            one = (text["time"] != "") != (text["event"] != "")
            wrong.append(("time and event do not stand together in", one.to_numpy(dtype=bool)))
        return found, wrong

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        risk, *survival = (frame[name].to_numpy(dtype=np.float64) for name in self.p_columns)
        wrong: list[Wrong] = [("risk is not a finite number in", ~np.isfinite(risk))]
        for name, values in zip(self.p_columns[1:], survival, strict=True):
            wrong.append((f"{name} is outside [0, 1] in", ~((values >= 0) & (values <= 1))))
        return wrong

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        return self.targets(frame)

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """Time and event that the rows agree on; else unknown."""
        grouped = numbers.groupby(group_N)
        agreed = (grouped.nunique() == 1).all(axis=1)
        return in_order(grouped.first().where(agreed))

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        """The risk, and logarithms of the cumulative hazards: larger is worse in all."""
        survival = np.clip(p_NC[:, 1:], 1e-300, 1 - 2.0**-53)
        return np.concatenate([p_NC[:, :1], np.log(-np.log(survival))], axis=1)

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        return np.concatenate([logits_NK[:, :1], np.exp(-np.exp(logits_NK[:, 1:]))], axis=1)

    def sentence(self, unit: str) -> str:
        return f"Survival: the risk of an event for each {unit}"

    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        risk = frame["risk"].to_numpy(dtype=np.float64)
        return "" if risk.std() >= least_spread else f"the risks hardly vary ({risk.min():.4g} to {risk.max():.4g})"

    def logit_target(self, name: str) -> LogitTarget:
        """``risk``: the mean of the network's outputs, each of which is larger for a larger risk."""
        if name != "risk":
            raise InputError(f"--classes {name}: a survival task has no classes; leave it out")
        return LogitTarget(name, dict.fromkeys(range(self.logits), 1 / self.logits))

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        return self.logit_target("risk")

    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        return frame["risk"].to_numpy(np.float64)

    def outputs(self) -> list[dict[str, Any]]:
        one = self.logits == 1
        logits = ["logit"] if one else [f"logit_{k}" for k in range(1, self.logits + 1)]
        of = "log hazard of Cox's model" if one else "logits of the intervals of time"
        return [
            {"name": "logits", "columns": logits, "what": of},
            {
                "name": "prediction",
                "columns": self.p_columns,
                "what": "risk (larger is worse), and the chance of surviving beyond each time",
            },
        ]


def mixed_units(time_N: FloatArray, unit: str) -> list[str]:
    """A warning where times fall into two clusters, of which one would be the other in another unit.

    A gap of a factor 4 without a time, at least 5 times and a twentieth of all on either side, and medians that differ
    by about 7, 12, 30.4 or 365.
    """
    time = np.sort(time_N[np.isfinite(time_N) & (time_N > 0)])
    if len(time) < 10:
        return []
    gap = int(np.argmax(np.diff(np.log(time)))) + 1
    fewest = max(5, len(time) // 20)
    if time[gap] < 4 * time[gap - 1] or min(gap, len(time) - gap) < fewest:
        return []
    ratio = float(np.median(time[gap:]) / np.median(time[:gap]))
    alike = min(MIXED, key=lambda name: abs(np.log(ratio / MIXED[name])))
    if abs(np.log(ratio / MIXED[alike])) > 0.4:
        return []
    stated = f"in {unit}" if unit else "in one unit"
    return [
        f"WARNING: {gap} times are at most {time[gap - 1]:g} and {len(time) - gap} at least {time[gap]:g}, with "
        f"medians a factor of {ratio:.3g} apart: are some in other units, such as {alike}? All must be {stated}"
    ]


def has_pair(targets: FloatArray) -> bool:
    """Whether of any two samples it is known who had the event first; ``targets`` (N, 2) of time and event."""
    time, happened = targets[:, 0], targets[:, 1] == 1
    if not happened.any():
        return False
    first = time[happened].min()
    return bool((time > first).any() or ((time == first) & ~happened).any())


def _time_of(column: str) -> float | None:
    """The time of a column ``s_<t>``; None of another column."""
    if not column.startswith("s_"):
        return None
    try:
        time = float(column.removeprefix("s_"))
    except ValueError:
        return None
    return time if np.isfinite(time) and time > 0 and f"s_{plain_time(time)}" == column else None
