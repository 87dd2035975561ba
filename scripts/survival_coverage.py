#!/usr/bin/env python
"""How often bootstrap intervals of survival metrics contain the truth: python scripts/survival_coverage.py 300

Times are exponential with log hazard x - ln 10, x standard normal; the model knows 0.7 x and normal noise of 0.5.
Censoring is exponential too, and at 25. The truth is that of 200,000 samples: of Harrell's C with the same censoring,
on which it depends; of all others without any, which shows whether the weights for the censored do their work.
"""

from __future__ import annotations

import sys

import numpy as np

from medsoft.evaluation.intervals.bootstrap import make_units, percentile_interval, resample
from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.survival.basis import Basis, Outcomes
from medsoft.evaluation.survival.measures import Survived

TIMES, TAU, DRAWS, LARGE = (2.0, 5.0, 8.0), 12.0, 500, 200_000
KEYS = (
    Key("c_index"),
    Key("uno_c"),
    Key("auc_at", time=5.0),
    Key("brier_at", time=5.0),
    Key("integrated_brier"),
    Key("oe_at", time=5.0),
)
SETTINGS = {"100 rows": (100, 12.0), "300 rows": (300, 12.0), "300 rows, many censored": (300, 4.0)}


def sample(n: int, censoring: float, rng: np.random.Generator) -> tuple[Outcomes, np.ndarray]:
    """Outcomes and risks; infinite ``censoring`` for none."""
    x = rng.normal(size=n)
    risk = 0.7 * x + rng.normal(scale=0.5, size=n)
    event = rng.exponential(10 * np.exp(-x))
    end = np.minimum(rng.exponential(censoring, size=n), 25.0) if np.isfinite(censoring) else np.full(n, np.inf)
    return Outcomes(np.minimum(event, end), event <= end), risk


def measured(outcomes: Outcomes, risk: np.ndarray) -> Survived:
    """All metrics of a sample."""
    survival = {time: np.exp(-time / 10 * np.exp(risk)) for time in TIMES}
    return Survived(outcomes, risk, survival, np.arange(len(risk)), Basis.of(outcomes, times=TIMES, tau=TAU))


def main(simulations: int) -> None:
    rng = np.random.default_rng(0)
    ones = np.ones((1, LARGE))
    free = measured(*sample(LARGE, np.inf, rng))(ones)
    print("| rows | censored | " + " | ".join(key.metric for key in KEYS) + " |")
    for name, (n, censoring) in SETTINGS.items():
        outcomes, risk = sample(LARGE, censoring, rng)
        truth = {key: float(free[key][0]) for key in KEYS}
        truth[Key("c_index")] = float(measured(outcomes, risk)(ones)[Key("c_index")][0])
        hits, values = dict.fromkeys(KEYS, 0), {key: [] for key in KEYS}
        for seed in range(simulations):
            survived = measured(*sample(n, censoring, rng))
            found = survived(np.ones((1, n)))
            drawn = resample(make_units(np.arange(n)), survived, DRAWS, seed)
            for key in KEYS:
                interval = percentile_interval(drawn[key])
                values[key].append(float(found[key][0]))
                hits[key] += interval.low is not None and interval.low <= truth[key] <= interval.high
        cells = [
            f"{100 * hits[key] / simulations:.1f} % (truth {truth[key]:.3f}, mean {np.nanmean(values[key]):.3f})"
            for key in KEYS
        ]
        print(f"| {name} | {100 * (1 - outcomes.event.mean()):.0f} % | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
