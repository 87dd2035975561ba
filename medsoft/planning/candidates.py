"""A candidate: one way to answer the question of a table, as a configuration that `fit` and `crossval` take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

UNSAID = {"patience": None, "monitor": "auto"}
"""How a training ends, and what chooses its checkpoint, where the command line does not say: the candidate's own then
holds."""

NETWORK = ("backbone", "backbone_args", "pretrained", "encoder")
"""Options of a model that say which network it is."""


@dataclass(frozen=True)
class FeatureSet:
    """Features that a candidate reads: made once, and shared by all candidates that read the same.

    Attributes:
        encoder: name of its recipe.
        size: side of the pictures that it is shown, in px; of volumes, of their slices; 0 for the pictures as stored.
        tokens: whether all tokens are kept, or the pooled vector alone.
    """

    encoder: str
    size: int
    tokens: bool

    @property
    def name(self) -> str:
        """Of its folder. Files with tokens hold the pooled vectors too."""
        size = f"-{self.size}" if self.size else ""
        return f"{self.encoder.lower()}{size}-{'tokens' if self.tokens else 'pooled'}"


@dataclass(frozen=True)
class Candidate:
    """One way to answer the question.

    Attributes:
        name: short and unique; of its folder.
        what: it is, in words.
        why: it is among the candidates: the reason of the rule that brought it.
        config: a shipped configuration that it begins with; "" for the one that the command line gives.
        options: what it sets beside that, in groups as in a configuration.
        over: a shipped configuration that is laid over the one of the command line; its network and name are not.
        features: that it reads; None where it reads the pictures.
        source: the candidate that it was made from, of one that a search for settings has made.
    """

    name: str
    what: str
    why: str
    config: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    over: str = ""
    features: FeatureSet | None = None
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Candidate:
        """From what ``to_json`` gave."""
        features = values.get("features")
        return cls(**{**values, "features": FeatureSet(**features) if features else None})


def merged(config: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values; groups are merged, everything else is replaced."""
    values = dict(config)
    for name, value in more.items():
        inner = values.get(name)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping) and not name.endswith("_args")
        values[name] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return values


def recipe_of_training(shipped: Mapping[str, Any]) -> dict[str, Any]:
    """What a shipped configuration says of how is trained, without its name and its network."""
    model = {name: value for name, value in shipped.get("model", {}).items() if name not in NETWORK}
    kept = {name: value for name, value in shipped.items() if name not in ("name", "use", "model")}
    return {**kept, **({"model": model} if model else {})}


def configuration_of(
    candidate: Candidate,
    given: Mapping[str, Any],
    shipped: Mapping[str, Any],
    takes: frozenset[str],
    features: Path | None,
) -> dict[str, Any]:
    """The whole configuration of a candidate.

    Args:
        candidate: any.
        given: the resolved configuration of the command line.
        shipped: the configuration that the candidate begins with, or lays over the given one; {} for none.
        takes: options of data that a candidate on features has in common with the data of the command line.
        features: the folder with its features; None where it reads the pictures.
    """
    if not candidate.config:
        return merged(merged(given, recipe_of_training(shipped)), candidate.options)
    run = ("seed_everything", "exams", "patients", "patience", "monitor", "ood_quantile", "logger")
    table = {name: value for name, value in given["data"].items() if name in takes}
    said = {name: given[name] for name in run if name in given}
    own = {name for name, value in UNSAID.items() if name in shipped and said.get(name) == value}
    config = merged(shipped, {name: value for name, value in said.items() if name not in own})
    where = {name: given["trainer"][name] for name in ("accelerator", "devices") if name in given.get("trainer", {})}
    config = merged(config, {"data": table, "trainer": where, "name": candidate.name})
    if features is not None:
        config = merged(config, {"data": {"features": str(features.resolve())}})
    return merged(config, candidate.options)
