"""The rules by which candidates and folds are chosen: few, each a small function with its reason.

``docs/reference/plan.md`` has them as a table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medsoft.errors import InputError
from medsoft.evaluation.wording import counted
from medsoft.planning.candidates import Candidate, FeatureSet
from medsoft.planning.facts import TableFacts

MOST_FOLDS, FEWEST_FOLDS = 5, 3
LARGER, LARGEST = 1.25, 512
"""How much larger than the encoder's own size a larger one must be, and the largest side in px."""
ENOUGH_FOR_TOKENS, ENOUGH_TO_TUNE, ENOUGH_FROM_SCRATCH = 60, 150, 600
"""Patients (else exams, else rows) to develop on from which heads on tokens, fine-tuning and training from scratch
are tried."""
SMALL_TEST = 100
"""Patients in the test part below which a report by nested cross-validation is suggested."""


@dataclass(frozen=True)
class KnownEncoder:
    """What the rules must know of a pretrained encoder whose weights are here.

    Attributes:
        name: of its recipe.
        size: side of the pictures that it was trained on, in px; of an encoder of volumes 0.
        stride: px of a picture per token.
        any_size: whether it takes other sizes.
        is_volume: whether it reads whole volumes.
    """

    name: str
    size: int
    stride: int
    any_size: bool
    is_volume: bool = False


@dataclass(frozen=True)
class Situation:
    """What the rules decide from.

    Attributes:
        facts: of the table.
        encoders: whose weights are here and that fit this kind of picture, best first.
        has_gpu: whether there is one.
        configured: name of the configuration that was given, such as fundus; "" for none.
        without_features: why no head can read features of this table, in words; "" where heads can.
        has_size: whether the user has said at what size pictures are shown to networks that read them.
    """

    facts: TableFacts
    encoders: Sequence[KnownEncoder]
    has_gpu: bool
    configured: str = ""
    without_features: str = ""
    has_size: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: of what it decides.
        when: it holds, in words.
        reason: why.
        propose: candidates that it brings for a table.
    """

    name: str
    when: str
    reason: str
    propose: Callable[[Situation], list[Candidate]]


def _used(situation: Situation) -> list[KnownEncoder]:
    """The best encoders: one on a CPU, where encoding is most of the time; two with a GPU."""
    return list(situation.encoders[: 2 if situation.has_gpu else 1])


def _named(name: str, encoder: KnownEncoder, situation: Situation) -> str:
    return name if len(_used(situation)) == 1 else f"{name}_{encoder.name.lower().replace('.', '_')}"


def larger_size(encoder: KnownEncoder, facts: TableFacts) -> int | None:
    """A size in px that shows more of these pictures than the encoder's own; None where there is none."""
    if not encoder.any_size or encoder.is_volume:
        return None
    stride = max(encoder.stride, 1)
    size = min(LARGEST, round(facts.pictures.long_side / stride) * stride)
    return size if size >= LARGER * encoder.size else None


def _probe(situation: Situation) -> list[Candidate]:
    return [
        Candidate(
            _named("probe", encoder, situation),
            f"logistic, ridge or Cox regression on pooled features of {encoder.name}" + _at(encoder.size),
            RULES["probe"].reason,
            "probe",
            features=FeatureSet(encoder.name, encoder.size, tokens=False),
        )
        for encoder in _used(situation)
    ]


def _probe_large(situation: Situation) -> list[Candidate]:
    sizes = [(encoder, larger_size(encoder, situation.facts)) for encoder in _used(situation)]
    return [
        Candidate(
            _named("probe_large", encoder, situation),
            f"the same on features of larger pictures, {size} px",
            RULES["probe_large"].reason,
            "probe",
            features=FeatureSet(encoder.name, size, tokens=True),
        )
        for encoder, size in sizes
        if size is not None
    ]


GATED = {"dim": 192, "drop": 0.25, "standardise": True}
"""Arguments of gated attention over tokens."""


def _tokens(situation: Situation, rule: str, what: str, model: dict[str, Any]) -> list[Candidate]:
    if situation.facts.groups < ENOUGH_FOR_TOKENS:
        return []
    found = []
    for encoder in _used(situation):
        size = larger_size(encoder, situation.facts) or encoder.size
        found.append(
            Candidate(
                _named(rule, encoder, situation),
                f"{what} over the tokens of {encoder.name}" + _at(size),
                RULES[rule].reason,
                "tokens",
                {"model": model},
                features=FeatureSet(encoder.name, size, tokens=True),
            )
        )
    return found


def _tokens_seqnorm(situation: Situation) -> list[Candidate]:
    return _tokens(situation, "tokens_seqnorm", "attention without softmax", {})


def _tokens_gated(situation: Situation) -> list[Candidate]:
    gated = {"aggregator": "abmil", "aggregator_args": GATED}
    return _tokens(situation, "tokens_gated", "gated attention", gated)


def _finetuned(situation: Situation) -> list[Candidate]:
    if situation.facts.groups < ENOUGH_TO_TUNE:
        return []
    return [
        Candidate(
            _named("finetuned", encoder, situation),
            f"{encoder.name} trained further on these pictures",
            RULES["finetuned"].reason,
            options={"model": {"encoder": encoder.name}},
            over="finetune",
        )
        for encoder in _used(situation)
        if encoder.is_volume == situation.facts.is_volume
    ]


def _hybrid(situation: Situation) -> list[Candidate]:
    if situation.facts.groups < ENOUGH_TO_TUNE:
        return []
    found = []
    for encoder in _used(situation):
        if encoder.is_volume != situation.facts.is_volume:
            continue
        size = None if situation.has_size else larger_size(encoder, situation.facts)
        # The configuration's arguments are those of the network that it trains from scratch.
        model = {"backbone": "hybrid", "backbone_args": None, "encoder": encoder.name}
        options: dict[str, Any] = {"model": model} | ({} if size is None else {"transforms": {"size": size}})
        found.append(
            Candidate(
                _named("hybrid", encoder, situation),
                f"{encoder.name} and two blocks of attention without softmax over its map, trained further together"
                + _at(size or 0),
                RULES["hybrid"].reason,
                options=options,
                over="finetune",
            )
        )
    return found


def _scratch(situation: Situation) -> list[Candidate]:
    has_heads = situation.encoders and not situation.without_features
    if has_heads and situation.facts.groups < ENOUGH_FROM_SCRATCH:
        return []
    return [
        Candidate(
            "scratch", "the configuration's network, trained from scratch", RULES["scratch"].reason, options=SCRATCH
        )
    ]


SCRATCH: dict[str, dict[str, str]] = {}
"""What a candidate from scratch sets."""


def _at(size: int) -> str:
    return f" at {size} px" if size else ""


_RULES = (
    Rule(
        "probe",
        "always, with an encoder here",
        "costs seconds once the features are made, and is hard to beat on few patients",
        _probe,
    ),
    Rule(
        "probe_large",
        f"pictures are at least {LARGER:g} times as large as the encoder's own size, up to {LARGEST} px",
        "small lesions vanish when pictures are made small; the features serve the heads on tokens too",
        _probe_large,
    ),
    Rule(
        "tokens_seqnorm",
        f"{ENOUGH_FOR_TOKENS} patients or more",
        "tokens that see each other find what the mean over a picture hides, at linear cost",
        _tokens_seqnorm,
    ),
    Rule(
        "tokens_gated",
        f"{ENOUGH_FOR_TOKENS} patients or more",
        "weighs tokens one by one, with few weights to learn: better than attention between tokens on small tables",
        _tokens_gated,
    ),
    Rule(
        "finetuned",
        f"{ENOUGH_TO_TUNE} patients or more, and an encoder of this kind (2D or 3D)",
        "adapts the features themselves; takes longest, and overfits on fewer",
        _finetuned,
    ),
    Rule(
        "hybrid",
        f"{ENOUGH_TO_TUNE} patients or more, and an encoder of this kind (2D or 3D)",
        "fine-tunes on larger pictures, whose places see each other at linear cost; takes several times as long",
        _hybrid,
    ),
    Rule(
        "scratch",
        f"no encoder is here, heads cannot read this table, or {ENOUGH_FROM_SCRATCH} patients or more",
        "with a pretrained encoder at hand a network from scratch is behind until there are many patients",
        _scratch,
    ),
)
RULES = {rule.name: rule for rule in _RULES}


def propose(situation: Situation) -> list[Candidate]:
    """All candidates that the rules bring, in the order of the rules."""
    return [candidate for rule in _RULES for candidate in rule.propose(situation)]


def why_not(name: str, facts: TableFacts) -> str:
    """When the rule of a candidate that was not proposed would bring it, in words; "" where no rule has that name."""
    fitting = [rule for rule in _RULES if name == rule.name or name.startswith(f"{rule.name}_")]
    if not fitting:
        return ""
    rule = max(fitting, key=lambda one: len(one.name))
    here = counted(facts.groups, facts.grouped_by)
    return f"{name} is proposed with: {rule.when} (here are {here} to develop on)"


def number_of_folds(facts: TableFacts, asked: int | None = None) -> int:
    """Inner folds: 5, or 3 where a class has fewer than 10 patients.

    With fewer than two patients of a class in a fold's reported part, its score is that of single patients. Each
    training part then still has most of the patients.

    Args:
        facts: of the table.
        asked: how many the user wants; None leaves it to the rule.

    Raises:
        InputError: a class has fewer than 3 patients to develop on, or there are fewer than 6 in all.
    """
    by = f"{facts.grouped_by}s"
    if facts.groups < 2 * FEWEST_FOLDS:
        raise InputError(
            f"{facts.source}: {facts.groups} {by} to develop on are too few to compare candidates: 6 or more"
        )
    if facts.rarest is not None and facts.rarest[1] < FEWEST_FOLDS:
        name, groups = facts.rarest
        raise InputError(
            f"{facts.source}: class {name!r} has {groups} of the {by} to develop on. Candidates are compared on "
            f"{FEWEST_FOLDS} inner folds, each of which needs the class to train on, to choose a checkpoint and to "
            "report; the others are set aside as the test part. Merge classes, or set fewer rows aside "
            "(data.test_fraction, or the column split)"
        )
    if asked is not None:
        return asked
    fewest = facts.groups // MOST_FOLDS if facts.rarest is None else facts.rarest[1]
    return MOST_FOLDS if fewest >= 2 * MOST_FOLDS else FEWEST_FOLDS


def suggestions(facts: TableFacts, folds: int, nested: bool) -> list[str]:
    """What the user should know of how the table will be used."""
    said = []
    if not nested and 0 < facts.test_groups < SMALL_TEST:
        said.append(
            f"the test part has {counted(facts.test_groups, facts.grouped_by)}: its interval will be wide. --nested "
            "reports on every row instead, for about six times the time"
        )
    if facts.rarest is not None and facts.rarest[1] < 2 * folds:
        name, groups = facts.rarest
        said.append(f"class {name!r} has {counted(groups, facts.grouped_by)}: inner scores rest on few of them")
    return said
