#!/usr/bin/env python
"""How often ``medsoft compare`` calls models non-inferior that are worse by just the margin: docs/guide/evaluation.md.

    python scripts/non_inferiority.py            2,000 studies; some 3 minutes on one core
    python scripts/non_inferiority.py 200        200 studies

In each study five models are compared with a reference on the same 400 rows, half of them ill. Scores are normal; the
reference's AUROC is 0.85 and that of every model 0.80, with a margin of 0.05: every "shown" is wrong.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from medsoft.evaluation.comparison.compare import compare_models
from medsoft.evaluation.comparison.pairing import pair
from medsoft.evaluation.metrics.by_name import Asked
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

TASK = Task.of("binary", ("healthy", "ill"))
ROWS, MODELS, REFERENCE, MARGIN = 400, 5, 0.85, 0.05


def study(rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether any model is called non-inferior, and whether any interval alone would have said so."""
    truth = np.arange(ROWS) % 2
    ids = [str(row) for row in range(ROWS)]
    tables = []
    for model in range(MODELS + 1):
        auroc = REFERENCE if model == MODELS else REFERENCE - MARGIN
        p = expit(np.sqrt(2) * norm.ppf(auroc) * truth + rng.normal(size=ROWS))
        tables.append((f"{model}", make_predictions(TASK, ids, np.stack([1 - p, p], axis=1), truth, split="test")))
    paired = pair(tables, TASK, split="test", level="row", rule=parse_rule("0.5"))
    found = compare_models(paired, Asked("auroc"), Settings(draws=1), MARGIN)
    by_interval = [result.low is not None and result.low > -MARGIN for result in found]
    return any(result.not_worse for result in found), any(by_interval)


def shares(studies: int, seed: int = 0) -> tuple[float, float]:
    """Shares of the studies with a wrong "shown": as ``compare`` says it, and by intervals alone."""
    rng = np.random.default_rng(seed)
    found = np.array([study(rng) for _ in range(studies)])
    return float(found[:, 0].mean()), float(found[:, 1].mean())


if __name__ == "__main__":
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    shown, by_intervals = shares(n)
    print(f"{n} studies of {MODELS} models: shown in {shown:.1%}; by intervals alone in {by_intervals:.1%}")
