"""Budgets: how they are written, and how much of one is left."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsoft.errors import InputError
from medsoft.planning.budget import FOR_THE_REPORT, Clock, as_option, duration_in_words, enough, parse_duration
from medsoft.planning.measure import NOISE, cheapest_first


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800), (" 15M ", 900)]
)
def test_a_time_is_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "half an hour", "0m", "-5m", "5m!", "nan", "m"])
def test_what_is_no_time_is_one_message(text):
    with pytest.raises(InputError, match=r"--budget .*a time such as 90s, 30m, 2h or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (59, "59 s"), (130, "2 min 10 s"), (1800, "30 min"), (11100, "3 h 5 min")]
)
def test_a_time_in_words(seconds, words):
    assert duration_in_words(seconds) == words


@pytest.mark.parametrize("seconds", [3, 61.5, 91, 700, 5401, 50000])
def test_a_time_as_an_option_is_enough(seconds):
    assert seconds <= parse_duration(as_option(seconds)) <= seconds * 1.1 + 60


def test_what_earlier_calls_used_counts():
    times = iter([100.0, 103.0, 104.0])
    clock = Clock(60, spent=50, now=lambda: next(times))
    assert clock.left == pytest.approx(7)
    assert clock.spent == pytest.approx(54)


def test_what_is_enough_leaves_time_for_the_report_and_for_a_wrong_guess():
    budget = enough(spent=10, more=40)
    assert budget * (1 - FOR_THE_REPORT) >= 1.2 * 50


def test_times_that_cannot_be_told_apart_keep_their_order():
    assert cheapest_first([]) == []
    assert cheapest_first([3.0, 1.0, 2.0]) == [1, 2, 0]
    assert cheapest_first([1.1, 1.0, 1.2, 5.0, 4.5]) == [0, 1, 2, 3, 4]
    assert cheapest_first([1.0, 1.3]) == [0, 1]
    assert cheapest_first([1.3, 1.0]) == [1, 0]


@given(st.lists(st.floats(0.1, 1e4), max_size=8))
def test_each_candidate_comes_once_and_none_before_one_that_is_clearly_cheaper(seconds):
    order = cheapest_first(seconds)
    assert sorted(order) == list(range(len(seconds)))
    for first, second in itertools.pairwise(order):
        assert seconds[first] <= NOISE * seconds[second]


@given(st.permutations([1.0, 10.0, 100.0]), st.lists(st.floats(0.9, 1.1), min_size=3, max_size=3))
def test_the_order_does_not_depend_on_the_noise(seconds, noise):
    shaken = [one * factor for one, factor in zip(seconds, noise, strict=True)]
    assert cheapest_first(shaken) == cheapest_first(seconds)
    assert cheapest_first(noise) == [0, 1, 2]
