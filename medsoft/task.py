"""What is asked of the model (the question and its answers), and what it must know of the data.

Data and model meet here, so that neither imports the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]
TASK_KINDS: tuple[str, ...] = get_args(TaskKind)


@dataclass(frozen=True)
class Task:
    """A question with named answers.

    Attributes:
        kind: ``binary``, ``multiclass``, ``ordinal`` (classes in rising order), ``multilabel`` or ``regression``.
        classes: names of the classes in order; for ``binary`` (negative, positive);
            for ``multilabel`` the names of the label columns; for ``regression`` none.
    """

    kind: TaskKind
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in TASK_KINDS:
            raise ValueError(f"unknown task {self.kind!r}: one of {', '.join(TASK_KINDS)}")
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(f"a binary task has 2 classes, not {len(self.classes)}")
        if self.kind == "regression" and self.classes:
            raise ValueError(f"a regression has no classes, not {', '.join(self.classes)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names are not unique: {', '.join(self.classes)}")

    @property
    def p_columns(self) -> list[str]:
        """Columns of answers in the predictions table: probabilities in class order, or the predicted number."""
        if self.kind == "regression":
            return ["prediction"]
        return [f"p_{name}" for name in self.classes]

    @property
    def target_columns(self) -> list[str]:
        """Columns of true values in the predictions table."""
        if self.kind == "multilabel":
            return [f"target_{name}" for name in self.classes]
        return ["target"]


class Spec:
    """What any model must know of the data.

    Not a dataclass: jsonargparse would offer a dataclass's fields as options.

    Args:
        task: the question and its classes.
        class_counts: (C,) training samples a class; for multilabel (L, 2): negatives and positives a label; empty for
            a regression.
        target_scale: mean and standard deviation of a regression's training targets, in their unit; else None.
    """

    def __init__(self, task: Task, class_counts: np.ndarray, target_scale: tuple[float, float] | None = None) -> None:
        self.task = task
        self.class_counts = class_counts
        self.target_scale = target_scale


@dataclass(frozen=True)
class Covariates:
    """Numbers about a patient that the model sees beside the image.

    Attributes:
        names: of their columns.
        scale: mean and standard deviation of each in the training part; None where a checkpoint will bring them.
    """

    names: tuple[str, ...]
    scale: tuple[tuple[float, float], ...] | None


class DataSpec(Spec):
    """What a model must know of images.

    Args:
        task: the question and its classes.
        channels: image channels.
        image_size: (height, width) in px that the model sees; (x, y, z) in voxels of volumes.
        class_counts: as for ``Spec``.
        target_scale: as for ``Spec``.
        covariates: joined at the head; None for none.
    """

    def __init__(
        self,
        task: Task,
        channels: int,
        image_size: tuple[int, ...],
        class_counts: np.ndarray,
        target_scale: tuple[float, float] | None = None,
        covariates: Covariates | None = None,
    ) -> None:
        super().__init__(task, class_counts, target_scale)
        self.channels = channels
        self.image_size = image_size
        self.covariates = covariates


class BagSpec(Spec):
    """What a model must know of bags of encoded tiles.

    Args:
        task: the question and its classes.
        class_counts: as for ``Spec``.
        num_features: features a tile.
        has_places: whether every bag comes with its tiles' places in µm, in the frame of one slide.
        identity: which encoder saw which tiles, as text: bags are comparable where all of it is equal.
        slides: how the slides became features (encoder, resolution, tile and tissue settings), plain numbers and
            text; None where the feature files do not say it.
        target_scale: as for ``Spec``.
    """

    def __init__(
        self,
        task: Task,
        class_counts: np.ndarray,
        num_features: int,
        has_places: bool,
        identity: dict[str, str],
        slides: dict[str, Any] | None,
        target_scale: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(task, class_counts, target_scale)
        self.num_features = num_features
        self.has_places = has_places
        self.identity = identity
        self.slides = slides
