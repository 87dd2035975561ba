"""The verbs ``medsoft benchmark …``: command lines to functions."""

from __future__ import annotations

from collections.abc import Sequence

from medsoft.parsing import call


def attention(argv: Sequence[str]) -> int:
    """Measure attention mechanisms over lengths and widths."""
    from medsoft.benchmark.attention import attention as measure

    code: int = call(measure, argv, "benchmark attention")
    return code


def backbones(argv: Sequence[str]) -> int:
    """Measure backbones over input sizes."""
    from medsoft.benchmark.backbones import backbones as measure

    code: int = call(measure, argv, "benchmark backbones")
    return code


def tiles(argv: Sequence[str]) -> int:
    """Measure the reading of tiles from a slide."""
    from medsoft.benchmark.tiles import tiles as measure

    code: int = call(measure, argv, "benchmark tiles", positional="slide")
    return code


def aggregators(argv: Sequence[str]) -> int:
    """Measure slide aggregators over bags of growing length."""
    from medsoft.benchmark.aggregators import aggregators as measure

    code: int = call(measure, argv, "benchmark aggregators")
    return code
