"""The verbs ``medsoft benchmark attention`` and ``backbones``: command lines to functions."""

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
