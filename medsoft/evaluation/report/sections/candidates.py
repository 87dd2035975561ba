"""What the report of ``medsoft auto`` says of the candidates: what was tried, and why it was taken or dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medsoft.evaluation.metrics.table import metric_name


def candidate_values(rows: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """Plain values; None where there are no candidates.

    Args:
        rows: of ``candidates.csv``, as text.
    """
    if not rows:
        return None
    metric = next((row["metric"] for row in rows if row["metric"]), "")
    return {
        "metric": metric_name(metric) if metric else "",
        "rows": [
            {
                "name": row["name"],
                "what": row["what"],
                "chosen": row["chosen"] == "True",
                "state": row["state"],
                "score": _number(row["score"]),
                "low": _number(row["low"]),
                "high": _number(row["high"]),
                "seconds": _number(row.get("seconds", "")),
                "reason": row["reason"],
            }
            for row in rows
        ],
    }


def _number(text: str) -> float | None:
    return float(text) if text else None
