"""Several models as one: the mean of their answers, and how far these lie apart.

(L. Breiman, Machine Learning 24, 1996; B. Lakshminarayanan, A. Pritzel, C. Blundell, NeurIPS 2017.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medsoft.errors import RunError
from medsoft.evaluation.tables.predictions import score_columns
from medsoft.task import Task


def mean_of(frames: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """Predictions tables of several models on the same samples as one.

    Args:
        frames: two or more.
        task: theirs.

    Returns:
        The first table with the mean of all answers, then ``members``, their number, and for each class
        ``spread_<class>`` (of a regression ``spread``): the standard deviation over the members (n - 1). The mean of
        ``ood_score`` where all have one, and ``abstain`` where that is above 1.

    Raises:
        RunError: the tables hold different samples.
    """
    if task.parts:
        return _mean_of_several(frames, task)
    first = frames[0]
    for frame in frames[1:]:
        if not frame[["id", "split"]].equals(first[["id", "split"]]):
            raise RunError("the members predicted different samples: their configurations leave out different rows")
    names = task.p_columns
    predictions_MNC = np.stack([frame[names].to_numpy(dtype=np.float64) for frame in frames])
    mean = first.copy()
    mean[names] = predictions_MNC.mean(axis=0)
    if all("ood_score" in frame for frame in frames):
        for name, values in score_columns(np.mean([frame["ood_score"] for frame in frames], axis=0)).items():
            mean[name] = values
    else:
        mean = mean.drop(columns=["ood_score", "abstain"], errors="ignore")
    mean["members"] = len(frames)
    for name, spread in zip(names, predictions_MNC.std(axis=0, ddof=1).T, strict=True):
        mean["spread" if name == "prediction" else f"spread_{name.removeprefix('p_')}"] = spread
    return mean


def _mean_of_several(frames: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """The same of several targets: each by itself, its columns called by its name again."""
    means = {one: mean_of([task.frame_of(one.name, frame) for frame in frames], one.task) for one in task.parts}
    mean = frames[0].drop(columns=["ood_score", "abstain"], errors="ignore")
    for one, own in means.items():
        for column in map(str, own):
            if one.prefix + column in mean or column.startswith("spread"):
                mean[one.prefix + column] = own[column]
            elif column not in mean:
                mean[column] = own[column]
    return mean
