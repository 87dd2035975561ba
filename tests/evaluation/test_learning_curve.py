"""Learning curves: the power law that fits them, what it says of more patients, and how sure it is."""

import numpy as np
import pytest

from medsoft.errors import InputError
from medsoft.evaluation.learning_curve.curve import learning_curve, sentence
from medsoft.evaluation.learning_curve.power_law import fit_power_law
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
SIZES = np.array([25.0, 50.0, 100.0, 200.0])


@pytest.mark.parametrize(("sign", "best"), [(-1.0, 1.0), (1.0, 0.0)])
def test_a_curve_that_is_a_power_law_is_found_again(sign, best):
    values = 0.9 + sign * 1.5 * SIZES**-0.6 if sign < 0 else 0.1 + 1.5 * SIZES**-0.6
    law = fit_power_law(SIZES, values, lower_is_better=sign > 0, best=best)
    assert (law.scale, law.exponent) == (pytest.approx(1.5, rel=1e-2), pytest.approx(0.6, rel=1e-2))
    assert law.plateau == pytest.approx(0.9 if sign < 0 else 0.1, abs=1e-3)
    np.testing.assert_allclose(law(SIZES), values, atol=1e-4)


def test_no_law_goes_beyond_the_best_value_or_gets_worse_with_more_patients():
    steep = fit_power_law(SIZES, [0.5, 0.7, 0.9, 1.0], lower_is_better=False, best=1.0)
    assert steep.plateau <= 1
    falling = fit_power_law(SIZES, [0.9, 0.8, 0.7, 0.6], lower_is_better=False, best=1.0)
    assert falling.scale == 0
    assert falling(1e6) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="needs 3 points"):
        fit_power_law([1, 2, 2], [0.5, 0.6, 0.6], lower_is_better=False, best=1.0)


def tables(fractions: list[float]) -> dict:
    """Three folds whose predictions are better the more there is to train on."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 2
    noise = rng.normal(size=240)
    found = {}
    for fraction in fractions:
        p = 1 / (1 + np.exp(-(3 * fraction**0.7 * (2 * y - 1) + 2 * noise)))
        found[fraction] = make_predictions(
            BINARY,
            [f"s{i}" for i in range(240)],
            np.stack([1 - p, p], axis=1),
            y,
            patient=[f"P{i // 2}" for i in range(240)],
            split="test",
            fold=[str(i // 80) for i in range(240)],
        )
    return found


def test_what_more_patients_would_bring_lies_above_what_there_is_and_says_how_sure_it_is():
    parts = [0.25, 0.5, 1.0]
    curve = learning_curve(tables(parts), {f: 80 * f for f in parts}, BINARY, Settings(draws=100), "patients")
    values = [point.value for point in curve.points]
    assert values == sorted(values)
    one = curve.forecast
    assert one.n == 160
    assert one.value >= values[-1] - 0.01
    assert one.low < one.value < one.high <= 1
    assert one.gain_low <= one.gain <= one.gain_high
    assert "Twice as many patients (160 in training) would bring AUROC" in sentence(curve)
    assert curve.to_json()["law"]["exponent"] == curve.law.exponent


def test_two_parts_give_no_forecast_and_other_rows_no_curve():
    parts = [0.5, 1.0]
    curve = learning_curve(tables(parts), {f: 80 * f for f in parts}, BINARY, Settings(draws=50), "patients")
    assert (curve.law, curve.forecast, sentence(curve)) == (None, None, "")
    assert "needs 3 parts" in curve.notes[0]
    other = tables(parts)
    other[0.5] = other[0.5][:100]
    with pytest.raises(InputError, match="different samples"):
        learning_curve(other, {f: 80 * f for f in parts}, BINARY, Settings(draws=50), "patients")
