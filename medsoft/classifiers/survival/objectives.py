"""Objectives of survival: Cox's partial likelihood, discrete hazards, and multi-task logistic regression.

All give the same predictions: ``risk``, larger is worse, and survival at stated times.

The risk is the logarithm of the mean cumulative hazard: of a Cox model over any times, which is the log hazard, of the
others over the ends of their intervals, as H. Ishwaran et al. add up hazards to a mortality (Annals of Applied
Statistics 2, 2008, section 3.2). It is counted from its mean over the training part, so that it is a log hazard ratio
against that part under every head, and risks of several models can be averaged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medsoft.evaluation.survival.basis import Censoring, Outcomes
from medsoft.ops.survival import (
    breslow,
    cox_loss,
    discrete_cumulative_hazard,
    hazard_loss,
    interpolation,
    intervals_of,
    logistic_cumulative_hazard,
    logistic_loss,
)
from medsoft.task_types import KEPT, Answers, FloatArray, Link, Objective, ObjectiveOptions

DEFAULT_INTERVALS = 8
UNKNOWN_CUTS = "intervals of time come from the training part or from its checkpoint"


class OfSurvival(ABC):
    """What objectives of survival have in common.

    Targets are (N, 2): time and event.

    Args:
        times: at which survival is stated.
    """

    head: str
    outputs: int = 1
    link: Link = "hazard"
    joint = False
    learns = True

    def __init__(self, times: Sequence[float]) -> None:
        self.times = tuple(times)
        self.centre = 0.0
        self.censoring: Censoring | None = None

    @property
    def scale(self) -> tuple[float, float] | None:
        """What is added to a sum of logits to make it the risk, and its factor; None where the risk is no such sum."""
        return None

    @abstractmethod
    def raw_risk(self, logits: Tensor) -> Tensor:
        """(N,) the logarithm of the mean cumulative hazard, up to a constant."""

    def answers(self, target: Tensor) -> Answers:
        return Answers(target.double(), torch.ones(len(target), 2, dtype=torch.float64))

    def learn(self, logits: Tensor, target: Tensor) -> None:
        self.centre = float(self.raw_risk(logits.double().cpu()).mean())
        time_N, event_N = target.double().cpu().numpy().T
        self.censoring = Censoring.of(Outcomes(time_N, event_N == 1))

    def state(self) -> dict[str, Any]:
        known: dict[str, Any] = {"hazards": {"head": self.head, "centre": self.centre}}
        return known if self.censoring is None else known | {KEPT: {"censoring": self.censoring.to_json()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        known = state["hazards"]
        if known["head"] != self.head:
            raise ValueError(f"the weights are those of model.survival {known['head']}, not {self.head}")
        self.centre = float(known["centre"])
        kept = state.get(KEPT, {}).get("censoring")
        self.censoring = None if kept is None else Censoring.from_json(kept)


class Cox(OfSurvival):
    """One log hazard a sample; survival follows from the baseline hazard of the training part.

    Attributes:
        baseline: times of events, and the cumulative hazard from each on of a sample with the training part's mean
            risk; None until ``learn``.
    """

    head = "cox"
    joint = True

    def __init__(self, times: Sequence[float]) -> None:
        super().__init__(times)
        self.baseline: tuple[Tensor, Tensor] | None = None
        self._hazard_T: Tensor | None = None

    @property
    def scale(self) -> tuple[float, float]:
        return -self.centre, 1.0

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return cox_loss(logits[:, 0], target[:, 0], target[:, 1])

    def raw_risk(self, logits: Tensor) -> Tensor:
        return logits[:, 0]

    def learn(self, logits: Tensor, target: Tensor) -> None:
        super().learn(logits, target)
        self._take(breslow(logits[:, 0].double().cpu() - self.centre, target[:, 0], target[:, 1]))

    def _take(self, baseline: tuple[Tensor, Tensor]) -> None:
        """Keep a baseline hazard, and what it is at the stated times."""
        from_M, hazard_M = self.baseline = baseline
        times_T = torch.tensor(self.times, dtype=torch.float64)
        hazards = torch.cat([hazard_M.new_zeros(1), hazard_M])
        self._hazard_T = hazards[torch.searchsorted(from_M, times_T, right=True)]

    def probabilities(self, logits: Tensor) -> Tensor:
        if self._hazard_T is None:
            raise RuntimeError("a baseline hazard comes from the training part or from its checkpoint")
        risk_N1 = logits[:, :1] - self.centre
        return torch.cat([risk_N1, (-self._hazard_T.to(logits) * risk_N1.exp()).exp()], 1)

    def state(self) -> dict[str, Any]:
        known = super().state()
        if self.baseline is not None:
            known["hazards"]["baseline"] = [one.tolist() for one in self.baseline]
        return known

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        if (known := state["hazards"].get("baseline")) is not None:
            times_M, hazard_M = (torch.tensor(one, dtype=torch.float64) for one in known)
            self._take((times_M, hazard_M))


class _Intervals(OfSurvival):
    """Heads with an output for each of K intervals of time, which end at quantiles of the training part's events.

    The last interval ends with the last event of the training part: beyond it nothing is known, and survival stays.

    Args:
        times: at which survival is stated.
        intervals: their number K.
        event_times: of the training part, in rising order; None where a checkpoint brings the cuts.

    Raises:
        ValueError: there are fewer different event times than intervals.
    """

    def __init__(self, times: Sequence[float], intervals: int, event_times: FloatArray | None) -> None:
        super().__init__(times)
        self.outputs = intervals
        self.cuts: Tensor | None = None
        self._weights_TK: Tensor | None = None
        if event_times is not None:
            found = torch.as_tensor(event_times, dtype=torch.float64)
            shares_K = torch.arange(1, intervals + 1, dtype=torch.float64) / intervals
            cuts_K = torch.quantile(found, shares_K, interpolation="higher")
            different, most = len(torch.unique(found)), len(torch.unique(cuts_K))
            if most < intervals:
                raise ValueError(
                    f"intervals {intervals}: the {len(found)} events of the training part, at {different} different "
                    f"times, allow {most} intervals at most"
                )
            self._take(cuts_K)

    def _take(self, cuts_K: Tensor) -> None:
        """Keep the ends of the intervals, and what they say of the stated times."""
        self.cuts = cuts_K
        self._weights_TK = interpolation(cuts_K, torch.tensor(self.times, dtype=torch.float64))

    @abstractmethod
    def cumulative_hazard(self, logits_NK: Tensor) -> Tensor:
        """(N, K) at the ends of the intervals."""

    @abstractmethod
    def likelihood(self, logits_NK: Tensor, survived_N: Tensor, happened_N: Tensor) -> Tensor:
        """The mean negative log likelihood."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.likelihood(
            logits, *intervals_of(target[:, 0].contiguous(), target[:, 1], self._known_cuts().to(target))
        )

    def raw_risk(self, logits: Tensor) -> Tensor:
        return self.cumulative_hazard(logits).mean(1).clamp(min=torch.finfo(logits.dtype).tiny).log()

    def probabilities(self, logits: Tensor) -> Tensor:
        if self._weights_TK is None:
            raise RuntimeError(UNKNOWN_CUTS)
        survival_NT = (-self.cumulative_hazard(logits) @ self._weights_TK.to(logits).T).exp()
        return torch.cat([(self.raw_risk(logits) - self.centre)[:, None], survival_NT], 1)

    def state(self) -> dict[str, Any]:
        known = super().state()
        known["hazards"]["cuts"] = self._known_cuts().tolist()
        return known

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        cuts_K = torch.tensor(state["hazards"]["cuts"], dtype=torch.float64)
        if len(cuts_K) != self.outputs:
            raise ValueError(f"the weights are those of model.intervals {len(cuts_K)}, not {self.outputs}")
        self._take(cuts_K)

    def _known_cuts(self) -> Tensor:
        if self.cuts is None:
            raise RuntimeError(UNKNOWN_CUTS)
        return self.cuts


class DiscreteHazards(_Intervals):
    """The chance of the event in each interval, given that it was reached."""

    head = "discrete"

    def likelihood(self, logits_NK: Tensor, survived_N: Tensor, happened_N: Tensor) -> Tensor:
        return hazard_loss(logits_NK, survived_N, happened_N)

    def cumulative_hazard(self, logits_NK: Tensor) -> Tensor:
        return discrete_cumulative_hazard(logits_NK)


class MultiTaskLogistic(_Intervals):
    """Multi-task logistic regression: a softmax over the intervals and what comes after them."""

    head = "logistic"

    def likelihood(self, logits_NK: Tensor, survived_N: Tensor, happened_N: Tensor) -> Tensor:
        return logistic_loss(logits_NK, survived_N, happened_N)

    def cumulative_hazard(self, logits_NK: Tensor) -> Tensor:
        return logistic_cumulative_hazard(logits_NK)


def make_objective(times: Sequence[float], options: ObjectiveOptions) -> Objective:
    """The objective of a model of survival, by default Cox's.

    Args:
        times: at which survival is stated.
        options: of the training.

    Raises:
        ValueError: Cox's model has no intervals, or there are more intervals than events allow.
    """
    if options.survival in (None, "cox"):
        if options.intervals is not None:
            raise ValueError("intervals belong to survival discrete and logistic; cox has none: leave them out")
        return Cox(times)
    intervals = DEFAULT_INTERVALS if options.intervals is None else options.intervals
    if intervals < 2:
        raise ValueError(f"intervals {intervals} must be 2 or more")
    head = DiscreteHazards if options.survival == "discrete" else MultiTaskLogistic
    return head(times, intervals, options.event_times)
