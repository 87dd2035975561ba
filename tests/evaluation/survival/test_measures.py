"""Metrics of survival: equal to plain twins and to the libraries of the field, and weighted as the bootstrap needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.survival.basis import Basis, Outcomes, curve_times
from medsoft.evaluation.survival.concordance import Pairs, concordance
from medsoft.evaluation.survival.measures import Survived, why_undefined
from medsoft.evaluation.survival.product_limit import ProductLimit, kaplan_meier
from tests.builders.survival_tables import TIMES, outcomes, survival_of

RECORDED = Path(__file__).with_name("scikit_survival.json")
TAU = 15.0


def values_of(rows: Outcomes, x: np.ndarray, training: Outcomes | None = None, weights: np.ndarray | None = None):
    basis = Basis.of(rows, training, times=TIMES, tau=TAU)
    survived = Survived(rows, x, survival_of(x), np.arange(len(rows)), basis)
    return {key: value[0] for key, value in survived(np.ones((1, len(rows))) if weights is None else weights).items()}


def plain_concordance(rows: Outcomes, risk: np.ndarray, weight: np.ndarray) -> float:
    """All pairs, one by one."""
    right = total = 0.0
    for i in np.flatnonzero(rows.event):
        for j in range(len(rows)):
            later = rows.time[j] > rows.time[i] or (rows.time[j] == rows.time[i] and not rows.event[j])
            if later:
                total += weight[i] * weight[j]
                right += weight[i] * weight[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return right / total if total else np.nan


def sksurv_values(rows: Outcomes, x: np.ndarray, training: Outcomes | None) -> dict[str, list[float]]:
    metrics = pytest.importorskip("sksurv.metrics")
    util = pytest.importorskip("sksurv.util")
    test = util.Surv.from_arrays(rows.event, rows.time)
    train = test if training is None else util.Surv.from_arrays(training.event, training.time)
    survival = np.stack([survival_of(x)[time] for time in TIMES], axis=1)
    return {
        "c_index": [float(metrics.concordance_index_censored(rows.event, rows.time, x)[0])],
        "uno_c": [float(metrics.concordance_index_ipcw(train, test, x, tau=TAU)[0])],
        "auc_at": metrics.cumulative_dynamic_auc(train, test, x, TIMES)[0].tolist(),
        "brier_at": metrics.brier_score(train, test, survival, TIMES)[1].tolist(),
        "integrated_brier": [float(metrics.integrated_brier_score(train, test, survival, TIMES))],
    }


CASES = [(seed, whole, trained) for seed in (0, 1) for whole in (False, True) for trained in (False, True)]


def case(seed: int, whole: bool, trained: bool) -> tuple[Outcomes, np.ndarray, Outcomes | None]:
    rows, x = outcomes(80, seed, whole)
    return rows, x, outcomes(150, seed + 100, whole)[0] if trained else None


def assert_equal_values(found: dict[Key, float], known: dict[str, list[float]]) -> None:
    for name, values in known.items():
        mine = [value for key, value in found.items() if key.metric == name]
        np.testing.assert_allclose(mine, values, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("at", range(4))
def test_values_are_those_that_scikit_survival_gave(at: int) -> None:
    """The file has its tables too, of which half have ties and half a training part."""
    known = json.loads(RECORDED.read_text(encoding="utf-8"))["cases"][at]
    rows = Outcomes(np.array(known["time"]), np.array(known["event"], bool))
    training = None
    if "training_time" in known:
        training = Outcomes(np.array(known["training_time"]), np.array(known["training_event"], bool))
    assert_equal_values(values_of(rows, np.array(known["x"]), training), known["values"])


@pytest.mark.parametrize(("seed", "whole", "trained"), CASES)
def test_values_are_those_of_the_scikit_survival_that_is_installed(seed: int, whole: bool, trained: bool) -> None:
    rows, x, training = case(seed, whole, trained)
    assert_equal_values(values_of(rows, x, training), sksurv_values(rows, x, training))


@pytest.mark.parametrize("whole", [False, True])
def test_the_c_index_and_the_survival_curve_are_those_of_lifelines(whole: bool) -> None:
    lifelines = pytest.importorskip("lifelines")
    rows, x = outcomes(90, 3, whole)
    known = lifelines.utils.concordance_index(rows.time, -x, rows.event)
    assert values_of(rows, x)[Key("c_index")] == pytest.approx(known, abs=1e-12)
    fitter = lifelines.KaplanMeierFitter().fit(rows.time, rows.event)
    curve = kaplan_meier(rows.time, rows.event)
    of_them = fitter.survival_function_.iloc[1:, 0].to_numpy()
    np.testing.assert_allclose(curve.survival, of_them, atol=1e-12)
    ends = fitter.confidence_interval_survival_function_.iloc[1:].to_numpy()
    inside = np.isfinite(curve.low)
    np.testing.assert_allclose(np.stack([curve.low, curve.high], 1)[inside], ends[inside], atol=1e-9)


TABLES = st.lists(
    st.tuples(st.integers(1, 6), st.booleans(), st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=24
)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_weights_count_rows_and_every_pair_is_found_once(table) -> None:
    time, event, risk, weight = (np.array(column, dtype=float) for column in zip(*table, strict=True))
    rows = Outcomes(time, event.astype(bool))
    pairs = Pairs(rows.time, rows.event, risk)
    weighted = concordance(weight[pairs.events][:, None], *pairs.sums(weight[:, None]))[0]
    assert weighted == pytest.approx(plain_concordance(rows, risk, weight), abs=1e-12, nan_ok=True)
    again = np.repeat(np.arange(len(time)), weight.astype(int))
    if len(again):
        repeated = Pairs(time[again], rows.event[again], risk[again])
        ones = np.ones((len(again), 1))
        plain = concordance(ones[repeated.events], *repeated.sums(ones))[0]
        assert weighted == pytest.approx(plain, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("trained", [False, True])
def test_all_metrics_of_weighted_rows_are_those_of_repeated_rows(trained: bool) -> None:
    rows, x = outcomes(60, 5, whole=True)
    training = outcomes(90, 6, whole=True)[0] if trained else None
    weights = np.random.default_rng(0).integers(0, 4, size=len(rows)).astype(float)
    again = np.repeat(np.arange(len(rows)), weights.astype(int))
    weighted = values_of(rows, x, training, weights[None])
    repeated = values_of(Outcomes(rows.time[again], rows.event[again]), x[again], training)
    assert weighted.keys() == repeated.keys()
    for key, value in repeated.items():
        assert weighted[key] == pytest.approx(value, abs=1e-12), key


def test_a_draw_takes_a_unit_with_all_of_its_rows() -> None:
    rows, x = outcomes(40, 7)
    unit = np.arange(40) // 2
    basis = Basis.of(rows, times=TIMES, tau=TAU)
    counts = np.random.default_rng(1).integers(0, 3, size=(3, 20)).astype(float)
    by_unit = Survived(rows, x, survival_of(x), unit, basis)(counts)
    by_row = Survived(rows, x, survival_of(x), np.arange(40), basis)(counts[:, unit])
    for key, value in by_row.items():
        np.testing.assert_allclose(by_unit[key], value, atol=1e-12)


def test_who_knows_the_hazards_is_near_one_and_not_near_one_minus_it() -> None:
    rows, x = outcomes(800, 8)
    known = values_of(rows, x)
    assert known[Key("c_index")] > 0.7
    assert known[Key("uno_c")] > 0.7
    assert known[Key("auc_at", time=5.0)] > 0.7
    backwards = Survived(rows, -x, {}, np.arange(800), Basis.of(rows, times=TIMES, tau=TAU))(np.ones((1, 800)))
    for key, value in backwards.items():
        assert value[0] == pytest.approx(1 - known[key], abs=1e-12), key


def test_only_the_order_of_risks_counts() -> None:
    rows, x = outcomes(60, 9, whole=True)
    ones, basis = np.ones((1, 60)), Basis.of(rows, times=TIMES, tau=TAU)
    plain = Survived(rows, x, {}, np.arange(60), basis)(ones)
    other = Survived(rows, np.exp(3 * x) - 7, {}, np.arange(60), basis)(ones)
    for key, value in plain.items():
        assert other[key][0] == pytest.approx(value[0], abs=1e-12)


def test_without_censoring_they_are_the_plain_metrics() -> None:
    rows, x = outcomes(70, 10)
    whole = Outcomes(rows.time, np.ones(70, bool))
    found, survival = values_of(whole, x), survival_of(x)
    assert found[Key("uno_c")] > 0.5
    for time in TIMES:
        happened = rows.time <= time
        assert found[Key("auc_at", time=time)] == pytest.approx(roc_auc_score(happened, x), abs=1e-12)
        squared = float(np.mean((~happened - survival[time]) ** 2))
        assert found[Key("brier_at", time=time)] == pytest.approx(squared, abs=1e-12)
        ratio = happened.mean() / (1 - survival[time]).mean()
        assert found[Key("oe_at", time=time)] == pytest.approx(ratio, abs=1e-12)


def test_censoring_comes_after_the_events_of_its_time() -> None:
    rows = ProductLimit(np.array([1.0, 1.0, 2.0, 3.0]), np.array([True, False, True, False]))
    ones = np.ones((4, 1))
    np.testing.assert_allclose(rows.survival(ones)[:, 0], [3 / 4, 3 / 8, 3 / 8])
    np.testing.assert_allclose(rows.censoring(ones)[:, 0], [2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(rows.at(rows.censoring(ones), [0.5, 1.0, 2.5])[:, 0], [1, 2 / 3, 2 / 3])


def test_what_rows_cannot_give_is_undefined_with_its_reason() -> None:
    x = np.arange(4.0)
    censored = Outcomes(np.arange(1.0, 5.0), np.zeros(4, bool))
    basis = Basis.of(censored, times=TIMES, tau=TAU)
    values = Survived(censored, x, survival_of(x), np.arange(4), basis)(np.ones((1, 4)))
    assert np.isnan(values[Key("c_index")][0])
    assert why_undefined(Key("c_index"), censored, basis) == "no event: there is no pair to compare"
    together = Outcomes(np.full(4, 9.0), np.ones(4, bool))
    basis = Basis.of(together, times=(2.0, 9.0), tau=9.0)
    values = Survived(together, x, survival_of(x, (9.0,)), np.arange(4), basis)(np.ones((1, 4)))
    reasons = {key: why_undefined(key, together, basis) for key, value in values.items() if np.isnan(value[0])}
    assert reasons[Key("c_index")].startswith("no two samples can be compared")
    assert reasons[Key("uno_c")] == "no event before tau = 9"
    assert reasons[Key("auc_at", time=2.0)] == "no event by 2"
    assert reasons[Key("auc_at", time=9.0)] == "nobody is followed beyond 9"
    assert reasons[Key("brier_at", time=9.0)] == "nobody is followed beyond 9"


def test_a_training_part_that_ends_early_says_nothing_of_later_times() -> None:
    rows, x = outcomes(60, 11)
    short = Outcomes(np.array([1.0, 2.0, 3.0, 3.0]), np.array([True, False, True, True]))
    basis = Basis.of(rows, short, times=TIMES)
    assert basis.tau <= 3.0, "nobody of the training part was followed longer"
    values = Survived(rows, x, survival_of(x), np.arange(60), basis)(np.ones((1, 60)))
    assert np.isfinite(values[Key("brier_at", time=2.0)][0])
    assert np.isnan(values[Key("brier_at", time=5.0)][0])
    assert "training part" in why_undefined(Key("brier_at", time=5.0), rows, basis)
    assert "training part" in basis.said("days")


def test_what_nobody_stated_is_decided_by_the_rows_and_said() -> None:
    rows = Outcomes(np.arange(1.0, 101.0), np.arange(100) % 2 == 0)
    basis = Basis.of(rows)
    assert (rows.time >= basis.tau).sum() >= 10
    assert basis.times == (25.0, 49.0, 75.0)
    assert "these rows" in basis.said("")
    assert f"tau = {basis.tau:g}" in basis.said("")
    assert "(stated)" in Basis.of(rows, tau=3.0).said("days")
    assert "tau = 3 days" in Basis.of(rows, tau=3.0).said("days")
    times = curve_times(rows)
    assert times[0] >= 1
    assert times[-1] < 100
    assert (np.diff(times) > 0).all()
