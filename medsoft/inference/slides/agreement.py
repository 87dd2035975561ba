"""How stable the explanation of a bag is: whether the members of an ensemble point at the same tiles.

An explanation that changes with the seed or the fold says little of the tissue. Two figures, each the mean over the
pairs of members: the rank correlation of what the tiles contribute (C. Spearman, American Journal of Psychology 15,
1904), and the share of the tiles that add most which both members name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from medsoft.evaluation.wording import counted

RANK, SHARED = "contributions_rank_correlation", "contributions_top_shared"
"""Columns of the predictions table."""
MOST = 10
"""Tiles that are looked at: a tenth of all, and no more than this."""


@dataclass(frozen=True)
class Agreement:
    """Of the members of an ensemble about the tiles of one bag.

    Attributes:
        rank: mean rank correlation, 1 for the same order; NaN where the tiles have none.
        shared: mean share of the tiles that add most which two members have in common; NaN of fewer than two tiles.
        by_chance: what ``shared`` would be between two orders that know nothing of each other.
    """

    rank: float
    shared: float
    by_chance: float


def agreement_of(values_MN: npt.NDArray[np.float64]) -> Agreement:
    """Compare what the members say of each tile.

    Args:
        values_MN: (M, N) contributions, or attention, of two or more members.
    """
    n = values_MN.shape[1]
    if n < 2:
        return Agreement(np.nan, np.nan, np.nan)
    top = max(1, min(MOST, n // 10))
    ranks_MN = np.apply_along_axis(rankdata, 1, values_MN)
    best = [set(np.argsort(-row_N, kind="stable")[:top].tolist()) for row_N in values_MN]
    ranks, shares = [], []
    for one, other in combinations(range(len(values_MN)), 2):
        if ranks_MN[one].std() > 0 and ranks_MN[other].std() > 0:  # all the same: there is no order
            ranks.append(float(np.corrcoef(ranks_MN[one], ranks_MN[other])[0, 1]))
        shares.append(len(best[one] & best[other]) / top)
    return Agreement(float(np.mean(ranks)) if ranks else np.nan, float(np.mean(shares)), top / n)


def agreement_columns(found: Sequence[Agreement | None]) -> dict[str, list[float]]:
    """Columns of a predictions table, empty where nothing is known; none where nothing is known of any row."""
    if not any(found):
        return {}
    rows = [one or Agreement(np.nan, np.nan, np.nan) for one in found]
    return {RANK: [one.rank for one in rows], SHARED: [one.shared for one in rows]}


def said_of_agreement(found: Sequence[Agreement | None], unit: str) -> list[str]:
    """One sentence on all bags; none where nothing is known.

    Args:
        found: of each bag.
        unit: what a bag is.
    """
    known = [one for one in found if one is not None and not np.isnan(one.rank)]
    if not known:
        return []
    rank_N = np.array([one.rank for one in known])
    middle, low, high = (f"{value:.2f}" for value in np.quantile(rank_N, [0.5, 0.1, 0.9]))
    shared, by_chance = (float(np.mean([getattr(one, name) for one in known])) for name in ("shared", "by_chance"))
    return [
        f"explanations of {counted(len(known), unit)}: the order of the tiles by what they contribute correlates "
        f"between two members by {middle} in the median (a tenth of the {unit}s below {low}, a tenth above {high}); of "
        f"the tenth of the tiles that adds most ({MOST} at most) two members share {shared:.0%}, by chance "
        f"{by_chance:.0%}"
    ]
