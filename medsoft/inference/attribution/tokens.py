"""Attributions of encoded images: what each token adds to an answer, laid over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsoft.classifiers.slide import SlideClassifier
from medsoft.data.features.open import Bag, open_bag
from medsoft.data.features.provenance import ImageProvenance
from medsoft.errors import InputError
from medsoft.inference.attribution.bags import explain_bag
from medsoft.task_types import LogitTarget

CLOSE = 0.01
"""How far the encoder's own vector may lie from the mean of the tokens, as a share of its length: float16 rounds."""


def explains_tokens(model: object) -> bool:
    """Whether the answers of a model are sums over tokens."""
    return isinstance(model, SlideClassifier) and model.aggregator.adds_up


def token_map(
    model: SlideClassifier, file: Path, logit_target: LogitTarget, shape: tuple[int, int], pooled: bool
) -> npt.NDArray[np.float64] | None:
    """What the tokens of an image add to a logit.

    Args:
        model: one for which ``explains_tokens`` holds, in evaluation mode.
        file: of the image's features.
        logit_target: whose logit.
        shape: (rows, columns) of the map, which covers the whole image.
        pooled: whether the model reads the encoder's own vector, which has contributions of tokens only where it is
            their mean.

    Returns:
        (rows, columns) with each token's contribution at its cell; None where the file has no places in a picture, or
        the vector is another one than the mean.

    Raises:
        BagError: the file cannot be read.
    """
    with open_bag(file) as bag:
        facts = bag.facts
        if not isinstance(facts, ImageProvenance) or bag.coords is None or bag.coords.shape[1] != 2:
            return None
        if pooled and not is_mean(bag):
            return None
        found = explain_bag(model.aggregator, bag, logit_target).contributions_N
        corners_N2 = bag.coords[bag.good_N] * (np.array(shape[::-1]) / np.array(facts.size))
        cell_2 = np.array(bag.cell) * (np.array(shape[::-1]) / np.array(facts.size))
    drawn = np.zeros(shape)
    first_N2 = np.round(corners_N2).astype(int)
    last_N2 = np.maximum(np.round(corners_N2 + cell_2).astype(int), first_N2 + 1)
    for (x0, y0), (x1, y1), value in zip(first_N2.clip(0), last_N2.clip(0), found, strict=True):
        drawn[y0:y1, x0:x1] = value
    return drawn


def is_mean(bag: Bag) -> bool:
    """Whether a file's own vector is the mean of its tokens."""
    if bag.pooled is None:
        return True
    if bag.pooled.shape[1] != bag.num_features or bag.coords is None:
        return False
    mean_F = bag.read()[bag.good_N].mean(axis=0)
    return bool(np.linalg.norm(mean_F - bag.pooled[0]) <= CLOSE * max(float(np.linalg.norm(bag.pooled[0])), 1e-12))


def answer_target(model: SlideClassifier, name: str, positive: bool) -> LogitTarget:
    """The logit of an answer: of a class, or against it; of the lowest grade against the step to the next.

    Args:
        model: with the question.
        name: of the class.
        positive: False for the answer that it is not there.
    """
    task = model.spec.task
    try:
        found: LogitTarget = task.logit_target(name)
    except InputError:  # the lowest grade has no logit of its own
        found, positive = task.logit_target(task.classes[1]), False
    if positive:
        return found
    return LogitTarget(found.name, {index: -weight for index, weight in found.weights.items()}, found.sigmoid)
