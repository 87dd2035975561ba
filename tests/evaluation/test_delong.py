"""DeLong's variance: against all pairs, a published example, SciPy, and for clusters a long-hand computation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from medsoft.evaluation.intervals.delong import delong, placements


def plain_placements(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a positive and a negative row: O(n²)."""
    above = []
    for row in np.atleast_2d(scores):
        positive, negative = row[truth][:, None], row[~truth][None, :]
        above.append((positive > negative) + 0.5 * (positive == negative))
    return np.stack([pairs.mean(axis=1) for pairs in above]), np.stack([pairs.mean(axis=0) for pairs in above])


def plain_covariance(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    positive, negative = plain_placements(truth, scores)
    return np.cov(positive) / positive.shape[1] + np.cov(negative) / negative.shape[1]


def clustered_variance(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> float:
    """Obuchowski (1997), equations as printed, patient by patient."""
    v10, v01 = (part[0] for part in plain_placements(truth, score))
    auroc, n_positive, n_negative = v10.mean(), truth.sum(), (~truth).sum()
    s10 = s01 = s11 = 0.0
    with_positive = with_negative = 0
    patients = np.unique(patient)
    for name in patients:
        a = v10[patient[truth] == name] - auroc
        b = v01[patient[~truth] == name] - auroc
        with_positive += len(a) > 0
        with_negative += len(b) > 0
        s10 += a.sum() ** 2
        s01 += b.sum() ** 2
        s11 += a.sum() * b.sum()
    s10 *= with_positive / ((with_positive - 1) * n_positive)
    s01 *= with_negative / ((with_negative - 1) * n_negative)
    s11 *= len(patients) / (len(patients) - 1)
    return float(s10 / n_positive + s01 / n_negative + 2 * s11 / (n_positive * n_negative))


tied = st.lists(st.integers(0, 6), min_size=8, max_size=40)


@given(tied, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_fast_form_is_the_plain_one(values: list[int], random) -> None:
    first = np.array(values, dtype=float)
    second = np.array([random.randrange(5) + 0.5 * value for value in values])
    truth = np.array([random.random() < 0.5 for _ in values])
    truth[:4] = [True, True, False, False]
    scores = np.stack([first, second])
    result = delong(truth, scores)
    for ours, plain in zip(placements(truth, scores), plain_placements(truth, scores), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-12)
    np.testing.assert_allclose(result.covariance, plain_covariance(truth, scores), atol=1e-12)
    assert result.auroc[0] == pytest.approx(roc_auc_score(truth, first), abs=1e-12)
    u = mannwhitneyu(first[truth], first[~truth]).statistic
    assert result.auroc[0] == pytest.approx(u / (truth.sum() * (~truth).sum()), abs=1e-12)


def test_published_ratings_of_ct_images() -> None:
    """Hanley and McNeil (1982), 109 CT images in five ratings; Stata's manual of ``roctab`` gives DeLong's figures."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    score = np.repeat([1, 2, 3, 4, 5] * 2, normal + abnormal)
    truth = np.repeat([False, True], [sum(normal), sum(abnormal)])
    result = delong(truth, score)
    assert result.auroc[0] == pytest.approx(0.8932, abs=5e-5)
    error = np.sqrt(result.covariance[0, 0])
    assert error == pytest.approx(0.0307, abs=5e-5)
    assert result.auroc[0] - 1.959964 * error == pytest.approx(0.83295, abs=5e-6)
    assert result.auroc[0] + 1.959964 * error == pytest.approx(0.95339, abs=5e-6)
    low, high = result.interval()
    assert low < 0.83295 < high < 0.95339  # on the logit scale the interval lies lower


def test_small_example_by_hand() -> None:
    # Positives 0.9, 0.4 lie above 2 and 1 of the negatives 0.6, 0.1: V10 = 1, 1/2; V01 = 1/2, 1.
    result = delong([1, 1, 0, 0], [0.9, 0.4, 0.6, 0.1])
    assert result.auroc[0] == 0.75
    assert result.covariance[0, 0] == pytest.approx(0.125 / 2 + 0.125 / 2)


def clustered_rows(seed: int, n_patients: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 6, n_patients))
    truth = rng.random(len(patient)) < 0.4
    truth[:2], truth[-2:] = [True, False], [False, True]
    score = truth + rng.normal(size=n_patients)[patient] + rng.normal(size=len(patient))
    return truth, score.round(1), patient


@pytest.mark.parametrize("seed", range(5))
def test_the_clustered_form_is_the_one_in_print(seed: int) -> None:
    truth, score, patient = clustered_rows(seed)
    result = delong(truth, score, patient)
    assert result.clustered
    assert result.covariance[0, 0] == pytest.approx(clustered_variance(truth, score, patient), abs=1e-12)


def test_one_row_a_patient_is_the_plain_form_and_names_do_not_matter() -> None:
    truth, score, patient = clustered_rows(0)
    plain = delong(truth, score)
    single = delong(truth, score, [f"P{i}" for i in range(len(truth))])
    assert not single.clustered
    assert single.covariance == plain.covariance
    named = delong(truth, score, [f"patient {9 - i % 10}{i}" for i in patient])
    np.testing.assert_allclose(named.covariance, delong(truth, score, patient).covariance)


def test_every_row_twice_counts_as_one_with_patients_and_as_two_without() -> None:
    truth, score, _ = clustered_rows(1)
    twice = np.repeat(np.arange(len(truth)), 2)
    clustered = delong(truth[twice], score[twice], twice)
    assert clustered.covariance[0, 0] == pytest.approx(delong(truth, score).covariance[0, 0], rel=1e-12)
    assert delong(truth[twice], score[twice]).covariance[0, 0] < 0.6 * clustered.covariance[0, 0]


def test_the_difference_of_two_scores() -> None:
    truth, score, patient = clustered_rows(2)
    other = score + np.random.default_rng(0).normal(size=len(score))
    for owners in (None, patient):
        result = delong(truth, np.stack([score, other]), owners)
        value, error = result.difference()
        assert value == pytest.approx(roc_auc_score(truth, score) - roc_auc_score(truth, other))
        variances = result.covariance[0, 0] + result.covariance[1, 1] - 2 * result.covariance[0, 1]
        assert error == pytest.approx(np.sqrt(variances))
    value, error = delong(truth, np.stack([score, score]), patient).difference()
    assert value == 0
    assert error == pytest.approx(0, abs=1e-9)


def test_what_has_no_variance_has_no_interval() -> None:
    perfect = delong([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert perfect.auroc[0] == 1
    assert perfect.interval() is None
    assert delong([0, 0, 0, 1], [0.1, 0.5, 0.2, 0.3]).interval() is None  # one positive
    # Two positives of one patient are one positive patient.
    assert delong([0, 0, 0, 1, 1], [0.1, 0.5, 0.2, 0.3, 0.15], [1, 2, 3, 4, 4]).interval() is None


@given(st.floats(0.5, 0.999))
@settings(max_examples=20, deadline=None)
def test_the_interval_is_wider_with_more_confidence_and_holds_the_value(confidence: float) -> None:
    truth, score, patient = clustered_rows(3)
    result = delong(truth, score, patient)
    low, high = result.interval(confidence)
    assert 0 < low < result.auroc[0] < high < 1
    wider = result.interval(confidence + 0.0005)
    assert wider[0] < low < high < wider[1]


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="with and without"):
        delong([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="2 rows, but scores of shape"):
        delong([1, 0], [0.1, 0.2, 0.3])


def test_a_hundred_thousand_rows_take_no_square() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(100_000) < 0.3
    score = truth + rng.normal(size=len(truth))
    result = delong(truth, score, np.arange(len(truth)) // 3)  # all pairs would be 2.1 thousand million
    assert result.interval()[1] - result.interval()[0] < 0.02
