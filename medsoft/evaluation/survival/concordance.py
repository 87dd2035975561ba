"""How often risks order pairs as their events came: Harrell's and Uno's C, for many weightings of the same rows.

A pair (i, j) can be compared where the event of i happened while j was still without it: at a later time of j, or at
the same time if j was censored then. It is concordant where i has the larger risk; of equal risks one half counts.
(F. E. Harrell et al., JAMA 247, 1982.) Uno's C weights the pairs of i by 1 / G(t_i)², with G the chance of being under
observation, and takes events before a time tau alone: it then depends on who was censored no more (H. Uno et al.,
Statistics in Medicine 30, 2011).

All pairs would be N² for every draw of the bootstrap. They are found in N log N steps instead: the order of the times
is written as a binary number of L digits, and of each pair exactly one digit is the first that differs. For each digit
the rows are sorted by risk once, and what is weighted lies in running sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]


class _Digit(NamedTuple):
    """The pairs that first differ in one digit.

    Attributes:
        later: (R,) rows that have a 1 there, sorted by block and risk.
        events: (M,) rows with an event that have a 0 there, as positions among the events.
        start: (M,) where their block begins among the sorted rows.
        below: (M,) where the rows of their own risk begin there.
        upto: (M,) where these end.
    """

    later: IntArray
    events: IntArray
    start: IntArray
    below: IntArray
    upto: IntArray


class Pairs:
    """All pairs that can be compared.

    Args:
        time_N: (N,) times above 0.
        event_N: (N,) whether the event happened.
        risk_N: (N,) larger is worse.
    """

    def __init__(self, time_N: FloatArray, event_N: BoolArray, risk_N: FloatArray) -> None:
        self.events = np.flatnonzero(event_N)
        """(E,) rows with an event."""
        # Of one time events come first, and are not compared with each other.
        _, time = np.unique(time_N, return_inverse=True)
        _, self._place = np.unique(2 * time + ~event_N, return_inverse=True)
        self._by_place = np.argsort(self._place, kind="stable")
        self._after = np.searchsorted(self._place[self._by_place], self._place[self.events], side="right")
        n_digits = int(self._place.max()).bit_length() if len(time_N) else 0
        self._digits = [self._digit(digit, risk_N) for digit in range(n_digits)]

    def _digit(self, digit: int, risk_N: FloatArray) -> _Digit:
        block, is_later = self._place >> (digit + 1), (self._place >> digit & 1).astype(bool)
        later = np.flatnonzero(is_later)
        later = later[np.lexsort((risk_N[later], block[later]))]
        mine = np.flatnonzero(~is_later[self.events])
        rows = self.events[mine]
        # Block and risk as one number that can be searched for: risks as ranks, equal for equal ones.
        _, rank = np.unique(risk_N, return_inverse=True)
        most = int(rank.max()) + 1
        sorted_keys = block[later] * most + rank[later]
        keys = block[rows] * most + rank[rows]
        start = np.searchsorted(sorted_keys, block[rows] * most, side="left")
        below = np.searchsorted(sorted_keys, keys, side="left")
        return _Digit(later, mine, start, below, np.searchsorted(sorted_keys, keys, side="right"))

    def sums(self, weights_NB: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of each event, the weight of the rows that it is concordant with, and of all that it can be compared with.

        Args:
            weights_NB: (N, B) weights of the rows.

        Returns:
            (E, B) each, equal risks with one half.
        """
        concordant = np.zeros((len(self.events), weights_NB.shape[1]))
        for digit in self._digits:
            up_to = _running(weights_NB[digit.later])
            concordant[digit.events] += 0.5 * (up_to[digit.below] + up_to[digit.upto]) - up_to[digit.start]
        total = _running(weights_NB[self._by_place])
        return concordant, total[-1] - total[self._after]


def _running(weights_RB: FloatArray) -> FloatArray:
    """(R + 1, B) running sums, from 0."""
    sums = np.zeros((len(weights_RB) + 1, weights_RB.shape[1]))
    np.cumsum(weights_RB, axis=0, out=sums[1:])
    return sums


def concordance(event_weights_EB: FloatArray, concordant_EB: FloatArray, comparable_EB: FloatArray) -> FloatArray:
    """(B,) share of the concordant among the pairs that can be compared; NaN where there are none.

    Args:
        event_weights_EB: (E, B) what the pairs of each event weigh.
        concordant_EB: of ``Pairs.sums``.
        comparable_EB: of ``Pairs.sums``.
    """
    pairs = (event_weights_EB * comparable_EB).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value: FloatArray = np.where(pairs > 0, (event_weights_EB * concordant_EB).sum(axis=0) / pairs, np.nan)
    return value
