"""The shares of the time in which reading and the model work."""

import pytest

from medsoft.slides.encoding import busy as module
from medsoft.slides.encoding.busy import Busy


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns on."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_what_makes_an_item_is_reading_and_what_its_taker_does_is_not(clock):
    busy = Busy()
    assert busy.shares == (0.0, 0.0)

    def items():
        clock(1)
        yield "first"
        clock(2)

    for _ in busy.while_reading(items()):
        with busy.with_model():
            clock(5)
        clock(2)  # neither
    assert (busy.reading, busy.model) == (3, 5)
    assert busy.shares == (0.3, 0.5)


def test_a_reader_that_is_given_up_is_closed_and_an_error_of_the_model_counts(clock):
    closed = []

    def items():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    busy = Busy()
    reading = busy.while_reading(items())
    next(reading)
    reading.close()
    assert closed == [True]

    def fail():
        with busy.with_model():
            clock(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert busy.shares == (0.0, 1.0)


def test_reading_that_is_told_afterwards_began_before(clock):
    busy = Busy()
    clock(4)
    busy.add_reading(3)
    clock(1)
    assert busy.shares == (0.75, 0.0)
