"""Whether predictions show any sign that a model has learnt something, in one plain sentence where they do not.

Signs that it has not: predictions that hardly vary, whatever the sample; an R² whose interval lies below 0, so that the
mean of the targets would predict better; an AUROC or a C-index whose interval holds 0.5, which chance gives; and a
C-index whose interval lies below, where the risks are the wrong way round. With few samples intervals are wide: the
sentence then says that nothing is shown, not that nothing was learnt.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medsoft.evaluation.comparison.across_folds import AcrossFolds, FoldsEstimate
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.part import Part
from medsoft.task import Task

LEAST_SPREAD = 0.01
"""Predictions vary where the standard deviation of their logits (of a regression, in that of the targets) is larger."""
FEWEST = 5
"""Of fewer samples nobody can say whether predictions vary."""
MOST_LABELS = 6
"""That are named."""


def nothing_learnt(evaluation: Evaluation) -> str:
    """The sentence for the part that is reported first, or for its mean over folds; "" where something was learnt."""
    parts = [part for part in evaluation.parts if part.level == evaluation.parts[0].level and part.n]
    if not parts:
        return ""
    # As the report orders them: what chose thresholds and checkpoint comes last, a test part first.
    first = min(parts, key=lambda part: (part.split == "val" or part.overlap.whole, part.split != "test"))
    of_split = [part for part in parts if part.split == first.split]
    across = [a for a in evaluation.across if (a.split, a.level) == (first.split, first.level)]
    task = evaluation.task
    chief: Part | AcrossFolds = across[0] if across else first
    found = [_hardly_vary_in(of_split, task), *_by_intervals(chief, task, evaluation.settings.confidence)]
    reasons = "; ".join(filter(None, found))
    where = "" if first.split == "all" else f" ({first.split})"
    return f"No sign that this model has learnt anything{where}: {reasons}" if reasons else ""


def hardly_vary(frame: pd.DataFrame, task: Task) -> str:
    """Between which values predictions lie that hardly vary; "" where they do, or where there are too few to say.

    Args:
        frame: a predictions table, with or without targets.
        task: its task.
    """
    if len(frame) < FEWEST:
        return ""
    return task.hardly_vary(frame, LEAST_SPREAD)


def _hardly_vary_in(parts: Sequence[Part], task: Task) -> str:
    said = [found for part in parts if (found := hardly_vary(part.frame, task))]
    if not said:
        return ""
    return said[0] if len(parts) == 1 else f"the predictions hardly vary in {len(said)} of {len(parts)} folds"


def _by_intervals(found: Part | AcrossFolds, task: Task, confidence: float) -> list[str]:
    reasons = []
    r2 = found.find("r2")
    if r2 is not None and r2.high is not None and r2.high < 0:
        below = "lies below 0, where the mean of the targets would predict better"
        reasons.append(f"R² {_with_interval(r2, confidence)} {below}")
    c = found.find("c_index")
    if c is not None and _is_chance(c):
        reasons.append(f"the C-index {_with_interval(c, confidence)} cannot be told from chance (0.5)")
    elif c is not None and c.high is not None and c.high < 0.5:
        wrong_way = "lies below 0.5: are the risks the wrong way round? A larger risk must mean an earlier event"
        reasons.append(f"the C-index {_with_interval(c, confidence)} {wrong_way}")
    of = {"class_name": task.positive} if task.positive else {"average": "macro"}
    chief = found.find("auroc", **of)
    name = "AUROC" if task.positive else "macro AUROC"
    if chief is not None and _is_chance(chief):
        reasons.append(f"the {name} {_with_interval(chief, confidence)} cannot be told from chance (0.5)")
    if task.several_columns:
        labels = {label: found.find("auroc", class_name=label) for label in task.classes}
        chance = {label: one for label, one in labels.items() if one is not None and _is_chance(one)}
        named = [f"{label} {_with_interval(one, confidence)}" for label, one in list(chance.items())[:MOST_LABELS]]
        more = f" and {len(chance) - MOST_LABELS} more" if len(chance) > MOST_LABELS else ""
        if chance:
            reasons.append(
                f"of {len(chance)} of {len(labels)} labels the AUROC cannot be told from chance: "
                f"{', '.join(named)}{more}"
            )
    return reasons


def _is_chance(found: Estimate | FoldsEstimate) -> bool:
    if found.low is None or found.high is None:  # such as of predictions that are all the same
        return found.value is not None and abs(found.value - 0.5) < 1e-9
    return found.low <= 0.5 <= found.high


def _with_interval(found: Estimate | FoldsEstimate, confidence: float) -> str:
    assert found.value is not None
    value = f"{found.value:.3f}"
    if found.low is None or found.high is None:
        return value
    return f"{value} ({100 * confidence:g} % interval {found.low:.3f} to {found.high:.3f})".replace("-", "−")
