"""What a probe needs of a training part: labels that differ, and folds; and how an aggregator comes to stand on one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medsoft.classifiers.probe_solver import Chosen, Examples, Loss, choose, solve_linear
from medsoft.data.datasets.bag_dataset import BagDataset
from medsoft.data.datasets.feature_scale import Array, Scale
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.tables.split import split_folds
from medsoft.errors import InputError
from medsoft.models.aggregators import OnProbe
from medsoft.task_types import Objective


def require_different(part: SampleTable, examples: Examples) -> None:
    """Raise InputError where all rows of the training part have the same labels."""
    known = examples.weights_NK > 0
    alike = [len(np.unique(examples.values_NK[known[:, k], k])) < 2 for k in range(known.shape[1])]
    if all(alike):
        raise InputError(
            f"{part.source}: all {len(part)} rows of the training part have the same label: there is nothing to learn"
        )


def folds_of(part: SampleTable, asked: int) -> tuple[np.ndarray, str]:
    """(N,) inner fold of each row, all 0 where there can be none; and what is to be said of it."""
    assert part.task is not None
    groups = part.groups
    patients = {name: len(set(groups[there])) for name, there in part.task.members(part.frame).items()}
    fewest = min(patients, key=lambda name: patients[name]) if patients else ""
    folds = min(asked, len(set(groups)), max(2, patients.get(fewest, asked)))
    if folds < 2:
        return np.zeros(len(part), np.int64), f"the training part has one {part.grouped_by} only"
    why = ""
    if folds < asked:
        why = f" (not {asked}: class {fewest!r} has {patients[fewest]})" if fewest else f" (not {asked}: too few)"
    return split_folds(part.strata, groups, folds, 0), why


def loss_of(objective: Objective, target: Tensor, fold_N: np.ndarray) -> Loss:
    """The objective's loss of logits (N, K), each from the model that held its row out."""

    def loss(logits_NK: Array) -> float:
        return float(objective.loss(torch.from_numpy(logits_NK), target))

    def of_folds(logits_NK: Array) -> float:
        """The mean over folds, by their events: risks of several models are not of one risk set."""
        total = 0.0
        for fold in range(int(fold_N.max()) + 1):
            rows = torch.from_numpy(fold_N == fold)
            own = target[rows]
            total += float(objective.loss(torch.from_numpy(logits_NK)[rows], own) * own[:, 1].sum())
        return total / max(float(target[:, 1].sum()), 1.0)

    return of_folds if objective.joint else loss


def stand_on_probe(
    aggregator: OnProbe, part: SampleTable, dataset: BagDataset, objective: Objective, inner_folds: int = 5
) -> tuple[Chosen, Tensor]:
    """Solve the probe that an aggregator stands on, and say how much too good it is of its own rows.

    Beside the probe's logits of rows that it was solved for, which are too good, there would be nothing left to learn.
    What stands on it therefore learns beside those of inner folds, as in stacked generalisation (Wolpert 1992, Neural
    Networks 5).

    Args:
        aggregator: its probe gets the solution of all rows.
        part: the training part.
        dataset: its bags.
        objective: of the task.
        inner_folds: that choose the penalty and hold rows out.

    Returns:
        What was chosen; and (N, K) float32, what has to be added to the probe's logits of each training row to make
        them those of the fold that held it out: 0 where there can be no folds.

    Raises:
        InputError: all rows have the same label.
    """
    target = torch.as_tensor(dataset.targets)
    answers = objective.answers(target)
    x_NF = dataset.vectors()
    views_MF, row_of_M = dataset.view_vectors()
    if objective.joint:  # a view of a patient would be at risk beside the patient
        views_MF, row_of_M = views_MF[:0], row_of_M[:0]
    examples = Examples(x_NF, answers.values_NK.numpy(), answers.weights_NK.numpy(), views_MF, row_of_M)
    require_different(part, examples)
    folds, _ = folds_of(part, inner_folds)
    loss = loss_of(objective, target, folds)
    chosen = choose("C", examples, objective.link, folds, loss, outputs=objective.outputs)
    every = examples.with_views(shared=True)
    scale = Scale.of(every.x_NF)
    (found,) = solve_linear(replace(every, x_NF=scale(every.x_NF)), objective.link, [chosen.value])
    aggregator.solve(scale.mean_F, scale.sd_F, found.weight_KF, found.bias_K)
    if chosen.logits_NK is None:
        return chosen, torch.zeros(len(x_NF), len(found.bias_K))
    return chosen, torch.from_numpy(chosen.logits_NK - found(scale(x_NF))).float()
