"""Which candidate is taken: the best on inner folds, or the mean of those that cannot be told apart from it.

The rule, in full. Every candidate has predicted each row of the development part by a model that has not seen it, nor
any other row of its patient. Its inner score is the task's main metric, as the mean over the folds. The best score
leads. A candidate is averaged with the leader where both hold:

1. the 95 % interval of its difference to the leader, over the same draws of patients, contains 0;
2. it is behind by no more than 0.01 (of a metric in a unit, such as a mean absolute error: 2 % of the leader's value).

The first alone would take nearly everything on a small table, where intervals are wide: a mean with a model that is
0.04 behind is worse than the leader in most cases. The second alone would take a model that is reliably behind on a
large table. Both together keep the mean to models whose order is left to chance; then the mean is the safer choice,
because it does not bet on the winner of a draw. Of several settings of one candidate (``--tune``) the best alone is
averaged: a mean over settings is the same model again. At most four are averaged, because each adds its fold models to
the time of every prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.comparison.mean_over_folds import mean_over_folds
from medsoft.evaluation.comparison.pairing import pair
from medsoft.evaluation.intervals.bootstrap import percentile_interval
from medsoft.evaluation.metrics.by_name import Asked
from medsoft.evaluation.metrics.table import METRICS, lower_is_better
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.task import Task

CLOSE, CLOSE_SHARE = 0.01, 0.02
"""How far a candidate may be behind the best and still be averaged with it: of a metric without a unit, and as a share
of the best value of a metric with one."""

MOST_AVERAGED = 4
"""So many candidates at most are averaged."""

DRAWS = 1000
"""Of the bootstrap by patient; intervals of 1,000 draws differ in the third decimal."""


@dataclass(frozen=True)
class InnerScore:
    """A candidate on the inner folds.

    Attributes:
        name: the candidate's.
        metric: what is compared.
        value: mean over the folds.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        difference: to the leader, positive where the candidate is better by value; 0 for the leader.
        difference_low: lower end of the paired interval; None for the leader.
        difference_high: upper end.
        chosen: whether its models predict.
        reason: in words, why it was taken or dropped.
    """

    name: str
    metric: str
    value: float
    low: float | None
    high: float | None
    difference: float = 0.0
    difference_low: float | None = None
    difference_high: float | None = None
    chosen: bool = False
    reason: str = ""


def choose(
    tables: Mapping[str, pd.DataFrame],
    task: Task,
    draws: int = DRAWS,
    seed: int = 0,
    families: Mapping[str, str] | None = None,
) -> list[InnerScore]:
    """Compare candidates on the rows that all have predicted, and choose.

    Args:
        tables: by name, out-of-fold predictions with the columns ``fold`` and ``patient``.
        task: the question.
        draws: of the bootstrap.
        seed: of the bootstrap.
        families: by name, what a candidate is a setting of; of several settings of one candidate the best counts.

    Returns:
        The candidates, best first.

    Raises:
        InputError: the metric is not defined on any fold.
    """
    metric = task.primary["metric"]
    given = [(name, frame.assign(split="inner")) for name, frame in _in_the_same_folds(tables).items()]
    paired = pair(given, task, split="inner", level="row", rule=parse_rule("0.5"), common=True)
    drawn, point, _ = mean_over_folds(paired.models, task, Asked(metric), Settings(draws=draws, seed=seed))
    values = {name: float(found[0]) for name, found in point.items()}
    if any(np.isnan(value) for value in values.values()):
        raise InputError(
            f"the inner folds have no {METRICS[metric].words}: in none of them has the reported part two classes. "
            "Take fewer folds with --folds, or merge rare classes"
        )
    order = sorted(values, key=lambda name: values[name], reverse=not lower_is_better(metric))
    leader = order[0]
    scores = [_score(name, leader, metric, values, drawn) for name in order]
    return _taken(scores, families or {})


def _in_the_same_folds(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables with each row in the fold that the first table has it in.

    The folds are the same as long as all candidates could read the same rows. Where one could not, its rows were
    divided otherwise, and each row would be told from itself by its fold.
    """
    first = next(iter(tables.values()))
    fold_of = dict(zip(first["id"], first["fold"], strict=True))
    return {
        name: frame.assign(fold=[fold_of.get(id, own) for id, own in zip(frame["id"], frame["fold"], strict=True)])
        for name, frame in tables.items()
    }


def _score(
    name: str, leader: str, metric: str, values: Mapping[str, float], drawn: Mapping[str, np.ndarray]
) -> InnerScore:
    own = percentile_interval(drawn[name])
    score = InnerScore(name, metric, values[name], own.low, own.high)
    if name == leader:
        return score
    apart = percentile_interval(drawn[name] - drawn[leader])
    return replace(
        score, difference=values[name] - values[leader], difference_low=apart.low, difference_high=apart.high
    )


def _taken(scores: list[InnerScore], families: Mapping[str, str]) -> list[InnerScore]:
    """The same with what the rule says of each."""
    leader, *others = scores
    if not others:
        return [replace(leader, chosen=True, reason="the only candidate that has finished")]
    close = margin(leader)
    found: list[InnerScore] = []
    taken = {families.get(leader.name, leader.name)}
    for score in others:
        behind = abs(score.difference)
        told_apart = score.difference_low is not None and not score.difference_low <= 0 <= score.difference_high  # type: ignore[operator]
        if told_apart:
            found.append(replace(score, reason=f"behind {leader.name} by {behind:.3g}, and the interval excludes 0"))
        elif behind > close:
            found.append(replace(score, reason=f"behind {leader.name} by {behind:.3g}, more than {close:.3g}"))
        elif (family := families.get(score.name, score.name)) in taken:
            found.append(replace(score, reason=f"another setting of {family}, of which a better one was taken"))
        elif len(taken) == MOST_AVERAGED:
            found.append(replace(score, reason=f"not told apart from {leader.name}, but {MOST_AVERAGED} are averaged"))
        else:
            taken.add(family)
            found.append(replace(score, chosen=True, reason=f"not told apart from {leader.name}: averaged with it"))
    first = replace(
        leader, chosen=True, reason="the best" if len(taken) == 1 else f"the best; averaged with {len(taken) - 1} more"
    )
    return [first, *found]


def margin(leader: InnerScore) -> float:
    """How far behind the leader a candidate may be, in the metric's unit."""
    return CLOSE_SHARE * abs(leader.value) if METRICS[leader.metric].in_unit else CLOSE
