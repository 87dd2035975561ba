"""Risk groups: where the cut comes from, the curves, the numbers at risk and the log-rank test."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medsoft.errors import InputError
from medsoft.evaluation.survival.basis import Outcomes
from medsoft.evaluation.survival.calibration import calibration_at
from medsoft.evaluation.survival.product_limit import kaplan_meier
from medsoft.evaluation.survival.risk_groups import (
    RiskCut,
    choose_cut,
    log_rank,
    parse_cut,
    risk_groups,
    round_times,
)
from tests.builders.survival_tables import outcomes, survival_of

# Freireich et al. 1963: weeks of remission, 6-MP against placebo (Cox and Oakes 1984, table 1.1).
TREATED = ([6, 6, 6, 7, 10, 13, 16, 22, 23], [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35])
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def remission() -> tuple[Outcomes, np.ndarray]:
    happened, censored = TREATED
    time = np.array([*happened, *censored, *PLACEBO], float)
    event = np.array([1] * len(happened) + [0] * len(censored) + [1] * len(PLACEBO), bool)
    return Outcomes(time, event), np.repeat([0, 1], [21, 21])


def test_the_log_rank_test_is_that_of_the_textbooks() -> None:
    rows, group = remission()
    found = log_rank(rows, group)
    assert found.chi2 == pytest.approx(16.79, abs=0.005), "as published of these data"
    assert found.freedom == 1
    assert found.p == pytest.approx(4.17e-5, rel=0.01)
    assert found.said == "log-rank p < 0.0001 (χ² 16.79, 1 df)"


@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize("whole", [False, True])
def test_the_log_rank_test_is_that_of_lifelines(groups: int, whole: bool) -> None:
    statistics = pytest.importorskip("lifelines.statistics")
    rows, x = outcomes(90, 1, whole)
    group = np.searchsorted(np.quantile(x, np.arange(1, groups) / groups), x)
    known = statistics.multivariate_logrank_test(rows.time, group, rows.event)
    found = log_rank(rows, group)
    assert found.chi2 == pytest.approx(known.test_statistic, rel=1e-9)
    assert found.p == pytest.approx(known.p_value, rel=1e-7)


def test_the_curve_and_its_interval_are_greenwoods() -> None:
    happened, censored = TREATED
    time = np.array([*happened, *censored], float)
    curve = kaplan_meier(time, np.arange(21) < 9)
    survival, low, high = curve.at(10.0)
    assert survival == pytest.approx(0.7529, abs=5e-5), "as published of these data"
    # By hand: the sum of d / (n (n - d)) over 6, 7 and 10 weeks, on the scale of log(-log S).
    spread = np.sqrt(3 / (21 * 18) + 1 / (17 * 16) + 1 / (15 * 14))
    half = 1.959964 * spread / -np.log(survival)
    assert (low, high) == pytest.approx((survival ** np.exp(half), survival ** np.exp(-half)), abs=1e-6)
    assert curve.at(1.0) == (1.0, None, None)
    assert curve.at(36.0) == (None, None, None), "nobody was followed that long"


@pytest.mark.parametrize(
    ("rows", "group", "said"),
    [
        (outcomes(20)[0], np.zeros(20, int), "all rows are in one group"),
        (Outcomes(np.arange(1.0, 5.0), np.zeros(4, bool)), np.array([0, 0, 1, 1]), "no event"),
        (Outcomes(np.array([1.0, 2.0, 9.0]), np.array([0, 0, 1], bool)), np.array([0, 0, 1]), "never at risk together"),
    ],
)
def test_there_is_no_test_where_nothing_can_be_compared(rows: Outcomes, group: np.ndarray, said: str) -> None:
    found = log_rank(rows, group)
    assert found.p is None
    assert said in found.said


def test_rows_of_one_patient_are_not_tested_as_if_they_were_independent() -> None:
    rows, x = outcomes(40)
    assert log_rank(rows, (x > 0).astype(int), clustered=True).p is None


def test_the_cut_is_the_median_of_other_rows_or_stated_and_can_be_read_back() -> None:
    risk = np.array([0.1, 0.4, 0.2, 9.0])
    cut = choose_cut(risk, "val")
    assert cut == RiskCut((pytest.approx(0.3),), "median", "val", 4)
    assert cut.said == "cut at 0.3, the median risk of 'val' (4 rows)"
    assert cut.group(np.array([0.2, 0.3, 0.4])).tolist() == [0, 0, 1], "who has a larger risk is of the next group"
    assert choose_cut(risk[:0], "val") is None
    stated = choose_cut(risk[:0], "", "-0.5,0.5")
    assert stated is not None
    assert stated.names == ("low risk", "medium risk", "high risk")
    assert stated.said == "cut at -0.5 and 0.5, stated beforehand"
    for one in (cut, stated):
        one.require_sound()
        assert RiskCut.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize("text", ["mean", "", "2,1", "1,1", "nan", "1,2,3,4,5"])
def test_a_cut_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="risk_cut"):
        parse_cut(text)


@pytest.mark.parametrize("values", [(), (float("nan"),), (2.0, 1.0), ("a",), (True,)])
def test_a_locked_cut_that_cannot_be_is_refused(values) -> None:
    with pytest.raises(ValueError, match="rising numbers"):
        RiskCut(values, "median").require_sound()


def test_numbers_at_risk_are_those_still_followed() -> None:
    rows, x = outcomes(60, 2)
    found = risk_groups(rows, x, RiskCut((0.0,), "stated"), False, 0.95)
    assert found.times[0] == 0
    assert [group.at_risk[0] for group in found.groups] == [group.n for group in found.groups]
    for index, group in enumerate(found.groups):
        mine = rows.time[(x > 0) == index]
        assert group.at_risk == tuple(int((mine >= time).sum()) for time in found.times)
    assert found.groups[1].median is not None
    assert found.groups[1].median < 10
    lines = found.rows()
    assert {line["group"] for line in lines} == {"low risk", "high risk"}
    assert all(line["low"] is None or line["low"] <= line["surviving"] <= line["high"] for line in lines)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_group_without_rows_has_no_curve() -> None:
    rows, x = outcomes(30, 2)
    found = risk_groups(rows, x, RiskCut((99.0,), "stated"), False, 0.95)
    assert found.groups[1].curve is None
    assert found.groups[1].n == 0
    assert found.groups[1].median is None
    assert found.test.p is None


@pytest.mark.parametrize("last", [0.03, 0.9, 7.0, 84.0, 355.2, 1000.0, 18340.0])
def test_times_of_the_axis_are_round_and_reach_the_end(last: float) -> None:
    times = round_times(last)
    assert times[0] == 0
    assert len(times) <= 7
    assert times[-1] <= last < times[-1] + (times[1] - times[0]) * 1.000001
    assert all(len(f"{time:g}".replace(".", "").strip("0")) <= 3 for time in times)


def test_calibration_sets_predictions_against_what_happened() -> None:
    rows, x = outcomes(600, 4)
    right = calibration_at(5.0, survival_of(x)[5.0], rows)
    assert sum(group.n for group in right.groups) == 600
    assert len(right.groups) == 10
    assert [group.predicted for group in right.groups] == sorted(group.predicted for group in right.groups)
    covered = [g.low <= g.predicted <= g.high for g in right.groups if g.low is not None and g.high is not None]
    assert sum(covered) >= 8
    too_low = calibration_at(5.0, survival_of(x - 1)[5.0], rows)
    assert right.error < 0.06 < too_low.error
    few = calibration_at(5.0, np.full(20, 0.5), outcomes(20)[0])
    assert [group.n for group in few.groups] == [20], "equal predictions are one group"
    beyond = calibration_at(99.0, survival_of(x)[5.0], rows)
    assert (beyond.groups[0].observed, beyond.error) == (None, None), "nobody was followed that long"
