"""Thresholds: the rules by brute force, and what keeps choosing apart from reporting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.errors import InputError
from medsoft.evaluation.metrics.targets import OneAgainstRest
from medsoft.evaluation.metrics.thresholds import choose, parse_rule, values_at


def question(truth, p) -> OneAgainstRest:
    truth, p = np.array(truth, dtype=bool), np.array(p, dtype=float)
    return OneAgainstRest("yes", truth, p, p >= 0.5, np.arange(len(p)))


tables = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=4, max_size=30).map(
    lambda rows: question([r[0] for r in rows] + [True, False], [r[1] / 20 for r in rows] + [0.5, 0.5])
)


def rates(asked: OneAgainstRest, threshold: float) -> tuple[float, float]:
    called = asked.p >= threshold
    return called[asked.truth].mean(), (~called)[~asked.truth].mean()


CANDIDATES = [(2 * i - 1) / 40 for i in range(22)] + [1.5]


@given(tables, st.sampled_from(["youden", "sensitivity:0.8", "specificity:0.8", "cost:3", "cost:0.25"]))
@settings(max_examples=150, deadline=None)
def test_no_other_threshold_serves_the_rule_better(asked: OneAgainstRest, text: str) -> None:
    point = choose(asked, parse_rule(text))
    sensitivity, specificity = rates(asked, point.threshold)
    assert (sensitivity, specificity) == pytest.approx((point.sensitivity, point.specificity))
    others = [(*rates(asked, t), t) for t in CANDIDATES]
    positives, negatives = asked.truth.sum(), (~asked.truth).sum()
    if text == "youden":
        assert sensitivity + specificity >= max(a + b for a, b, _ in others) - 1e-9
    elif text.startswith("sensitivity"):
        assert sensitivity >= 0.8 - 1e-9
        assert specificity >= max(b for a, b, _ in others if a >= 0.8 - 1e-9) - 1e-9
    elif text.startswith("specificity"):
        assert specificity >= 0.8 - 1e-9
        assert sensitivity >= max(a for a, b, _ in others if b >= 0.8 - 1e-9) - 1e-9
    else:
        ratio = float(text[5:])

        def cost(a: float, b: float) -> float:
            return ratio * (1 - a) * positives + (1 - b) * negatives

        assert cost(sensitivity, specificity) <= min(cost(a, b) for a, b, _ in others) + 1e-9


def test_a_threshold_lies_midway_between_two_scores() -> None:
    asked = question([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
    assert choose(asked, parse_rule("youden")).threshold == pytest.approx(0.4)
    assert choose(asked, parse_rule("specificity:1")).threshold == pytest.approx(0.4)
    assert choose(asked, parse_rule("sensitivity:0.5")).threshold == pytest.approx(0.75)


def test_scores_at_the_ends() -> None:
    # The best is to call none: a threshold above the highest score, even where that is 1.
    worst = question([1, 0, 0, 0], [0.0, 1.0, 1.0, 1.0])
    point = choose(worst, parse_rule("cost:0.1"))
    assert point.threshold > 1
    assert rates(worst, point.threshold) == (0, 1)
    # The best is to call all.
    all_ = choose(question([1, 1, 1, 0], [0.0, 0.4, 0.5, 0.2]), parse_rule("sensitivity:1"))
    assert all_.threshold == 0
    near = question([0, 1], [0.3, np.nextafter(0.3, 1)])
    assert rates(near, choose(near, parse_rule("youden")).threshold) == (1, 1)


def test_one_class_chooses_nothing_and_says_so() -> None:
    point = choose(question([1, 1], [0.3, 0.6]), parse_rule("youden"))
    assert point.threshold is None
    assert "2 positives and 0 negatives" in point.note
    assert choose(question([1, 1], [0.3, 0.6]), parse_rule("0.3")).threshold == 0.3


def test_a_rule_that_allows_no_error_says_so() -> None:
    asked = question([1] * 10 + [0] * 10, np.linspace(0, 1, 20))
    assert "10 positives" in choose(asked, parse_rule("sensitivity:0.95")).note
    assert not choose(asked, parse_rule("sensitivity:0.9")).note


NO_RULES = ["", "best", "1.5", "-0.1", "nan", "youden:1", "sensitivity:2", "cost:0", "cost:x", "cost:inf"]


@pytest.mark.parametrize("text", NO_RULES)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no rule for a threshold"):
        parse_rule(text)


def test_values_at_a_threshold_by_hand() -> None:
    values = values_at(question([1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.2, 0.1]), 0.5)
    assert values["sensitivity"] == 1 / 2
    assert values["specificity"] == pytest.approx(2 / 3)
    assert values["ppv"] == 1 / 2
    assert values["npv"] == pytest.approx(2 / 3)
    assert values["f1"] == pytest.approx(2 / 4)
    assert values["mcc"] == pytest.approx((1 * 2 - 1 * 1) / np.sqrt(2 * 2 * 3 * 3))
    assert np.isnan(values_at(question([1, 0], [0.2, 0.3]), 0.9)["ppv"])
