"""How samples came to the numbers, or fell out on the way: the counts of a STARD diagram.

STARD 2015 (P. M. Bossuyt et al., BMJ 351, h5527) asks for the flow of participants: how many could have been taken, how
many were not and why, and at the end the index test's answers against the reference standard's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.metrics.targets import one_against_rest
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.key_figures import last_rule
from medsoft.evaluation.report.run import RunFacts
from medsoft.evaluation.wording import threshold_name
from medsoft.task import Task

SPLIT_NAMES = {
    "train": "Training part",
    "val": "Validation part",
    "test": "Test part",
    "all": "All rows",
    "unused": "Rows that take no part",
    "other": "Other parts, not used here",
}
ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Calls:
    """What the model called one class or its opposite, and what these samples are.

    Attributes:
        called: the answer.
        n: samples.
        truth: how many are of each class.
    """

    called: str
    n: int
    truth: dict[str, int]


@dataclass(frozen=True)
class SplitFlow:
    """The way of one part.

    Attributes:
        name: of the split.
        rows: read and usable; of several folds the sum over these.
        samples: different ones among the rows: one may be in several folds.
        patients: None where they are not named, or not known.
        analysed: rows with a target; None where nothing was predicted.
        without_target: rows without.
        classes: analysed rows of each class (of the training part: all its rows).
        rule: of the calls: "p ≥ 0.41 (Youden)".
        calls: of a yes-or-no question.
        n_models: folds; rows are summed over them.
    """

    name: str
    rows: int
    samples: int
    patients: int | None
    analysed: int | None = None
    without_target: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    rule: str = ""
    calls: tuple[Calls, ...] = ()
    n_models: int = 1


@dataclass(frozen=True)
class Flow:
    """From the table to the numbers.

    Attributes:
        unit: image, slide, volume or sample.
        source: the table's name; "" where no run says it.
        rows: of the table; None where no run says it.
        patients: of the usable rows.
        excluded: (stage, reason, how many).
        splits: the parts.
    """

    unit: str
    source: str
    rows: int | None
    patients: int | None
    excluded: tuple[tuple[str, str, int], ...]
    splits: tuple[SplitFlow, ...]


def part_name(split: str) -> str:
    """What a part is called: ``all`` where the rows are in no split."""
    return split or "all"


def recorded_splits(run: RunFacts) -> dict[str, SplitFlow]:
    """The parts as the run's ``facts.json`` counts them, by name, whether they were predicted or not."""
    found = {}
    for split, about in run.facts.get("data", {}).get("splits", {}).items():
        name, n = part_name(split), about["rows"]
        found[name] = SplitFlow(name, n, n, about["patients"], classes=about["classes"])
    return found


def flow_of(evaluation: Evaluation, frame: pd.DataFrame, run: RunFacts | None) -> Flow:
    """Count.

    Args:
        evaluation: of these predictions.
        frame: all predictions, with and without targets.
        run: what the run's folder knows, or None.
    """
    data: dict[str, Any] = run.facts.get("data", {}) if run else {}
    splits = {}
    for name, of_split in frame.assign(split=frame["split"].map(part_name)).groupby("split", sort=False):
        parts = [part for part in evaluation.parts if part.split == name and part.level == "row"]
        splits[str(name)] = _evaluated(str(name), of_split, parts, evaluation.task)
    for name, recorded in (recorded_splits(run) if run else {}).items():
        splits.setdefault(name, recorded)
    if run and not data:
        for name, n in run.split_rows.items():
            splits.setdefault(part_name(name), SplitFlow(part_name(name), n, n, None))
    excluded = tuple((stage, reason, n) for (stage, reason), n in run.excluded.items()) if run else ()
    rows: int | None = data.get("rows")
    if rows is None and run and run.split_rows:
        # split.csv holds what the table's check has left; what could not be read is among it.
        rows = sum(run.split_rows.values()) + sum(n for stage, _, n in excluded if stage == "table")
    # A run of before wrote down the parts that it predicted, and not those that its table has besides.
    is_folded = any(split.n_models > 1 for split in splits.values())
    rest = 0 if rows is None else rows - sum(n for *_, n in excluded) - sum(split.rows for split in splits.values())
    if rest > 0 and splits and not is_folded:
        splits["other"] = SplitFlow("other", rest, rest, None)
    ordered = [*(splits[n] for n in ORDER if n in splits), *(s for n, s in splits.items() if n not in ORDER)]
    return Flow(
        run.unit if run else "sample", str(data.get("table", "")), rows, data.get("patients"), excluded, tuple(ordered)
    )


def _evaluated(name: str, of_split: pd.DataFrame, parts: Sequence[Part], task: Task) -> SplitFlow:
    named = of_split.loc[of_split["patient"] != "", "patient"].nunique()
    classes: dict[str, int] = {}
    for part in parts:
        for label, n in part.n_per_class.items():
            classes[label] = classes.get(label, 0) + n
    rule, calls = _calls(parts[0], task) if len(parts) == 1 and task.positive else ("", ())
    return SplitFlow(
        name,
        len(of_split),
        int(of_split["id"].nunique()),
        int(named) or None,
        analysed=sum(part.n for part in parts) if parts else None,
        without_target=sum(part.n_missing for part in parts),
        classes=classes,
        rule=rule,
        calls=calls,
        n_models=max(len(parts), 1),
    )


def _calls(part: Part, task: Task) -> tuple[str, tuple[Calls, ...]]:
    """Answers at the last threshold that may be reported here, which is that of the key figures."""
    negative, positive = task.classes
    at = [e for e in part.estimates if e.metric == "true_positives" and e.threshold is not None]
    if not part.n or not at:
        return "", ()
    chosen = next(e for e in at if e.rule == last_rule(part))
    assert chosen.threshold is not None
    question = one_against_rest(part.frame, task)[0]
    yes = question.p >= chosen.threshold
    calls = []
    for called, rows in ((positive, yes), (negative, ~yes)):
        truth = question.truth[rows]
        calls.append(Calls(called, int(rows.sum()), {positive: int(truth.sum()), negative: int((~truth).sum())}))
    mark = f"; {chosen.note}" if chosen.note.startswith("OPTIMISTIC") else ""
    return threshold_name(chosen.threshold, chosen.rule, 3) + mark, tuple(calls)
