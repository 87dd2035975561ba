"""The bootstrap: patients as its unit, strata only where labels are constant, the same numbers for the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from medsoft.evaluation.intervals import bootstrap
from medsoft.evaluation.intervals.bootstrap import draws, make_units, patients_of, percentile_interval, resample
from medsoft.evaluation.metrics.ranking import Ranking, auroc, average_precision, sensitivity_at


def all_draws(units, n_draws=50, seed=0):
    return np.concatenate(list(draws(units, n_draws, seed)))


def test_a_row_without_a_patient_stands_for_itself() -> None:
    frame = pd.DataFrame({"id": list("abcde"), "patient": ["B", "", "A", "B", ""]})
    assert patients_of(frame).tolist() == [0, 1, 2, 0, 3]
    # A patient that bears a sample's name is another one.
    assert patients_of(pd.DataFrame({"id": ["a", "b"], "patient": ["b", ""]})).tolist() == [0, 1]
    # The same sample in two folds is one.
    assert patients_of(pd.DataFrame({"id": ["a", "a"], "patient": ["", ""]})).tolist() == [0, 0]


def test_a_patient_brings_all_of_his_rows() -> None:
    units = make_units(np.array([0, 0, 1, 2, 2, 2]))
    assert units.clustered
    counts = all_draws(units)
    assert counts.shape == (50, 3)
    assert (counts.sum(axis=1) == 3).all()
    rows = counts[:, units.of_row]
    assert (rows[:, 0] == rows[:, 1]).all()
    assert (rows[:, 3] == rows[:, 5]).all()


def test_strata_where_every_label_is_constant_and_only_there() -> None:
    patient = np.array([0, 0, 1, 2, 3, 3, 4])
    constant = np.array([1, 1, 0, 0, 1, 1, 0])
    units = make_units(patient, constant)
    assert units.stratified
    counts = all_draws(units)
    assert (counts[:, [0, 3]].sum(axis=1) == 2).all()
    assert (counts[:, [1, 2, 4]].sum(axis=1) == 3).all()
    mixed = constant.copy()
    mixed[1] = 0
    units = make_units(patient, mixed)
    assert not units.stratified
    assert len(set(all_draws(units)[:, [0, 3]].sum(axis=1))) > 1


def test_the_seed_decides_and_the_chunks_do_not(monkeypatch) -> None:
    units = make_units(np.arange(30), np.arange(30) % 3)
    whole = all_draws(units, 200)
    monkeypatch.setattr(bootstrap, "CELLS_AT_ONCE", 100)
    np.testing.assert_array_equal(all_draws(units, 200), whole)
    assert not np.array_equal(all_draws(units, 200, seed=1), whole)


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=80)
    units = make_units(np.arange(80))
    drawn = resample(units, lambda weights: {"mean": weights @ values / weights.sum(axis=1)}, 9000, 0)["mean"]
    ours = percentile_interval(drawn)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9000, method="percentile", random_state=1)
    np.testing.assert_allclose([ours.low, ours.high], theirs.confidence_interval, atol=0.02)


def test_undefined_draws_are_counted_and_too_many_leave_no_interval() -> None:
    values = np.linspace(0, 1, 1000)
    values[:50] = np.nan
    interval = percentile_interval(values)
    assert interval.undefined == 50
    assert interval.low == pytest.approx(np.nanquantile(values, 0.025))
    values[:101] = np.nan
    assert percentile_interval(values)[:3] == (None, None, 101)
    assert "undefined in 101 of 1000 draws" in percentile_interval(values).note
    constant = percentile_interval(np.ones(100))
    assert constant.low is None
    assert "same in every draw" in constant.note


def test_there_is_something_to_draw() -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        resample(make_units(np.array([], dtype=int)), lambda weights: {}, 10, 0)


@pytest.mark.parametrize("digits", [1, 12])
def test_weighted_ranks_are_those_of_scikit_learn_and_of_repeated_rows(digits: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.4
    score = (truth * 0.3 + rng.random(60)).round(digits)  # one digit: many ties
    units = make_units(np.arange(60) // 2)
    counts = all_draws(units, 8)
    ranking = Ranking(truth, score, units.of_row)
    sums = ranking.sums(counts)
    rates = np.array([0, 0.1, 0.5, 1])
    curve = sensitivity_at(sums, rates)
    for draw in range(8):
        rows = np.repeat(np.arange(60), counts[draw][units.of_row].astype(int))
        assert auroc(sums)[draw] == pytest.approx(roc_auc_score(truth[rows], score[rows]), abs=1e-12)
        expected = average_precision_score(truth[rows], score[rows])
        assert average_precision(sums)[draw] == pytest.approx(expected, abs=1e-12)
        x, y, _ = roc_curve(truth[rows], score[rows], drop_intermediate=False)
        for rate, value in zip(rates, curve[draw], strict=True):
            at = y[x <= rate + 1e-12].max()
            assert value >= at - 1e-12
            if digits == 12 and len(np.unique(score[rows])) == len(rows):
                assert value == pytest.approx(at)
        for threshold in (0.0, 0.35, 0.7, 2.0):
            tp, fp, fn, tn = (float(part[draw]) for part in ranking.counts(sums, threshold))
            called = score[rows] >= threshold
            assert (tp, fp) == ((truth[rows] & called).sum(), (~truth[rows] & called).sum())
            assert (fn, tn) == ((truth[rows] & ~called).sum(), (~truth[rows] & ~called).sum())


def test_a_draw_with_one_class_is_undefined() -> None:
    ranking = Ranking(np.array([True, False]), np.array([0.6, 0.4]))
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = ranking.sums(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
        assert np.isnan(auroc(sums)).tolist() == [True, True, False]
        assert np.isnan(average_precision(sums)).tolist() == [True, True, False]
    assert np.isnan(sensitivity_at(sums, np.array([0.5]))[:2]).all()
