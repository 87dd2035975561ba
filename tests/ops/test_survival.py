"""Likelihoods of survival: against formulae written plainly, and against libraries that have them."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def sample(seed: int, n: int = 25, times: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Risks, times of which many are tied, and events."""
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, times, n).astype(float), (rng.random(n) < 0.6).astype(float)
    event[0] = 1
    return torch.from_numpy(rng.normal(size=n) * 2), torch.from_numpy(time), torch.from_numpy(event)


def plain_efron(risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Efron's likelihood, a time after another."""
    total = torch.zeros((), dtype=risk.dtype)
    for t in time[event == 1].unique():
        dying, at_risk = (event == 1) & (time == t), time >= t
        d = int(dying.sum())
        total = total - risk[dying].sum()
        for left in range(d):
            total = total + (risk[at_risk].exp().sum() - left / d * risk[dying].exp().sum()).log()
    return total / event.sum()


# ---- Cox


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_the_partial_likelihood_and_its_gradient_are_efrons(seed):
    risk, time, event = sample(seed)
    ours, plain = risk.clone().requires_grad_(), risk.clone().requires_grad_()
    loss, wanted = cox_loss(ours, time, event), plain_efron(plain, time, event)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, ours), torch.autograd.grad(wanted, plain))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
def test_only_the_order_of_times_and_differences_of_risks_count(seed, shift):
    risk, time, event = sample(seed)
    loss = cox_loss(risk, time, event)
    torch.testing.assert_close(cox_loss(risk + shift, time**3 + 7, event), loss)
    rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(risk)))
    torch.testing.assert_close(cox_loss(risk[rows], time[rows], event[rows]), loss)


def test_a_step_without_an_event_has_no_loss_and_no_gradient():
    risk = torch.randn(4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = cox_loss(risk, torch.arange(1.0, 5), torch.zeros(4))
    loss.backward()
    assert float(loss.detach()) == 0
    torch.testing.assert_close(risk.grad, torch.zeros(4))


def test_extreme_risks_stay_numbers():
    risk = torch.tensor([300.0, -300.0, 80.0, 80.0, 0.0]).requires_grad_()
    loss = cox_loss(risk, torch.tensor([1.0, 2, 2, 2, 3]), torch.ones(5))
    loss.backward()
    assert loss.isfinite()
    assert risk.grad is not None
    assert risk.grad.isfinite().all()


def test_the_higher_risk_of_who_dies_first_is_the_lower_loss():
    time, event = torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 1, 0])
    assert cox_loss(torch.tensor([2.0, 1, 0]), time, event) < cox_loss(torch.tensor([0.0, 1, 2]), time, event)


def test_ties_are_those_of_torchsurv():
    cox = pytest.importorskip("torchsurv.loss.cox", reason="torchsurv is not installed")
    for seed in range(5):
        risk, time, event = sample(seed)
        # Its mean is over the different times, not over the events.
        wanted = cox.neg_partial_log_likelihood(risk, event.bool(), time, ties_method="efron", reduction="sum")
        torch.testing.assert_close(cox_loss(risk, time, event) * event.sum(), wanted.to(risk), rtol=1e-5, atol=1e-5)


def test_the_baseline_hazard_expects_as_many_events_as_there_were():
    risk, time, event = sample(3)
    times, hazard = breslow(risk, time, event)
    found = torch.cat([hazard.new_zeros(1), hazard])[torch.searchsorted(times, time, right=True)]
    torch.testing.assert_close((found * risk.exp()).sum(), event.sum())
    assert (hazard.diff() > 0).all()
    shifted = breslow(risk + 3, time, event)[1]
    torch.testing.assert_close(shifted * np.exp(3), hazard)


def test_the_baseline_hazard_is_that_of_lifelines():
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    _, time, event = sample(1, n=60, times=30)
    x = np.random.default_rng(2).normal(size=60)
    model = lifelines.CoxPHFitter().fit(pd.DataFrame({"t": time, "e": event, "x": x}), "t", "e")
    times, hazard = breslow(torch.from_numpy(model.params_["x"] * (x - x.mean())), time, event)
    known = model.baseline_cumulative_hazard_.loc[times.numpy()].to_numpy()[:, 0]
    np.testing.assert_allclose(hazard.numpy(), known, rtol=1e-6)


# ---- intervals of time

CUTS = torch.tensor([2.0, 4.0, 10.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("time", "event", "survived", "happened"),
    [
        (0.5, 1, 0, True),
        (2.0, 1, 0, True),  # an interval holds its end
        (2.1, 1, 1, True),
        (10.0, 1, 2, True),
        (11.0, 1, 3, False),  # beyond what the model knows
        (0.9, 0, 0, False),  # less than half of the first interval
        (1.0, 0, 1, False),
        (2.9, 0, 1, False),
        (3.0, 0, 2, False),
        (50.0, 0, 3, False),
    ],
)
def test_what_a_time_says_of_intervals(time, event, survived, happened):
    found = intervals_of(torch.tensor([time]).double(), torch.tensor([event]).double(), CUTS)
    assert (int(found[0]), bool(found[1])) == (survived, happened)


def plain_discrete(logits: np.ndarray, survived: int, happened: bool) -> float:
    hazard = 1 / (1 + np.exp(-logits))
    alive = np.log1p(-hazard[:survived]).sum()
    return -(alive + (np.log(hazard[survived]) if happened else 0))


def plain_logistic(logits: np.ndarray, survived: int, happened: bool) -> float:
    """By all sequences that a label can be: dead from interval k on, or never."""
    scores = np.exp([logits[k:].sum() for k in range(len(logits) + 1)])
    possible = scores[survived : survived + 1] if happened else scores[survived:]
    return -np.log(possible.sum() / scores.sum())


@pytest.mark.parametrize(("loss", "plain"), [(hazard_loss, plain_discrete), (logistic_loss, plain_logistic)])
def test_likelihoods_of_intervals_are_as_written_plainly(loss, plain):
    logits = np.random.default_rng(0).normal(size=(7, 3))
    labels = [(0, True), (1, True), (2, True), (0, False), (1, False), (2, False), (3, False)]
    survived, happened = torch.tensor([k for k, _ in labels]), torch.tensor([one for _, one in labels])
    wanted = np.mean([plain(row, *label) for row, label in zip(logits, labels, strict=True)])
    assert float(loss(torch.from_numpy(logits), survived, happened)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "hazard"), [(hazard_loss, discrete_cumulative_hazard), (logistic_loss, logistic_cumulative_hazard)]
)
def test_survival_is_what_the_likelihood_says(loss, hazard):
    logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    no = torch.tensor([False])
    said = torch.tensor([float(loss(logits, torch.tensor([k]), no)) for k in (1, 2, 3)], dtype=torch.float64)
    torch.testing.assert_close(hazard(logits)[0], said)
    died = sum(float((-loss(logits, torch.tensor([k]), ~no)).exp()) for k in range(3))
    assert died + float((-said[-1]).exp()) == pytest.approx(1)


def test_larger_logits_are_a_worse_survival_under_both():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    for hazard, k in itertools.product((discrete_cumulative_hazard, logistic_cumulative_hazard), range(4)):
        worse = logits.clone()
        worse[:, k] += 1
        assert (hazard(worse) >= hazard(logits) - 1e-6).all()
        assert (hazard(worse).sum(1) > hazard(logits).sum(1)).all()


def test_between_cuts_the_hazard_is_constant_and_beyond_the_last_survival_stays():
    hazards = torch.tensor([0.2, 1.0, 1.3], dtype=torch.float64)
    times = torch.tensor([1.0, 2.0, 3.0, 4.0, 7.0, 10.0, 99.0], dtype=torch.float64)
    found = interpolation(CUTS, times) @ hazards
    np.testing.assert_allclose(found, [0.1, 0.2, 0.6, 1.0, 1.15, 1.3, 1.3])
