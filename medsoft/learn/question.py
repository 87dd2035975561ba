"""Whose logit an explanation is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsoft.errors import InputError
from medsoft.task import Task


@dataclass(frozen=True)
class Question:
    """Whose logit a heatmap shows.

    A binary or multiclass model has a logit a class, of which only differences mean something. Of a binary task the
    difference is shown: it is the log-odds, the logit of p. Of several classes it is the class's own.

    Attributes:
        name: the class, as heatmaps call it.
        weights: of the model's logits, by index; their weighted sum is the logit that is shown.
        sigmoid: whether the probability is the sigmoid of that logit, else the softmax over all of the model's.
    """

    name: str
    weights: dict[int, float]
    sigmoid: bool = True


def question_about(task: Task, name: str) -> Question:
    """The question of a class; a regression has one, ``prediction``, whose logit is in standard deviations.

    Raises:
        InputError: no such class; or the lowest grade, which has no logit.
    """
    if task.kind == "regression":
        if name != "prediction":
            raise InputError(f"--classes {name}: a regression has no classes; leave it out")
        return Question(name, {0: 1.0})
    if name not in task.classes:
        raise InputError(f"--classes {name}: the model knows {', '.join(task.classes)}")
    index = task.classes.index(name)
    if task.kind == "binary":
        return Question(name, {index: 1.0, 1 - index: -1.0})
    if task.kind == "multilabel":
        return Question(name, {index: 1.0})
    if task.kind == "multiclass":
        return Question(name, {index: 1.0}, sigmoid=False)
    if index == 0:
        raise InputError(f"--classes {name}: is the lowest grade, which has no logit of its own; choose a higher one")
    given = f" | ≥ {task.classes[index - 1]}" if index > 1 else ""
    return Question(f"≥ {name}{given}", {index - 1: 1.0})


def default_question(task: Task, probabilities_C: np.ndarray) -> Question:
    """The positive class of a binary task, else the most probable class, or the step to the most probable grade."""
    if task.kind == "regression":
        return question_about(task, "prediction")
    index = 1 if task.kind == "binary" else int(probabilities_C.argmax())
    return question_about(task, task.classes[max(index, 1) if task.kind == "ordinal" else index])
