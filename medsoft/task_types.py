"""What tasks take and give (``medsoft.task``): options of labels, an objective, the question of an explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Uncertain = Literal["ignore", "zero", "one"]
"""What a label of -1 counts as: missing, absent or present (Irvin et al. 2019, arXiv 1901.07031, section 3)."""

KEPT = "evaluation"
"""In a checkpoint's ``medsoft`` section, what an evaluation must know of the training part; also in ``facts.json``."""

Pooling = Literal["mean", "max"]
SurvivalModel = Literal["cox", "discrete", "logistic"]
"""Cox's proportional hazards, hazards of intervals of time, or multi-task logistic regression."""
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
Measure = Callable[[FloatArray], dict[Any, FloatArray]]
"""From how often each unit was drawn, (B, U), to values (B, ...) by ``medsoft.evaluation.metrics.weighted.Key``."""
Wrong = tuple[str, BoolArray]
"""What is wrong with values, in words that the rows follow (``p_a is outside [0, 1] in``); and (N,) where."""


@dataclass(frozen=True)
class LabelOptions:
    """How label columns are to be read.

    Attributes:
        positive: values that make the positive class of a binary task.
        classes: names of the classes in order.
        uncertain: what -1 means for a label with a column of its own, for all or by label; a problem where not given.
        required: whether a missing label is a problem, and a single class a reason to stop.
        time_unit: of times until an event: days, months or years; None where it is not said.
        times: at which survival is stated, in that unit; none: the training part decides.
        targets: of several targets how each is to be read (``medsoft.data.tables.targets``), by name.
    """

    positive: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    uncertain: Uncertain | Mapping[str, Uncertain] | None = None
    required: bool = True
    time_unit: str | None = None
    times: tuple[float, ...] = ()
    targets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedTask:
    """One of several targets.

    Attributes:
        name: of the target; its columns begin with it and a dot.
        task: its question, a ``Task``.
        weight: of its loss among those of the targets that a sample has.
    """

    name: str
    task: Any
    weight: float = field(default=1.0, compare=False)

    @property
    def prefix(self) -> str:
        """What its columns begin with."""
        return f"{self.name}."


@dataclass(frozen=True)
class LogitTarget:
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


@dataclass(frozen=True)
class ObjectiveOptions:
    """How a model is to be trained for its task.

    Attributes:
        class_weights: of ``Task.class_weights``; None for none.
        label_smoothing: share of the target that is spread over all classes.
        target_scale: mean and standard deviation of the training targets, in their unit, where they are numbers; None
            until a checkpoint brings them.
        regression_loss: of numbers: huber, or mse for squares everywhere.
        survival: the model of survival: cox, discrete or logistic; None where nobody said it.
        intervals: of time, of the last two; None where nobody said it.
        event_times: of the training part, rising; None until a checkpoint brings what follows from them.
    """

    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    target_scale: tuple[float, float] | None = None
    regression_loss: Literal["huber", "mse"] = "huber"
    survival: SurvivalModel | None = None
    intervals: int | None = None
    event_times: FloatArray | None = None


Link = Literal["softmax", "sigmoid", "identity", "hazard", "mixed"]
"""How logits answer: one of K classes, K separate questions, K numbers, a log hazard, or several of these side by side.
"""


@dataclass(frozen=True, eq=False)
class Answers:
    """Targets as what a model's K outputs should say, for models that are solved and not trained step by step.

    Attributes:
        values_NK: float64; one-hot for classes, 0 or 1 a question, or standardised numbers; 0 where unknown. Of a
            hazard time and event (N, 2).
        weights_NK: float64; what each counts, 0 where it is unknown or not asked.
    """

    values_NK: Tensor
    weights_NK: Tensor


class Objective(Protocol):
    """Outputs, loss and probabilities of one task.

    Attributes:
        outputs: the network's outputs K.
        scale: what is added to a logit, and its factor before, where that makes it the answer: mean and standard
            deviation of the training targets, in their unit, of a standardised number. None for classes, and until a
            checkpoint brings them.
        link: how the logits answer.
        joint: whether the loss of a sample depends on the other samples of a step, as that of a risk set.
        learns: whether predictions need something of the training part, which ``learn`` takes.
    """

    joint: bool
    learns: bool
    outputs: int
    link: Link

    @property
    def scale(self) -> tuple[float, float] | None: ...

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, C) in the order of the task's classes; of a regression the predicted numbers (B, 1), in their unit."""

    def answers(self, target: Tensor) -> Answers:
        """Targets (N,) or (N, L) as what each output should say, for models that are solved and not trained."""

    def learn(self, logits: Tensor, target: Tensor) -> None:
        """Take what predictions need of the training part, such as a baseline hazard, from its logits and targets."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep for predictions, plain numbers by name."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take from a checkpoint's ``medsoft`` section what ``state`` put there."""
