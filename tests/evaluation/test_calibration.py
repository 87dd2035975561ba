"""Calibration: against scikit-learn and torchmetrics, exact parts of the Brier score, recalibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from medsoft.errors import InputError
from medsoft.evaluation.metrics.calibration import adaptive_bins, calibrate, top_label_error
from medsoft.evaluation.metrics.ranking import Ranking
from medsoft.evaluation.metrics.recalibration import Recalibration, fit_recalibration
from medsoft.evaluation.metrics.targets import one_against_rest, probabilities, targets
from medsoft.evaluation.metrics.weighted import NET_BENEFIT_THRESHOLDS, net_benefit
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))


def outcomes(p: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(len(p)) < p


def binary(p: np.ndarray, truth: np.ndarray):
    return make_predictions(BINARY, [str(i) for i in range(len(p))], np.stack([1 - p, p], axis=1), truth.astype(int))


def test_bins_are_those_of_scikit_learn() -> None:
    p = np.random.default_rng(0).beta(1, 3, 400)
    truth = outcomes(p)
    result = calibrate(truth, p)
    observed, mean_p = calibration_curve(truth, p, n_bins=10, strategy="quantile")
    assert [bin_.observed for bin_ in result.bins] == pytest.approx(observed)
    assert [bin_.mean_p for bin_ in result.bins] == pytest.approx(mean_p)
    sizes = np.array([bin_.n for bin_ in result.bins])
    assert result.ece == pytest.approx((sizes * np.abs(observed - mean_p)).sum() / 400)
    assert set(sizes) == {40}


def test_equal_width_bins_are_those_of_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

    rng = np.random.default_rng(1)
    p = rng.beta(1, 2, 300)
    truth = rng.random(300) < 0.4
    theirs = binary_calibration_error(torch.tensor(p), torch.tensor(truth.astype(int)), n_bins=10)
    assert calibrate(truth, p).ece_equal_width == pytest.approx(float(theirs), abs=1e-6)
    p_NC = softmax(rng.normal(size=(3000, 3)), axis=1)
    target = rng.integers(3, size=3000)
    top = p_NC.max(axis=1)
    observed, mean_p = calibration_curve(p_NC.argmax(axis=1) == target, top, n_bins=10, strategy="quantile")
    assert top_label_error(p_NC, target) == pytest.approx(np.abs(observed - mean_p).mean(), abs=1e-12)
    # Theirs has bins of equal width; many rows and bins bring the two together.
    theirs = multiclass_calibration_error(torch.tensor(p_NC), torch.tensor(target), num_classes=3, n_bins=20)
    assert top_label_error(p_NC, target) == pytest.approx(float(theirs), abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_brier_score_is_the_sum_of_its_parts(rows: list[tuple[int, bool]]) -> None:
    p, truth = np.array([row[0] / 10 for row in rows]), np.array([row[1] for row in rows])
    result = calibrate(truth, p)
    assert result.brier == pytest.approx(np.mean((p - truth) ** 2))
    parts = result.miscalibration - result.discrimination + result.uncertainty
    assert parts == pytest.approx(result.brier, abs=1e-12)
    assert result.miscalibration >= -1e-12
    assert -1e-12 <= result.discrimination <= result.uncertainty + 1e-12
    assert sum(bin_.n for bin_ in result.bins) == len(rows)
    assert np.diff([bin_.mean_p for bin_ in result.bins]).min(initial=1) > 0


def test_perfect_and_useless_scores() -> None:
    truth = np.arange(100) % 4 == 0
    sure = calibrate(truth, truth.astype(float))
    assert (sure.brier, sure.miscalibration, sure.discrimination) == (0, 0, sure.uncertainty)
    prevalence = calibrate(truth, np.full(100, 0.25))
    assert prevalence.ece == 0
    assert prevalence.discrimination == pytest.approx(0)
    assert len(prevalence.bins) == 1  # equal scores share a bin
    assert calibrate(np.array([], dtype=bool), np.array([])) is None


def test_a_calibrated_model_has_an_error_and_it_is_told() -> None:
    p = np.random.default_rng(2).uniform(size=100)
    few, many = calibrate(outcomes(p), p), calibrate(outcomes(np.tile(p, 50)), np.tile(p, 50))
    assert few.ece_if_calibrated > 0.05
    assert few.ece < few.ece_if_calibrated_95
    assert many.ece_if_calibrated < 0.02
    off = calibrate(outcomes(np.tile(p, 50)), np.tile(p, 50) ** 2)
    assert off.ece > 5 * off.ece_if_calibrated_95


def test_few_rows_have_fewer_bins_and_patients_no_wilson() -> None:
    p = np.linspace(0.1, 0.9, 35)
    assert len(np.unique(adaptive_bins(p))) == 3
    assert len(np.unique(adaptive_bins(p[:5]))) == 1
    clustered = calibrate(outcomes(p), p, clustered=True)
    assert all(bin_.low is None for bin_ in clustered.bins)
    assert all(bin_.low < bin_.observed + 1e-9 for bin_ in calibrate(outcomes(p), p).bins)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_temperature_is_found_again(temperature: float) -> None:
    p = np.random.default_rng(3).uniform(0.02, 0.98, 20000)
    skewed = expit(logit(p) * temperature)
    fitted = fit_recalibration(binary(skewed, outcomes(p)), BINARY, "temperature")
    assert fitted.temperatures[0] == pytest.approx(temperature, rel=0.06)
    mended = fitted.apply(np.stack([1 - skewed, skewed], axis=1), BINARY)
    np.testing.assert_allclose(mended[:, 1], p, atol=0.03)


def test_several_classes_and_labels_have_their_temperatures() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(8000, 3))
    target = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
    p_NC = softmax(2.5 * logits, axis=1)
    frame = make_predictions(TYPES, [str(i) for i in range(8000)], p_NC, target)
    fitted = fit_recalibration(frame, TYPES, "temperature")
    assert fitted.temperatures == pytest.approx([2.5], rel=0.06)
    mended = fitted.apply_to(frame, TYPES)
    after = probabilities(mended, TYPES)
    assert after.sum(axis=1) == pytest.approx(np.ones(8000))
    assert (after.argmax(axis=1) == p_NC.argmax(axis=1)).all()
    assert log_loss(target, after) < log_loss(target, p_NC)
    p = rng.uniform(0.05, 0.95, (6000, 2))
    labels = make_predictions(
        FINDINGS, [str(i) for i in range(6000)], expit(logit(p) * [0.5, 2]), rng.random(p.shape) < p
    )
    assert fit_recalibration(labels, FINDINGS, "temperature").temperatures == pytest.approx([0.5, 2], rel=0.15)


@pytest.mark.parametrize("task", [BINARY, TYPES, FINDINGS])
@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_recalibrated_tables_are_valid_and_the_map_survives_json(task: Task, method: str) -> None:
    rng = np.random.default_rng(5)
    n = len(task.classes)
    p = softmax(rng.normal(size=(200, n)), axis=1)
    p[0] = np.eye(n)[0]  # a probability of exactly 1 and others of exactly 0
    target = rng.random((200, n)) < 0.5 if task.kind == "multilabel" else rng.integers(n, size=200)
    frame = make_predictions(task, [str(i) for i in range(200)], p, target)
    fitted = fit_recalibration(frame, task, method)
    again = Recalibration.from_json(fitted.to_json())
    new = make_predictions(task, ["x", "y"], softmax(rng.normal(size=(2, n)), axis=1))
    after = probabilities(again.apply_to(new, task), task)
    np.testing.assert_array_equal(after, probabilities(fitted.apply_to(new, task), task))
    assert ((after >= 0) & (after <= 1)).all()
    if task.kind != "multilabel":
        assert after.sum(axis=1) == pytest.approx(np.ones(2))


def test_isotonic_is_calibrated_where_it_was_fitted_and_keeps_the_order() -> None:
    p = np.random.default_rng(6).uniform(size=3000)
    truth = outcomes(p**3)
    fitted = fit_recalibration(binary(p, truth), BINARY, "isotonic")
    mended = fitted.apply(np.stack([1 - p, p], axis=1), BINARY)[:, 1]
    assert calibrate(truth, mended).miscalibration == pytest.approx(0, abs=1e-4)
    assert (np.diff(mended[np.argsort(p)]) >= 0).all()
    assert any(
        "fewer than 1000" in note for note in fit_recalibration(binary(p[:99], truth[:99]), BINARY, "isotonic").notes
    )


def test_what_cannot_be_fitted_is_not() -> None:
    p = np.array([0.2, 0.8])
    assert fit_recalibration(binary(p, np.array([1, 1])), BINARY, "temperature") is None
    assert fit_recalibration(binary(p, np.array([0, 1])), BINARY, "none") is None
    with pytest.raises(InputError, match="one of temperature"):
        fit_recalibration(binary(p, np.array([0, 1])), BINARY, "platt")
    sure = fit_recalibration(binary(p, np.array([0, 1])), BINARY, "temperature")
    assert "limit of the search" in sure.notes[0]


def test_a_label_that_cannot_be_fitted_keeps_its_probabilities() -> None:
    rng = np.random.default_rng(7)
    p, target = rng.uniform(size=(300, 2)), rng.integers(2, size=(300, 2))
    target[:, 1] = 0
    frame = make_predictions(FINDINGS, [str(i) for i in range(300)], p, target)
    for method in ("temperature", "isotonic"):
        fitted = fit_recalibration(frame, FINDINGS, method)
        after = probabilities(fitted.apply_to(frame, FINDINGS), FINDINGS)
        np.testing.assert_allclose(after[:, 1], p[:, 1])
        assert not np.allclose(after[:, 0], p[:, 0])
        assert "'effusion' is not recalibrated" in fitted.notes[0]


def test_net_benefit_by_hand() -> None:
    # Vickers and Elkin (2006): TP/n - FP/n * t/(1 - t).
    truth, p = np.array([1, 1, 0, 0, 0]) == 1, np.array([0.9, 0.3, 0.6, 0.2, 0.05])
    ranking = Ranking(truth, p)
    curve = net_benefit(ranking, ranking.sums(np.ones((1, 5))))[0]
    at = {round(t, 2): value for t, value in zip(NET_BENEFIT_THRESHOLDS, curve, strict=True)}
    assert at[0.5] == pytest.approx(1 / 5 - 1 / 5 * 1)
    assert at[0.25] == pytest.approx(2 / 5 - 1 / 5 / 3)
    assert at[0.01] == pytest.approx(2 / 5 - 3 / 5 * 0.01 / 0.99)  # acting on all
    assert at[0.95] == 0  # on none


def test_one_question_of_the_table_keeps_its_rows() -> None:
    frame = make_predictions(
        FINDINGS, list("abc"), [[0.9, 0.3], [0.2, 0.8], [0.6, 0.1]], [[1, np.nan], [np.nan, 1], [0, 0]]
    )
    first, second = one_against_rest(frame, FINDINGS)
    assert first.rows.tolist() == [0, 2]
    assert second.rows.tolist() == [1, 2]
    assert targets(frame, FINDINGS)[first.rows, 0].tolist() == [1, 0]


def test_probabilities_of_next_to_nothing_have_a_brier_score_in_parts() -> None:
    p = np.array([1e-320, 3e-310, 1e-300, 1e-12, 0.3, 1 - 1e-16])
    result = calibrate(np.array([False, True, False, False, True, True]), p)
    parts = (result.uncertainty, result.discrimination, result.miscalibration)
    assert np.isfinite(parts).all()
    assert result.brier == pytest.approx(parts[0] - parts[1] + parts[2])
