"""Cox regression on vectors, solved: a linear log hazard with a ridge penalty, from all rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medsoft.classifiers.survival.objectives import Cox
from medsoft.errors import RunError
from medsoft.ops.survival import cox_loss

Array = npt.NDArray[np.float64]

MOST_STEPS = 2000
STEEPEST = 1e-7
"""Largest entry of the mean loss's gradient at which the solution is taken for found."""


def solve_cox(x_ND: Array, time_N: Array, event_N: Array, penalty: float, start_D: Array | None = None) -> Array:
    """Weights (D,) that minimise the negative log partial likelihood (Efron's ties) plus penalty / 2 · ‖w‖².

    Args:
        x_ND: vectors, best standardised.
        time_N: times.
        event_N: 1 or 0.
        penalty: 0 for none.
        start_D: weights to begin with; 0 if not given.

    Raises:
        RunError: there is no solution: without a penalty, a combination of columns orders the events.
    """
    from scipy.optimize import minimize

    x, time, event = (torch.from_numpy(np.array(values, np.float64)) for values in (x_ND, time_N, event_N))
    events = float(event.sum())
    if not events:
        return np.zeros(x_ND.shape[1])

    def loss(w_D: Array) -> tuple[float, Array]:
        weights = torch.tensor(w_D, requires_grad=True)
        value = cox_loss(x @ weights, time, event) + penalty / (2 * events) * (weights @ weights)
        value.backward()  # type: ignore[no-untyped-call]
        assert weights.grad is not None
        return float(value.detach()), weights.grad.numpy()

    start = np.zeros(x_ND.shape[1]) if start_D is None else start_D
    options: dict[str, Any] = {"maxiter": MOST_STEPS, "maxcor": 30, "gtol": STEEPEST, "ftol": 0.0}
    solver: Any = minimize  # the stubs' overloads do not know options that are built
    found: Array = solver(loss, start, jac=True, method="L-BFGS-B", options=options).x
    if penalty == 0 and (not np.isfinite(found).all() or float(np.abs(x_ND @ found).max()) > 50):
        raise RunError(
            "Cox's regression has no solution without a penalty: some combination of the features tells the order of "
            "the events. Give it one (model.C), or leave columns out"
        )
    return found


def predict_by_cox(train_ND: Array, targets: Array, x_MD: Array, penalty: float, times: tuple[float, ...]) -> Array:
    """Risk and survival (M, 1 + T) of rows, by a Cox regression on others.

    Args:
        train_ND: vectors to learn from.
        targets: (N, 2) their times and events.
        x_MD: vectors to predict.
        penalty: as for ``solve_cox``.
        times: at which survival is stated.
    """
    w_D = solve_cox(train_ND, targets[:, 0], targets[:, 1], penalty)
    model = Cox(times)
    model.learn(torch.from_numpy(train_ND @ w_D)[:, None], torch.from_numpy(targets))
    answers: Array = model.probabilities(torch.from_numpy(x_MD @ w_D)[:, None]).numpy()
    return answers
