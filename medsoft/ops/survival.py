"""Likelihoods of times until an event, of which some are censored: Cox's, of discrete time, and multi-task logistic.

Times (N,) are above 0; events (N,) are 1 where it happened at that time, and 0 where a sample was last seen without it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cox_loss(risk_N: Tensor, time_N: Tensor, event_N: Tensor) -> Tensor:
    """Negative log partial likelihood over the number of events; 0, with gradients of 0, where nothing happened.

    Ties are taken as Efron does: of d events at one time, event l leaves l / d of what they add to the risk set (B.
    Efron, Journal of the American Statistical Association 72, 1977, section 5; D. R. Cox, Journal of the Royal
    Statistical Society B 34, 1972).

    Args:
        risk_N: (N,) log hazards, up to a constant.
        time_N: (N,) times.
        event_N: (N,) 1 or 0.

    Returns:
        A scalar of the dtype of ``risk_N``.
    """
    order_N = torch.argsort(time_N, descending=True, stable=True)
    risk_N, event_N = risk_N[order_N], event_N[order_N].to(risk_N)
    events = event_N.sum()
    if not bool(events > 0):
        return 0 * risk_N.sum()
    _, group_N, count_G = torch.unique_consecutive(time_N[order_N], return_inverse=True, return_counts=True)
    ends_G = count_G.cumsum(0) - 1
    # Later times come first, so that a group's risk set is what is summed up to its last member.
    at_risk_N = torch.logcumsumexp(risk_N, 0)[ends_G][group_N]
    zeros_G = torch.zeros(len(count_G), dtype=risk_N.dtype, device=risk_N.device)
    events_G = zeros_G.index_add(0, group_N, event_N)
    dying_G = zeros_G.index_add(0, group_N, event_N * (risk_N - at_risk_N).exp())
    before_G = events_G.cumsum(0) - events_G
    earlier_N = event_N.cumsum(0) - event_N - before_G[group_N]  # events of the group that come before this one
    left_N = earlier_N / events_G[group_N].clamp(min=1)
    logs_N = at_risk_N + torch.log1p(-(left_N * event_N) * dying_G[group_N])
    return (event_N * (logs_N - risk_N)).sum() / events


def breslow(risk_N: Tensor, time_N: Tensor, event_N: Tensor) -> tuple[Tensor, Tensor]:
    """The cumulative baseline hazard of a Cox model: the hazard of a sample of log hazard 0.

    (N. E. Breslow, discussion of Cox 1972.)

    Args:
        risk_N: (N,) log hazards.
        time_N: (N,) times.
        event_N: (N,) 1 or 0.

    Returns:
        Distinct times of events (M,), rising, and the cumulative hazard (M,) from each on; both float64.
    """
    risk_N, time_N = risk_N.double().cpu(), time_N.double().cpu()
    times_M, deaths_M = torch.unique(time_N[event_N.cpu() > 0], return_counts=True)
    order_N = torch.argsort(time_N, descending=True)
    sums_N = torch.logcumsumexp(risk_N[order_N], 0)
    at_risk_M = len(time_N) - torch.searchsorted(time_N.sort().values, times_M)
    return times_M, (deaths_M.log() - sums_N[at_risk_M - 1]).exp().cumsum(0)


def intervals_of(time_N: Tensor, event_N: Tensor, cuts_K: Tensor) -> tuple[Tensor, Tensor]:
    """In which interval each event happened, and how many intervals were survived.

    Interval k is (c_{k-1}, c_k], with c_{-1} = 0. Who is censored within an interval has survived it where at least
    half of it was lived through (M. F. Gensheimer, B. Narasimhan, PeerJ 7:e6257, 2019). What happens after the last cut
    is a survival of all intervals.

    Args:
        time_N: (N,) times.
        event_N: (N,) 1 or 0.
        cuts_K: (K,) ends of the intervals, rising, above 0.

    Returns:
        (N,) int64 intervals that were survived, 0 to K; (N,) bool whether the event happened in the next one.
    """
    starts_K = torch.cat([cuts_K.new_zeros(1), cuts_K[:-1]])
    before_N = torch.searchsorted(cuts_K, time_N, right=False)  # cuts below the time
    lived_N = torch.searchsorted((starts_K + cuts_K) / 2, time_N, right=True)
    happened_N = (event_N > 0) & (before_N < len(cuts_K))
    return torch.where(event_N > 0, before_N, lived_N), happened_N


def hazard_loss(logits_NK: Tensor, survived_N: Tensor, happened_N: Tensor) -> Tensor:
    """Mean negative log likelihood of discrete hazards h_k = sigmoid(logits): P(event in k | k - 1 survived).

    An event in interval k: log h_k + the sum over l < k of log(1 - h_l). Without one: the sum over those survived.

    Args:
        logits_NK: (N, K).
        survived_N: (N,) of ``intervals_of``.
        happened_N: (N,) of ``intervals_of``.
    """
    interval_K = torch.arange(logits_NK.shape[1], device=logits_NK.device)
    lived_NK = (interval_K < survived_N[:, None]).to(logits_NK)
    died_NK = ((interval_K == survived_N[:, None]) & happened_N[:, None]).to(logits_NK)
    return (lived_NK * F.softplus(logits_NK) + died_NK * F.softplus(-logits_NK)).sum(1).mean()


def logistic_loss(logits_NK: Tensor, survived_N: Tensor, happened_N: Tensor) -> Tensor:
    """Mean negative log likelihood of multi-task logistic regression.

    An event in interval k has the score of the logits from k on, survival of all intervals has 0; probabilities are the
    softmax over these K + 1 (C.-N. Yu, R. Greiner, H.-C. Lin, V. Baracos, NeurIPS 2011, equation 3). A censored sample
    has the sum over all that is still possible.

    Args:
        logits_NK: (N, K).
        survived_N: (N,) of ``intervals_of``.
        happened_N: (N,) of ``intervals_of``.
    """
    log_p_NO = outcome_scores(logits_NK).log_softmax(1)
    outcome_O = torch.arange(log_p_NO.shape[1], device=logits_NK.device)
    possible_NO = torch.where(happened_N[:, None], outcome_O == survived_N[:, None], outcome_O >= survived_N[:, None])
    return -log_p_NO.masked_fill(~possible_NO, -torch.inf).logsumexp(1).mean()


def outcome_scores(logits_NK: Tensor) -> Tensor:
    """Scores (N, K + 1) of an event in each interval, and of survival of all: sums of the logits from there on."""
    from_here_NK = logits_NK.flip(1).cumsum(1).flip(1)
    return torch.cat([from_here_NK, torch.zeros_like(logits_NK[:, :1])], 1)


def logistic_cumulative_hazard(logits_NK: Tensor) -> Tensor:
    """-log of the survival (N, K) at the end of each interval, of multi-task logistic regression."""
    scores_NO = outcome_scores(logits_NK)
    later = [scores_NO[:, k + 1 :].logsumexp(1) for k in range(logits_NK.shape[1])]
    return scores_NO.logsumexp(1, keepdim=True) - torch.stack(later, 1)


def discrete_cumulative_hazard(logits_NK: Tensor) -> Tensor:
    """-log of the survival (N, K) at the end of each interval, of discrete hazards."""
    return F.softplus(logits_NK).cumsum(1)


def interpolation(cuts_K: Tensor, times_T: Tensor) -> Tensor:
    """Weights (T, K) that make cumulative hazards at cuts those at other times: linear in between, flat after the last.

    A linear cumulative hazard is a constant hazard within each interval. Before the first cut it rises from 0.
    """
    ends_K1 = torch.cat([cuts_K.new_zeros(1), cuts_K])
    found_T = times_T.clamp(max=float(cuts_K[-1]))
    right_T = torch.searchsorted(cuts_K, found_T, right=False)
    share_T = (found_T - ends_K1[right_T]) / (cuts_K[right_T] - ends_K1[right_T])
    weights_TK = torch.zeros(len(times_T), len(cuts_K), dtype=cuts_K.dtype)
    rows_T = torch.arange(len(times_T))
    weights_TK[rows_T, right_T] = share_T
    inner_T = right_T > 0
    weights_TK[rows_T[inner_T], right_T[inner_T] - 1] = 1 - share_T[inner_T]
    return weights_TK
