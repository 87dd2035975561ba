"""The target of an explanation, in words and with its unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from medsoft.task_types import LogitTarget


@dataclass(frozen=True)
class MapQuantity:
    """What the contributions of a map add up to, with its unit.

    Attributes:
        word: ``logit``, or ``prediction`` of a regression and of a risk.
        of: the class, ``risk``, or the column of a regression's targets, whose unit the numbers have.
        offset: 0, or the mean of a regression's training targets; of a risk what it is counted from, negative.
        unit: 1 (log-odds), or the standard deviation of the training targets, in which a regression is learnt.
    """

    word: str
    of: str
    offset: float = 0.0
    unit: float = 1.0

    @classmethod
    def about(cls, logit_target: LogitTarget, scale: tuple[float, float] | None, column: str) -> MapQuantity:
        """The quantity that the contributions to a logit add up to.

        Args:
            logit_target: whose logit.
            scale: mean and standard deviation of a regression's training targets; None of classes. Of a risk that is a
                logit what is added to it, and 1.
            column: of its targets; "" where nobody says it.
        """
        if scale is None:
            return cls("logit", logit_target.name)
        # Of a regression nothing but the column says what is predicted.
        named = logit_target.name if logit_target.name != "prediction" else ""
        return cls("prediction", named or column or logit_target.name, *scale)

    @property
    def name(self) -> str:
        """``logit of tumour``, ``prediction of age``."""
        return self.word if self.of == self.word else f"{self.word} of {self.of}"

    def value(self, logit: float) -> float:
        """The quantity itself for a model's logit."""
        return self.offset + self.unit * logit


def target_column(config: Path) -> str:
    """The label column that a run's configuration names; "" where it names none, or several."""
    try:
        label = yaml.safe_load(config.read_text(encoding="utf-8"))["data"].get("label")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return ""  # the name is for people; nothing else hangs on it
    return label if isinstance(label, str) else ""
