"""Groups by risk, whose cut is locked before their outcomes are looked at; their survival and the log-rank test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from medsoft.errors import InputError
from medsoft.evaluation.survival.basis import Outcomes
from medsoft.evaluation.survival.product_limit import KaplanMeier, ProductLimit, kaplan_meier

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

MEDIAN, STATED = "median", "stated"
NAMES = {2: ("low risk", "high risk"), 3: ("low risk", "medium risk", "high risk")}
MOST_CUTS = 4
"""More curves than five cannot be told apart."""


@dataclass(frozen=True)
class RiskCut:
    """Where risk groups end.

    Attributes:
        values: rising; who has a larger risk belongs to the next group.
        rule: ``median`` or ``stated``.
        split: whose median it is; "" for stated ones.
        n: of how many rows.
    """

    values: tuple[float, ...]
    rule: str
    split: str = ""
    n: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups, the lowest risk first."""
        groups = len(self.values) + 1
        return NAMES.get(groups, tuple(f"risk group {group}" for group in range(1, groups + 1)))

    def group(self, risk_N: FloatArray) -> IntArray:
        """(N,) index of each row's group."""
        return np.searchsorted(np.asarray(self.values), risk_N, side="left")

    @property
    def said(self) -> str:
        """Such as ``cut at 0.123, the median risk of 'val' (200 rows)``."""
        values = " and ".join(f"{value:.4g}" for value in self.values)
        if self.rule == STATED:
            return f"cut at {values}, stated beforehand"
        return f"cut at {values}, the median risk of {self.split!r} ({self.n} rows)"

    def require_sound(self) -> None:
        """Check that this can be.

        Raises:
            ValueError: says what cannot be.
        """
        numbers = [isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v) for v in self.values]
        if not self.values or not all(numbers) or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"a cut of risk groups at {self.values!r}, which must be rising numbers")
        if self.rule not in (MEDIAN, STATED) or not isinstance(self.n, int) or self.n < 0:
            raise ValueError(f"a cut of risk groups by {self.rule!r} of {self.n!r} rows")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"values": list(self.values)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> RiskCut:
        """What ``to_json`` wrote."""
        return RiskCut(tuple(values["values"]), values["rule"], values["split"], values["n"])


def parse_cut(text: str) -> tuple[float, ...]:
    """The numbers of ``--risk_cut``: none for ``median``, else one to four that rise.

    Raises:
        InputError: it is neither.
    """
    words = [word.strip() for word in text.split(",")]
    if words == [MEDIAN]:
        return ()
    try:
        values = tuple(map(float, words))
    except ValueError:
        raise InputError(f"risk_cut {text!r}: median, or numbers between the groups such as -0.5,0.5") from None
    if len(values) > MOST_CUTS or not all(map(np.isfinite, values)) or list(values) != sorted(set(values)):
        raise InputError(f"risk_cut {text!r}: one to {MOST_CUTS} different numbers, the lowest first")
    return values


def choose_cut(risk_N: FloatArray, split: str, text: str = MEDIAN) -> RiskCut | None:
    """The cut as stated, or at the median risk; None where there is no row to take a median of.

    Args:
        risk_N: (N,) risks of the rows that choose.
        split: what they are called.
        text: of ``parse_cut``.
    """
    if stated := parse_cut(text):
        return RiskCut(stated, STATED)
    return RiskCut((float(np.median(risk_N)),), MEDIAN, split, len(risk_N)) if len(risk_N) else None


@dataclass(frozen=True, eq=False)
class LogRank:
    """The log-rank test: whether groups have the same hazard.

    Attributes:
        chi2: statistic; None where there is no test.
        freedom: its degrees of freedom.
        p: of the chi-squared distribution.
        note: why there is no test.
    """

    chi2: float | None
    freedom: int
    p: float | None
    note: str = ""

    @property
    def said(self) -> str:
        """In words."""
        if self.p is None:
            return f"no log-rank test: {self.note}"
        p = "< 0.0001" if self.p < 1e-4 else f"= {self.p:.2g}"
        return f"log-rank p {p} (χ² {self.chi2:.4g}, {self.freedom} df)"


def log_rank(outcomes: Outcomes, group_N: IntArray, clustered: bool = False) -> LogRank:
    """Compare observed and expected events of groups.

    (N. Mantel, Cancer Chemotherapy Reports 50, 1966; the covariance for ties is hypergeometric.)

    Args:
        outcomes: of N rows.
        group_N: (N,) index of each row's group, from 0.
        clustered: whether a patient has several rows, which the test would take for independent.
    """
    present, group = np.unique(group_N, return_inverse=True)
    freedom = len(present) - 1
    if clustered:
        return LogRank(None, freedom, None, "a patient has several rows, which it would take as independent")
    if freedom < 1:
        return LogRank(None, freedom, None, "all rows are in one group")
    if not outcomes.event.any():
        return LogRank(None, freedom, None, "no event")
    events, _, at_risk = ProductLimit(outcomes.time, outcomes.event).counts(np.eye(len(present))[group])
    all_events, all_risk = events.sum(axis=1), at_risk.sum(axis=1)
    share = at_risk / all_risk[:, None]
    apart = (events - share * all_events[:, None]).sum(axis=0)
    several = all_risk > 1
    factor = np.where(several, all_events * (all_risk - all_events) / np.where(several, all_risk - 1, 1), 0.0)
    covariance = np.diag((factor[:, None] * share).sum(axis=0)) - (factor[:, None] * share).T @ share
    # One group follows from the others.
    if np.linalg.matrix_rank(covariance[:-1, :-1]) < freedom:
        return LogRank(None, freedom, None, "the groups are never at risk together when an event happens")
    statistic = float(apart[:-1] @ np.linalg.solve(covariance[:-1, :-1], apart[:-1]))
    return LogRank(statistic, freedom, float(chi2.sf(statistic, freedom)))


@dataclass(frozen=True, eq=False)
class RiskGroup:
    """One group.

    Attributes:
        name: such as ``high risk``.
        n: rows.
        events: of them.
        curve: survival; None without rows.
        at_risk: how many are at risk just before each of the times of ``RiskGroups.times``.
    """

    name: str
    n: int
    events: int
    curve: KaplanMeier | None
    at_risk: tuple[int, ...]

    @property
    def median(self) -> float | None:
        """The first time at which at most half are without the event; None where that is not reached."""
        if self.curve is None or self.curve.survival[-1] > 0.5:
            return None
        return float(self.curve.time[np.argmax(self.curve.survival <= 0.5)])


@dataclass(frozen=True, eq=False)
class RiskGroups:
    """All groups of a part, with the test between them.

    Attributes:
        cut: which rows belong where.
        groups: the lowest risk first.
        test: of no difference.
        times: of the numbers at risk.
        note: on the cut; "" where it was chosen on other rows.
    """

    cut: RiskCut
    groups: tuple[RiskGroup, ...]
    test: LogRank
    times: tuple[float, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the curves."""
        about = [
            {"name": g.name, "n": g.n, "events": g.events, "median": g.median, "at_risk": list(g.at_risk)}
            for g in self.groups
        ]
        return {
            "cut": self.cut.to_json(),
            "note": self.note,
            "times": list(self.times),
            "groups": about,
            "log_rank": {"chi2": self.test.chi2, "df": self.test.freedom, "p": self.test.p, "note": self.test.note},
        }

    def rows(self) -> list[dict[str, Any]]:
        """The curves, a line a group and time."""
        found: list[dict[str, Any]] = []
        for group in self.groups:
            if group.curve is None:
                continue
            columns = zip(*group.curve, strict=True)
            for time, survival, low, high, censored in columns:
                ends = {"low": None if np.isnan(low) else low, "high": None if np.isnan(high) else high}
                about = {"group": group.name, "time": time, "surviving": survival}
                found.append(about | ends | {"censored": int(censored)})
        return found


def risk_groups(
    outcomes: Outcomes, risk_N: FloatArray, cut: RiskCut, clustered: bool, confidence: float, note: str = ""
) -> RiskGroups:
    """Survival of the groups.

    Args:
        outcomes: of N rows, at least one.
        risk_N: (N,) larger is worse.
        cut: locked before.
        clustered: whether a patient has several rows.
        confidence: of the intervals.
        note: on the cut.
    """
    group_N = cut.group(risk_N)
    times = round_times(float(outcomes.time.max()))
    groups = []
    for index, name in enumerate(cut.names):
        rows = group_N == index
        time, event = outcomes.time[rows], outcomes.event[rows]
        curve = kaplan_meier(time, event, confidence) if rows.any() else None
        at_risk = tuple(int((time >= at).sum()) for at in times)
        groups.append(RiskGroup(name, int(rows.sum()), int(event.sum()), curve, at_risk))
    return RiskGroups(cut, tuple(groups), log_rank(outcomes, group_N, clustered), times, note)


def round_times(last: float, most: int = 6) -> tuple[float, ...]:
    """At most so many round times from 0 up to the last."""
    rough = last / (most - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    steps: Sequence[float] = (1, 2, 2.5, 5, 10)
    step = next(power * factor for factor in steps if power * factor >= rough * 0.999999)
    return tuple(float(f"{step * k:.10g}") for k in range(int(last / step * 1.0000001) + 1))
