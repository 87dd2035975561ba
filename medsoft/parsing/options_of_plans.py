"""Options of the verbs ``plan`` and ``auto`` themselves, beside those of the data and the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OF_AUTO = ("budget", "nested", "tune", "candidates")
"""Options that a candidate's run knows nothing of."""


def add_options_of_plans(add: Callable[[str, Any, Any, str], None], verb: str) -> None:
    """Add the options.

    Args:
        add: takes name, type, default and help.
        verb: plan or auto.
    """
    add("folds", int | None, None, "Number of inner folds; 5 if not given, 3 where a class has few patients.")
    text = "Candidates to compare, separated by commas, such as probe,tokens_seqnorm; all that fit if not given."
    add("candidates", str | None, None, text)
    add("budget", str, "30m", "Time that all of it may take, such as 90s, 15m, 2h or 1h30m.")
    if verb == "plan":
        return
    text = "Report by nested cross-validation on every row, instead of on a test part; takes several times as long."
    add("nested", bool, False, text)
    text = "Also search learning rate, weight decay and image size on the inner folds (needs medsoft[optuna])."
    add("tune", bool, False, text)
    add("resume", str | None, None, "Folder to continue; only a larger budget may be given with it.")
