"""Solves probes with scikit-learn: linear models on vectors, and neighbours, with what is chosen by inner folds.

Every inner fold standardises by its own training rows. Further views of a row stand on the row's side of every fold and
teach only: what is held out is scored on the rows as they are. In a linear model a row and its views together count as
one row; among neighbours each is one of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.data.datasets.feature_scale import Array, Scale
from medsoft.task_types import Link

Loss = Callable[[Array], float]
"""Mean loss of logits (N, K) of all rows; a smaller one is better."""

GRID = tuple(float(f"{10.0**exponent:.3g}") for exponent in np.arange(-6, 1.5, 0.5))
"""Inverse strengths C of the penalty ‖w‖² / 2 beside the summed loss: 1e-6 to 10, each √10 times the one before."""
NEIGHBOURS = (1, 3, 5, 7, 11, 15, 21, 31, 51, 101)
WITHOUT_FOLDS = {"C": 1e-3, "k": 7.0}
"""What is taken where there are too few patients for inner folds."""
MOST_STEPS = 2000
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Examples:
    """What a probe learns from.

    Attributes:
        x_NF: float64 vectors: features, and then covariates (NaN where unknown).
        values_NK: what the outputs should say, as in ``Answers``.
        weights_NK: what each counts.
        views_MF: further views of the rows, (0, F) for none.
        row_of_M: whose each view is.
        covariates: how many of the last columns are covariates.
    """

    x_NF: Array
    values_NK: Array
    weights_NK: Array
    views_MF: Array
    row_of_M: npt.NDArray[np.intp]
    covariates: int = 0

    def standardised(self) -> tuple[Examples, Scale]:
        """The rows brought to mean 0 and deviation 1 by themselves, and by what."""
        scale = Scale.of(self.x_NF, self.covariates)
        return replace(self, x_NF=scale(self.x_NF)), scale

    def of(self, rows_N: npt.NDArray[np.bool_]) -> Examples:
        """Some of the rows, with their views."""
        number_N = np.cumsum(rows_N) - 1
        views_M = rows_N[self.row_of_M]
        return Examples(
            self.x_NF[rows_N],
            self.values_NK[rows_N],
            self.weights_NK[rows_N],
            self.views_MF[views_M],
            number_N[self.row_of_M[views_M]],
            self.covariates,
        )

    def with_views(self, shared: bool) -> Examples:
        """Views as rows of their own.

        Args:
            shared: share each row's weight between it and its views, so that a row counts once.
        """
        if not len(self.views_MF):
            return self
        of = np.concatenate([np.arange(len(self.x_NF)), self.row_of_M])
        shares = 1.0 / np.bincount(of, minlength=len(self.x_NF))[of] if shared else np.ones(len(of))
        x = np.concatenate([self.x_NF, self.views_MF])
        weights = self.weights_NK[of] * shares[:, None]
        return Examples(x, self.values_NK[of], weights, x[:0], of[:0], self.covariates)


@dataclass(frozen=True, eq=False)
class Linear:
    """Logits x W' + b of standardised vectors."""

    weight_KF: Array
    bias_K: Array

    def __call__(self, x_NF: Array) -> Array:
        found: Array = x_NF @ self.weight_KF.T + self.bias_K
        return found


@dataclass(frozen=True, eq=False)
class Chosen:
    """A hyperparameter, and how it was chosen.

    Attributes:
        value: C or k.
        folds: inner folds; 0 where it was not chosen by any.
        loss: mean over the held-out rows; None without folds.
        logits_NK: of all rows, each from the fold that held it out; None without folds.
        tried: values, in words.
        at_end: whether it is the first or last of those that were tried.
    """

    value: float
    folds: int = 0
    loss: float | None = None
    logits_NK: Array | None = None
    tried: str = ""
    at_end: bool = False


def choose(
    name: str,
    examples: Examples,
    link: Link,
    fold_N: npt.NDArray[np.intp],
    loss: Loss,
    given: float | None = None,
    outputs: int | None = None,
) -> Chosen:
    """C of a linear probe, or k of neighbours: the value of the grid with the smallest loss on held-out rows.

    Args:
        name: "C" or "k".
        examples: all training rows.
        link: how the outputs answer.
        fold_N: of each row, from 0; all 0 where there are no folds.
        loss: of held-out logits.
        given: a value that is not to be chosen, only scored.
        outputs: logits K of the model; as many as there are values where not given.
    """
    folds = int(fold_N.max()) + 1
    if folds < 2:
        return Chosen(WITHOUT_FOLDS[name] if given is None else given)
    values = [given] if given is not None else list(GRID if name == "C" else _possible(examples, fold_N))
    logits = np.zeros((len(values), len(fold_N), outputs or examples.values_NK.shape[1]))
    for fold in range(folds):
        held_out_N = fold_N == fold
        train, scale = examples.of(~held_out_N).with_views(shared=name == "C").standardised()
        path = linear_path if name == "C" else neighbours_path
        for index, found in enumerate(path(train, link, values, scale(examples.x_NF[held_out_N]))):
            logits[index, held_out_N] = found
    losses = [loss(one) for one in logits]
    best = int(np.argmin(losses))
    at_end = len(values) > 1 and best in (0, len(values) - 1)
    tried = f"{len(values)} from {min(values):g} to {max(values):g}"
    return Chosen(float(values[best]), folds, float(losses[best]), logits[best], tried, at_end)


def linear_path(train: Examples, link: Link, values: Sequence[float], test_NF: Array) -> Iterator[Array]:
    """Logits (n, K) of test vectors for each C in turn."""
    for model in solve_linear(train, link, values):
        yield model(test_NF)


def solve_linear(train: Examples, link: Link, values: Sequence[float]) -> Iterator[Linear]:
    """The linear model of each C in turn, rising, each from the one before.

    With fewer rows than features the solution lies in the span of the rows: it is found there, which changes nothing
    but the time.

    Args:
        train: standardised.
        link: how the outputs answer.
        values: of C.
    """
    x_ND = train.x_NF
    back_DF: Array | None = None
    if x_ND.shape[0] < x_ND.shape[1]:
        u, s, back_DF = np.linalg.svd(x_ND, full_matrices=False)
        x_ND = u * s
    outputs = train.values_NK.shape[1]
    if link == "softmax":
        solvers = [_classes(x_ND, train)]
    elif link == "hazard":
        solvers = [_hazard(x_ND, train)]
    elif link == "sigmoid":
        solvers = [_question(x_ND, train.values_NK[:, k], train.weights_NK[:, k]) for k in range(outputs)]
    else:
        solvers = [_number(x_ND, train.values_NK[:, k], train.weights_NK[:, k]) for k in range(outputs)]
    for C in values:
        parts = [solve(C) for solve in solvers]
        weight, bias = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        yield Linear(weight if back_DF is None else weight @ back_DF, bias)


Solve = Callable[[float], tuple[Array, Array]]
"""From C to weights (K, D) and biases (K,)."""


def _logistic(x_ND: Array, y_N: npt.NDArray[np.intp], weights_N: Array) -> Callable[[float], Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MOST_STEPS, tol=TOLERANCE, warm_start=True)

    def solve(C: float) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the largest C, which then lose by their score
            return model.set_params(C=C).fit(x_ND, y_N, sample_weight=weights_N)

    return solve


def _classes(x_ND: Array, train: Examples) -> Solve:
    """Multinomial logistic regression; a class without a row gets no weights, and a chance of half a row."""
    y_N, weights_N = train.values_NK.argmax(axis=1), train.weights_NK[:, 0]
    present = np.unique(y_N)
    K, D = train.values_NK.shape[1], x_ND.shape[1]
    absent = -np.log(2.0 * len(y_N))
    if len(present) == 1:
        bias_K = np.full(K, absent)
        bias_K[present] = 0
        return lambda C: (np.zeros((K, D)), bias_K)
    solve = _logistic(x_ND, y_N, weights_N)

    def solved(C: float) -> tuple[Array, Array]:
        model = solve(C)
        weight, bias = model.coef_, model.intercept_
        if len(present) == 2:  # one logit of the second class: half of it for it, half against the first
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight_KD, bias_K = np.zeros((K, D)), np.full(K, bias.mean() + absent)
        weight_KD[present], bias_K[present] = weight, bias
        return weight_KD, bias_K

    return solved


def _question(x_ND: Array, values_N: Array, weights_N: Array) -> Solve:
    """Logistic regression of one of several questions; one that has a single answer gets no weights."""
    known = weights_N > 0
    y = values_N[known].astype(np.intp)
    if len(np.unique(y)) < 2:
        p = (y.sum() + 0.5) / (len(y) + 1)
        return lambda C: (np.zeros((1, x_ND.shape[1])), np.array([np.log(p / (1 - p))]))
    solve = _logistic(x_ND[known], y, weights_N[known])

    def solved(C: float) -> tuple[Array, Array]:
        model = solve(C)
        return model.coef_.copy(), model.intercept_.copy()

    return solved


def _number(x_ND: Array, values_N: Array, weights_N: Array) -> Solve:
    """Ridge regression with the penalty ‖w‖² / 2C beside half the summed squares."""
    from sklearn.linear_model import Ridge

    def solved(C: float) -> tuple[Array, Array]:
        model = Ridge(alpha=1 / C).fit(x_ND, values_N, sample_weight=weights_N)
        return model.coef_[None], np.array([model.intercept_])

    return solved


def _hazard(x_ND: Array, train: Examples) -> Solve:
    """Cox's regression with the penalty ‖w‖² / 2C beside the negative log partial likelihood."""
    from medsoft.classifiers.survival.linear import solve_cox

    last_D = np.zeros(x_ND.shape[1])

    def solved(C: float) -> tuple[Array, Array]:
        nonlocal last_D
        last_D = solve_cox(x_ND, train.values_NK[:, 0], train.values_NK[:, 1], 1 / C, last_D)
        return last_D[None], np.zeros(1)

    return solved


def _possible(examples: Examples, fold_N: npt.NDArray[np.intp]) -> list[int]:
    """Numbers of neighbours of which the smallest inner training part has enough."""
    smallest = len(fold_N) - int(np.bincount(fold_N).max())
    return [k for k in NEIGHBOURS if k <= max(1, smallest // 2)]


def neighbours_path(train: Examples, link: Link, values: Sequence[float], test_NF: Array) -> Iterator[Array]:
    """Logits (n, K) of test vectors for each number of neighbours in turn."""
    from sklearn.neighbors import NearestNeighbors

    most = min(int(max(values)), len(train.x_NF))
    nearest_nk = NearestNeighbors(n_neighbors=most).fit(train.x_NF).kneighbors(test_NF, return_distance=False)
    votes_nkK, weights_nkK = (train.values_NK * train.weights_NK)[nearest_nk], train.weights_NK[nearest_nk]
    prior_K = prior(train, link)
    for k in values:
        votes, weights = votes_nkK[:, : int(k)].sum(axis=1), weights_nkK[:, : int(k)].sum(axis=1)
        share = (votes + prior_K) / (weights + 1)
        yield np.log(share) if link == "softmax" else np.log(share / (1 - share)) if link == "sigmoid" else share


def prior(train: Examples, link: Link) -> Array:
    """(K,) mean answers of the training rows: what one neighbour more is taken to say, so that no share is 0 or 1."""
    weights_K = train.weights_NK.sum(axis=0)
    mean_K: Array = (train.values_NK * train.weights_NK).sum(axis=0) / np.maximum(weights_K, 1e-12)
    least = 0.5 / (len(train.values_NK) + 1)
    return mean_K if link == "identity" else mean_K.clip(least, 1 - least)
