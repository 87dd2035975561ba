#!/usr/bin/env python
"""How often the intervals of ``medsoft evaluate`` hold the truth: the figures of docs/experiments/intervals.md.

    python scripts/coverage.py            500 tables for each line; about 15 minutes on one core
    python scripts/coverage.py 200 3 4    200 tables, only the third and the fourth line

Scores are normal, shifted by the class. Clustered tables have 4 rows a patient, who share half of the scores' variance;
the class is the patient's own (one label) or each row's (mixed). The truth comes from 400,000 rows.
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm

from medsoft.evaluation.intervals.bootstrap import Units, make_units, patients_of, percentile_interval, resample
from medsoft.evaluation.intervals.delong import delong
from medsoft.evaluation.intervals.estimates import estimates
from medsoft.evaluation.metrics.targets import targets
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.metrics.weighted import Key, Probabilistic, Ranked, weighted_metrics
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

TASK = Task.of("binary", ("no", "yes"))
METRICS = ("auroc", "average_precision", "sensitivity", "specificity", "balanced_accuracy", "f1", "brier")
ANALYTIC = {"auroc": "DeLong", "sensitivity": "Wilson", "specificity": "Wilson"}
AUROC, POINT = Key("auroc", "yes"), OperatingPoint("yes", "0.5", 0.5)
DRAWS = 2000
WITH_MIX = ("average_precision", "f1", "brier")
"""Metrics that depend on the mix of classes, which the tables have by chance and a stratified draw holds fixed."""
SETTINGS = list(product(("independent", "one label", "mixed"), (100, 400), ((0.8, 0.4), (0.95, 0.15))))
"""Kind of table, rows, and AUROC with the share of positive rows."""
COLUMNS = [
    *("auroc, DeLong", "auroc, bootstrap", "difference of AUROCs, DeLong", "difference of AUROCs, bootstrap"),
    *("average_precision, bootstrap", "sensitivity, Wilson", "sensitivity, bootstrap", "specificity, Wilson"),
    *("specificity, bootstrap", "balanced_accuracy, bootstrap", "f1, bootstrap", "brier, bootstrap"),
    *(f"{name}, bootstrap without strata" for name in WITH_MIX),
]


def simulate(
    rng: np.random.Generator, n: int, auroc: float, prevalence: float, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, the scores of a model and of a second one that shares half of its errors, and the patients."""
    rows = 1 if kind == "independent" else 4
    patient = np.arange(n) // rows
    drawn = rng.random(n) < prevalence
    truth = drawn[patient * rows] if kind == "one label" else drawn
    shift = np.sqrt(2) * norm.ppf(auroc)
    share = 0.0 if rows == 1 else 0.5
    common = np.sqrt(share) * rng.normal(size=n)[patient]
    first, second, both = (rng.normal(size=n) for _ in range(3))
    own = np.sqrt(1 - share)
    a = shift * truth + common + own * (first + both) / np.sqrt(2)
    b = shift * truth + common + own * (second + both) / np.sqrt(2)
    # The probability that the model's own score implies: sensitivity and specificity at 0.5 lie within (0, 1).
    p = [expit(shift * (z - shift / 2) + np.log(prevalence / (1 - prevalence))) for z in (a, b)]
    return truth, p[0], p[1], patient


def table(truth: np.ndarray, p: np.ndarray, patient: np.ndarray) -> pd.DataFrame:
    """A predictions table."""
    names = [f"P{i}" for i in patient]
    ids = [f"s{i}" for i in range(len(p))]
    return make_predictions(TASK, ids, np.stack([1 - p, p], axis=1), truth, patient=names, split="test")


def coverage(repeats: int, n: int, auroc: float, prevalence: float, kind: str) -> dict[str, list[float | None]]:
    """For each metric, 1 where the interval holds the truth, 0 where it does not, None where there is none."""
    rng = np.random.default_rng(12345)
    truth, p, _, patient = simulate(rng, 400_000, auroc, prevalence, kind)
    units, measures = prepare(table(truth, p, patient))
    truths = {key.metric: float(value[0]) for key, value in weighted_metrics(measures, units.ones).items()}
    found: dict[str, list[float | None]] = {}
    for repeat in range(repeats):
        truth, first, second, patient = simulate(rng, n, auroc, prevalence, kind)
        frame = table(truth, first, patient)
        units, measures = prepare(frame)
        other = Ranked(table(truth, second, patient), TASK, units.of_row)

        def statistic(weights: np.ndarray, measures: list = measures, other: Ranked = other) -> dict:
            values = weighted_metrics(measures, weights)
            return values | {"other": weighted_metrics([other], weights)[AUROC]}

        drawn = resample(units, statistic, DRAWS, repeat)
        free = make_units(units.of_row)
        mixing = (
            resample(free, lambda w, m=measures: weighted_metrics(m, w), DRAWS, repeat) if units.stratified else drawn
        )
        point = weighted_metrics(measures, units.ones)
        for estimate in estimates(point, drawn, frame, TASK, units, 0.95, {}):
            name, held = estimate.metric, truths[estimate.metric]
            if name not in METRICS:
                continue
            if name == "auroc" or estimate.method == "wilson":
                note(found, f"{name}, {ANALYTIC[name]}", estimate.low, estimate.high, held)
            if name in WITH_MIX:
                low, high, *_ = percentile_interval(mixing[estimate.key])
                note(found, f"{name}, bootstrap without strata", low, high, held)
            note(found, f"{name}, bootstrap", estimate.bootstrap_low, estimate.bootstrap_high, held)
        if 0 < truth.sum() < n:
            difference, error = delong(truth, np.stack([first, second]), patient).difference()
            half = norm.ppf(0.975) * error if error > 0 else None
            low, high = (None, None) if half is None else (difference - half, difference + half)
            note(found, "difference of AUROCs, DeLong", low, high, 0.0)
            low, high, *_ = percentile_interval(drawn[AUROC] - drawn["other"])
            note(found, "difference of AUROCs, bootstrap", low, high, 0.0)
    return found


def prepare(frame: pd.DataFrame) -> tuple[Units, list]:
    """Patients and metrics, as ``medsoft evaluate`` has them."""
    units = make_units(patients_of(frame), targets(frame, TASK))
    return units, [Ranked(frame, TASK, units.of_row, [POINT]), Probabilistic(frame, TASK, units.of_row)]


def note(found: dict[str, list[float | None]], name: str, low: float | None, high: float | None, truth: float) -> None:
    """Write down whether an interval holds the truth."""
    held = None if low is None or high is None else float(low <= truth <= high)
    found.setdefault(name, []).append(held)


def main() -> None:
    """Print a table in Markdown, a line a setting."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    wanted = [int(word) for word in sys.argv[2:]] or range(1, len(SETTINGS) + 1)
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * len(COLUMNS), flush=True)
    for number in wanted:
        kind, n, (auroc, prevalence) = SETTINGS[number - 1]
        found = coverage(repeats, n, auroc, prevalence, kind)
        cells = [_cell(found.get(column, [])) for column in COLUMNS]
        print(f"| {kind}, n = {n}, AUROC {auroc}, {prevalence:.0%} | " + " | ".join(cells) + " |", flush=True)


def _cell(held: list[float | None]) -> str:
    known = [value for value in held if value is not None]
    missing = f" ({len(held) - len(known)} none)" if len(known) < len(held) else ""
    return f"{100 * np.mean(known):.1f}{missing}" if known else ""


if __name__ == "__main__":
    main()
