"""Heads of survival: one orientation and one scale of risk, what a checkpoint keeps, and solutions of libraries."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.classifiers.probe_solver import GRID, Examples, choose, solve_linear
from medsoft.classifiers.survival.linear import predict_by_cox, solve_cox
from medsoft.classifiers.survival.objectives import Cox, make_objective
from medsoft.errors import RunError
from medsoft.task_types import Objective, ObjectiveOptions
from tests.builders.survival import WEIGHTS, plain_concordance, simulate

HEADS = ("cox", "discrete", "logistic")
TIMES = (50.0, 200.0, 600.0)


def trained(head: str, n: int = 800, seed: int = 0) -> tuple[Objective, torch.nn.Module]:
    """A linear network under a head, trained on samples of known hazards."""
    x, _, targets = simulate(n, seed)
    events = np.sort(targets[targets[:, 1] == 1, 0])
    objective = make_objective(TIMES, ObjectiveOptions(survival=head, event_times=events))
    torch.manual_seed(0)
    network = torch.nn.Linear(3, objective.outputs).double()
    inputs, target = torch.from_numpy(x), torch.from_numpy(targets)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective.loss(network(inputs), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        objective.learn(network(inputs), target)
    return objective, network


@pytest.fixture(scope="module", params=HEADS)
def head(request) -> tuple[Objective, torch.nn.Module]:
    return trained(request.param)


@torch.no_grad()
def answers(head: tuple[Objective, torch.nn.Module], x: np.ndarray) -> np.ndarray:
    objective, network = head
    return objective.probabilities(network(torch.from_numpy(x))).numpy()


def test_a_model_that_knows_the_hazard_has_the_concordance_of_the_hazard(head):
    """The classic fault is its sign."""
    x, hazard, targets = simulate(200, seed=9)
    oracle = plain_concordance(hazard, targets)
    assert oracle > 0.7
    assert plain_concordance(answers(head, x)[:, 0], targets) == pytest.approx(oracle, abs=0.02)


def test_the_risk_of_every_head_is_the_log_hazard_against_the_training_part(head):
    """One scale, so that risks of several models can be averaged."""
    x, _, _ = simulate(800)
    risk = answers(head, x)[:, 0]
    assert abs(risk.mean()) < 1e-6
    slope = np.polyfit(x @ WEIGHTS, risk, 1)[0]
    assert slope == pytest.approx(1, abs=0.25), "about: a logistic model is not one of proportional hazards"


def test_survival_is_that_of_the_simulation(head):
    """Exponential times: S(t) = exp(-hazard t)."""
    x, hazard, _ = simulate(300, seed=3)
    p = answers(head, x)[:, 1:]
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p, axis=1) <= 0).all(), "it falls with time"
    wanted = np.exp(-np.exp(hazard)[:, None] * np.array(TIMES) / 400)
    assert np.abs(p - wanted)[:, :2].mean() < 0.05


def test_a_checkpoint_keeps_what_predictions_need(head):
    objective, _ = head
    state = json.loads(json.dumps(objective.state()))
    kind = state["hazards"]["head"]
    again = make_objective(TIMES, ObjectiveOptions(survival=kind))
    again.restore(state)
    logits = torch.randn(5, objective.outputs, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.probabilities(logits), objective.probabilities(logits))
    other = make_objective(TIMES, ObjectiveOptions(survival="cox" if kind != "cox" else "discrete"))
    with pytest.raises(ValueError, match=rf"those of model.survival {kind}, not"):
        other.restore(state)
    if kind != "cox":
        fewer = make_objective(TIMES, ObjectiveOptions(survival=kind, intervals=3))
        with pytest.raises(ValueError, match=r"those of model.intervals 8, not 3"):
            fewer.restore(state)


def test_survival_of_cox_is_a_step_function_of_the_events_of_the_training_part():
    model = Cox((1.0, 2.0, 2.5, 9.0))
    model.learn(torch.zeros(3, 1), torch.tensor([[2.0, 1], [3, 1], [4, 0]]))
    found = model.probabilities(torch.zeros(1, 1))[0, 1:]
    torch.testing.assert_close(found, torch.exp(-torch.tensor([0, 1 / 3, 1 / 3, 1 / 3 + 1 / 2])))


def test_before_anything_is_learnt_there_is_no_survival():
    with pytest.raises(RuntimeError, match="a baseline hazard comes from the training part"):
        Cox((1.0,)).probabilities(torch.zeros(1, 1))


# ---- the solved one


def test_a_solved_cox_regression_finds_the_weights_of_the_simulation():
    x, _, targets = simulate(2000)
    np.testing.assert_allclose(solve_cox(x, *targets.T, 0.0), WEIGHTS, atol=0.1)
    assert np.linalg.norm(solve_cox(x, *targets.T, 1000.0)) < 0.9 * np.linalg.norm(WEIGHTS)


def test_without_a_penalty_an_order_that_is_told_has_no_solution():
    x = np.arange(12.0)[:, None] - 6
    with pytest.raises(RunError, match="no solution without a penalty"):
        solve_cox(x, -x[:, 0] + 20, np.ones(12), 0.0)
    assert np.isfinite(solve_cox(x, -x[:, 0] + 20, np.ones(12), 1.0)).all()


@pytest.mark.parametrize("name", ["gbsg2", "veterans"])
def test_weights_are_those_of_lifelines(name):
    """Real tables with ties; columns as they are, and standardised as a probe has them."""
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    time, event, x = gbsg2() if name == "gbsg2" else veterans()
    frame = x.assign(time=time, event=event)
    known = lifelines.CoxPHFitter().fit(frame, "time", "event", fit_options={"precision": 1e-10})
    sd = x.std(ddof=0)
    found = solve_cox(((x - x.mean()) / sd).to_numpy(), time.to_numpy(float), event.to_numpy(float), 0.0)
    np.testing.assert_allclose(found / sd, known.params_, atol=1e-4)
    targets = np.column_stack([time, event]).astype(float)
    scaled = ((x - x.mean()) / sd).to_numpy()
    p = predict_by_cox(scaled, targets, scaled, 0.0, (100.0, 365.0))
    risk = known.predict_log_partial_hazard(x).to_numpy()
    np.testing.assert_allclose(p[:, 0], risk - risk.mean(), atol=1e-4)
    # lifelines interpolates between events; Breslow's hazard is a step function.
    steps = known.baseline_cumulative_hazard_.iloc[:, 0]
    hazard = np.array([steps.loc[:100.0].iloc[-1], steps.loc[:365.0].iloc[-1]])
    np.testing.assert_allclose(p[:, 1:], np.exp(-np.exp(risk)[:, None] * hazard), atol=1e-4)


@pytest.mark.parametrize("name", ["gbsg2", "veterans"])
def test_weights_are_those_of_scikit_survival(name):
    linear = pytest.importorskip("sksurv.linear_model", reason="scikit-survival is not installed")
    time, event, x = veterans() if name == "veterans" else gbsg2_of_scikit_survival()
    outcome = np.array(list(zip(event > 0, time, strict=True)), dtype=[("e", bool), ("t", float)])
    known = linear.CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(x.to_numpy(), outcome)
    sd = x.std(ddof=0)
    found = solve_cox(((x - x.mean()) / sd).to_numpy(), time.to_numpy(float), event.to_numpy(float), 0.0)
    np.testing.assert_allclose(found / sd, known.coef_, atol=1e-4)


def test_a_penalty_is_that_of_scikit_survival():
    linear = pytest.importorskip("sksurv.linear_model", reason="scikit-survival is not installed")
    x, _, targets = simulate(150, seed=2)
    outcome = np.array([(bool(e), t) for t, e in targets], dtype=[("e", bool), ("t", float)])
    known = linear.CoxPHSurvivalAnalysis(alpha=30.0, ties="efron", tol=1e-12).fit(x, outcome)
    np.testing.assert_allclose(solve_cox(x, *targets.T, 30.0), known.coef_, atol=1e-5)


def gbsg2() -> tuple[pd.Series, pd.Series, pd.DataFrame]:
    from lifelines.datasets import load_gbsg2

    frame = load_gbsg2()
    x = pd.get_dummies(frame.drop(columns=["time", "cens"]), drop_first=True, dtype=float)
    return frame["time"], frame["cens"], x


def gbsg2_of_scikit_survival() -> tuple[pd.Series, pd.Series, pd.DataFrame]:
    from sksurv.datasets import load_gbsg2

    frame, outcome = load_gbsg2()
    x = pd.get_dummies(frame, drop_first=True, dtype=float)
    return pd.Series(outcome["time"]), pd.Series(outcome["cens"].astype(float)), x


def veterans() -> tuple[pd.Series, pd.Series, pd.DataFrame]:
    datasets = pytest.importorskip("sksurv.datasets", reason="scikit-survival is not installed")
    frame, outcome = datasets.load_veterans_lung_cancer()
    x = pd.get_dummies(frame, drop_first=True, dtype=float)
    return pd.Series(outcome["Survival_in_days"]), pd.Series(outcome["Status"].astype(float)), x


def test_the_penalty_of_a_probe_is_chosen_by_folds_of_events():
    x, _, targets = simulate(120, seed=6)
    examples = Examples(x, targets, np.ones_like(targets), x[:0], np.zeros(0, int))
    folds = np.arange(120) % 4
    target = torch.from_numpy(targets)
    objective = Cox(())

    def loss(logits: np.ndarray) -> float:
        return float(objective.loss(torch.from_numpy(logits), target))

    found = choose("C", examples, "hazard", folds, loss, outputs=1)
    assert found.value in GRID
    assert found.value > GRID[0]
    assert found.logits_NK is not None
    assert found.logits_NK.shape == (120, 1)
    assert plain_concordance(found.logits_NK[:, 0], targets) > 0.7
    (model,) = solve_linear(examples, "hazard", [np.inf])
    np.testing.assert_allclose(model.weight_KF[0], solve_cox(x, *targets.T, 0.0), atol=1e-6)
