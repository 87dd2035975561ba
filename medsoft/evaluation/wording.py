"""Rules, recalibrations and counts in words."""

from __future__ import annotations

from collections.abc import Mapping


def rule_name(rule: str) -> str:
    """A rule of thresholds in words: ``p ≥ 0.5``, ``Youden``, ``sensitivity ≥ 0.95``, ``cost ratio 5``."""
    kind, _, value = rule.partition(":")
    if kind[:1].isdigit():
        return f"p ≥ {rule}"
    if kind == "cost":
        return f"cost ratio {value}"
    return f"{kind} ≥ {value}" if value else {"youden": "Youden"}.get(rule, rule)


def threshold_name(threshold: float, rule: str, digits: int = 4) -> str:
    """``p ≥ 0.5``, ``p ≥ 0.3373 (Youden)``."""
    how = "" if rule[:1].isdigit() else f" ({rule_name(rule)})"
    return f"p ≥ {threshold:.{digits}g}{how}"


def after(how: str) -> str:
    """A kind of recalibration in words: ``after temperature scaling``."""
    names = {"temperature": "temperature scaling", "isotonic": "isotonic regression"}
    return f"after {names.get(how, how)}"


def counted(n: int, what: str) -> str:
    """``1 image``, ``5,324 images``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def mix_of(classes: Mapping[str, int]) -> list[str]:
    """``29 benign``, ``15 malignant``; where a name begins with a digit, ``0: 29``, ``1: 4``."""
    if any(name[:1].isdigit() for name in classes):
        return [f"{name}: {n:,}" for name, n in classes.items()]
    return [f"{n:,} {name}" for name, n in classes.items()]
