"""The verbs ``medsoft evaluate`` and ``medsoft compare``: command lines to functions."""

from __future__ import annotations

from collections.abc import Sequence

from medsoft.parsing import call


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate one model's predictions."""
    from medsoft.evaluation.run_evaluate import evaluate as run

    code: int = call(run, argv, "evaluate", positional="predictions", several=True)
    return code


def compare(argv: Sequence[str]) -> int:
    """Compare models on the same samples."""
    from medsoft.evaluation.run_compare import compare as run

    code: int = call(run, argv, "compare", positional="predictions", several=True)
    return code
