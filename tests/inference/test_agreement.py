"""How far members of an ensemble agree about the tiles of a bag."""

from __future__ import annotations

import numpy as np
import pytest

from medsoft.inference.slides.agreement import (
    RANK,
    SHARED,
    Agreement,
    agreement_columns,
    agreement_of,
    said_of_agreement,
)


def test_the_same_order_agrees_whatever_the_scale_and_the_opposite_does_not():
    row = np.random.default_rng(0).normal(size=40)
    same = agreement_of(np.stack([row, 5 * row + 3]))
    assert (same.rank, same.shared) == (pytest.approx(1), 1)
    opposite = agreement_of(np.stack([row, -row]))
    assert (opposite.rank, opposite.shared) == (pytest.approx(-1), 0)


def test_it_is_the_mean_over_pairs_and_chance_is_what_strangers_share():
    rng = np.random.default_rng(1)
    row = rng.normal(size=300)
    found = agreement_of(np.stack([row, row, -row]))
    assert found.rank == pytest.approx(-1 / 3)
    assert found.shared == pytest.approx(1 / 3)
    strangers = [agreement_of(rng.normal(size=(2, 50))) for _ in range(400)]
    assert strangers[0].by_chance == 0.1
    assert np.mean([one.shared for one in strangers]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([one.rank for one in strangers]) == pytest.approx(0, abs=0.02)


def test_what_has_no_order_is_empty():
    assert np.isnan(agreement_of(np.ones((2, 1))).rank)
    assert np.isnan(agreement_of(np.stack([np.ones(5), np.arange(5.0)])).rank)
    assert agreement_columns([None, None]) == {}
    columns = agreement_columns([None, Agreement(0.5, 1.0, 0.1)])
    np.testing.assert_array_equal(columns[RANK], [np.nan, 0.5])
    np.testing.assert_array_equal(columns[SHARED], [np.nan, 1.0])
    assert said_of_agreement([None], "slide") == []
    (said,) = said_of_agreement([Agreement(0.5, 1.0, 0.1)], "slide")
    assert "0.50 in the median" in said
    assert "share 100%, by chance 10%" in said
