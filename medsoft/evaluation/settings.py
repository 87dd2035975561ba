"""How an evaluation is done, and the checks that keep what is chosen apart from what is reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from medsoft.errors import InputError, check_range
from medsoft.evaluation.metrics.recalibration import METHODS
from medsoft.evaluation.metrics.thresholds import Rule, parse_rule
from medsoft.evaluation.survival.risk_groups import MEDIAN, parse_cut
from medsoft.evaluation.tables.levels import LEVELS
from medsoft.task import Task


@dataclass(frozen=True)
class Settings:
    """Options of an evaluation.

    Attributes:
        draws: of the bootstrap.
        seed: of the bootstrap.
        confidence: of all intervals.
        stratify: draw within the classes where every patient has one; each draw then has the classes in the numbers of
            the data. False where the mix of classes came by chance too, as in a consecutive series.
        rules: of thresholds (``evaluation.metrics.thresholds``); None for 0.5, and youden where there are rows to
            choose on.
        choose_on: the split whose rows choose thresholds and fit the recalibration.
        optimistic: allow that to be the reported split; every such value is marked.
        recalibrate: temperature, isotonic or none; None for temperature where there are rows to fit on.
        prevalences: for further PPV and NPV.
        levels: of row, exam and patient; None for those that differ.
        times: of survival, at which AUC(t) is reported; none for those at which survival was predicted, else quartiles
            of the event times.
        tau: of survival, where Uno's C ends; None for the last time at which a tenth of the rows is at risk.
        risk_cut: of survival, between risk groups: ``median`` of the split that chooses, or numbers.
        uncertainty: column by which selective prediction sets rows aside; None for the predicted class's probability.
    """

    draws: int = 2000
    seed: int = 0
    confidence: float = 0.95
    stratify: bool = True
    rules: tuple[str, ...] | None = None
    choose_on: str = "val"
    optimistic: bool = False
    recalibrate: str | None = None
    prevalences: tuple[float, ...] = ()
    levels: tuple[str, ...] | None = None
    uncertainty: str | None = None
    times: tuple[float, ...] = ()
    tau: float | None = None
    risk_cut: str = MEDIAN

    def to_json(self, task: Task) -> dict[str, Any]:
        """Plain values, without what is for other tasks."""
        values = asdict(self)
        others = () if task.has_risk_groups else ("times", "tau", "risk_cut")
        return {name: value for name, value in values.items() if name not in others}

    def __post_init__(self) -> None:
        check_range("draws", self.draws, 1)
        check_range("seed", self.seed, 0)
        check_range("confidence", self.confidence, 0.5, 0.9999)
        for prevalence in self.prevalences:
            if not 0 < prevalence < 1:
                raise InputError(f"prevalence {prevalence:g} must lie between 0 and 1")
        if self.recalibrate is not None and self.recalibrate not in METHODS:
            raise InputError(f"recalibrate {self.recalibrate!r}: one of {', '.join(METHODS)}")
        if not all(0 < time < math.inf for time in (*self.times, *(() if self.tau is None else (self.tau,)))):
            raise InputError("times and tau must be above 0")
        parse_cut(self.risk_cut)
        if strange := set(self.levels or ()) - set(LEVELS):
            raise InputError(f"by {', '.join(sorted(strange))}: levels are {', '.join(LEVELS)}")


@dataclass(frozen=True)
class Plan:
    """What will be chosen, on which split (None for nothing), and what must be said of it."""

    rules: tuple[Rule, ...]
    recalibrate: str
    choose_on: str | None
    notes: tuple[str, ...] = ()


def plan(frame: pd.DataFrame, task: Task, settings: Settings) -> Plan:
    """Decide what is chosen on which rows.

    Raises:
        InputError: something is asked for that there are no rows to choose on, or that would be chosen on what is
            reported.
    """
    decides = task.thresholded
    if settings.rules is not None and settings.rules and not decides:
        raise InputError(
            f"thresholds are for binary and multilabel tasks; {task.kind} predicts the most probable class"
        )
    rules = tuple(map(parse_rule, settings.rules)) if settings.rules is not None else ()
    asked = any(rule.chooses for rule in rules) or settings.recalibrate not in (None, "none")
    labelled = list(dict.fromkeys(frame.loc[task.known(frame), "split"]))
    if settings.choose_on not in labelled:
        if asked:
            raise InputError(
                f"thresholds and recalibration are chosen on the split {settings.choose_on!r}, of which the "
                f"predictions have no rows with targets (there is {_listed(labelled)}). Add those predictions, name "
                "another split with --choose_on, or use what was locked before with --locked"
            )
        if settings.rules is None:
            rules = (parse_rule("0.5"),) if decides else ()
        note = f"no rows of the split {settings.choose_on!r}: no threshold was chosen and nothing was recalibrated"
        return Plan(rules, "none", None, (note,))
    notes = []
    others = [split for split in labelled if split != settings.choose_on]
    if settings.choose_on == "test" or not others:
        if settings.optimistic:
            notes.append(
                f"OPTIMISTIC: thresholds and recalibration were chosen on the split {settings.choose_on!r}, which is "
                "the one that is reported"
            )
        elif asked or settings.choose_on != "val":
            raise InputError(
                f"this would choose thresholds on the split {settings.choose_on!r} and report what they give on the "
                "same rows, which is too good. Choose on validation predictions, or say --optimistic true; every such "
                "value is then marked as optimistic"
            )
    if settings.rules is None:
        rules = (parse_rule("0.5"), parse_rule("youden")) if decides else ()
    return Plan(rules, settings.recalibrate or "temperature", settings.choose_on, tuple(notes))


def plan_groups(frame: pd.DataFrame, task: Task, settings: Settings) -> Plan:
    """Decide which rows choose the cut between risk groups; the median risk asks for no outcome.

    Raises:
        InputError: another split than val is asked for that has no rows.
    """
    labelled = list(dict.fromkeys(frame.loc[task.known(frame), "split"]))
    if parse_cut(settings.risk_cut):
        return Plan((), "none", None)
    if settings.choose_on in labelled:
        return Plan((), "none", settings.choose_on)
    if settings.choose_on != "val":
        raise InputError(
            f"the cut of the risk groups is chosen on the split {settings.choose_on!r}, of which the predictions have "
            f"no rows with targets (there is {_listed(labelled)})"
        )
    return Plan((), "none", None)


def _listed(splits: Sequence[str]) -> str:
    return ", ".join(repr(split) if split else "a table without splits" for split in splits) or "none at all"
