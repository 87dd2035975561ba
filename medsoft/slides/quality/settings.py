"""How much of each artefact a tile may have. This module is light, as each verb for slides imports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from medsoft.errors import check_range

Quality = Literal["measure", "filter"]
"""What ``--quality`` asks for."""


@dataclass(frozen=True)
class ArtefactLimits:
    """What a tile may have at most (or at least) to be kept. docs/experiments/tile_quality.md has the measurements.

    Attributes:
        min_sharpness: Least variance of the Laplacian of a tile's tissue at 1 µm per pixel; 0 keeps blurred tiles.
        max_fold: Largest part (0 to 1) of a tile that may be folds, or other tissue as thick; 1 keeps all.
        max_bubble: Largest part (0 to 1) of a tile that may be dark without colour, as the rims of air bubbles, edges
            of glass and dust are; 1 keeps all.
        max_pen: Largest part (0 to 1) of a tile that may be pen ink with its margin; 1 keeps all.

    Raises:
        InputError: a value is out of its range.
    """

    min_sharpness: float = 100.0
    max_fold: float = 0.1
    max_bubble: float = 0.1
    max_pen: float = 0.1

    def __post_init__(self) -> None:
        for one in fields(self):  # settings are compared as JSON, where 1 is not 1.0
            object.__setattr__(self, one.name, float(getattr(self, one.name)))
            high = 1e9 if one.name == "min_sharpness" else 1
            check_range(f"artefacts.{one.name}", getattr(self, one.name), 0, high)


@dataclass(frozen=True)
class QualitySettings:
    """Whether artefacts are only measured, or decide which tiles are kept.

    Attributes:
        limits: of tiles that are kept; None: all are.
    """

    limits: ArtefactLimits | None = None

    @property
    def in_words(self) -> str:
        """Such as "min_sharpness=100 max_fold=0.1 …"; "measured" without limits."""
        if self.limits is None:
            return "measured"
        return " ".join(f"{name}={value:g}" for name, value in asdict(self.limits).items())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"measured": True} | ({} if self.limits is None else asdict(self.limits))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QualitySettings:
        """Settings from ``as_dict``.

        Raises:
            TypeError: a key is unknown.
        """
        limits = {name: value for name, value in values.items() if name != "measured"}
        return cls(ArtefactLimits(**limits) if limits else None)


def quality_settings(asked: Quality | None, limits: ArtefactLimits) -> QualitySettings | None:
    """The settings of what a user asks for; None where it is nothing."""
    if asked is None:
        return None
    return QualitySettings(limits if asked == "filter" else None)
