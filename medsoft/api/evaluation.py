"""``medsoft.evaluate``: metrics with intervals of any model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medsoft.api.call import call, words_of

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    predictions: pd.DataFrame | str | Path | Sequence[str | Path], out: str | Path | None = None, **options: Any
) -> pd.DataFrame:
    """Compute metrics with intervals, as ``medsoft evaluate`` does.

    Args:
        predictions: a table with the columns id, target and p_<class> (of numbers ``prediction``), such as
            ``Model.predict`` gives; or its file, several files, or the folder of a run.
        out: folder for the report, figures and tables; None writes nothing.
        options: of ``medsoft evaluate``, such as ``draws=2000``, ``by="patient"`` or ``thresholds="youden"``.

    Returns:
        A row for each metric of each part: split, level, metric, class, value, low, high and how they were found; the
        columns are those of ``metrics.csv`` in the reference of evaluations.

    Raises:
        InputError: the predictions or options are wrong.
    """
    import pandas as pd

    with TemporaryDirectory(prefix="medsoft-") as temporary:
        named: Sequence[str | Path]
        if isinstance(predictions, pd.DataFrame):
            file = Path(temporary) / "predictions.csv"
            predictions.to_csv(file, index=False)
            named = [file]
        else:
            named = [predictions] if isinstance(predictions, str | Path) else list(predictions)
        folder = Path(temporary) / "evaluation" if out is None else Path(out)
        without = {"figures": False, "report": False} if out is None else {}
        call("evaluate", [*map(str, named), *words_of(without | options | {"out": folder})])
        return pd.read_csv(folder / "metrics.csv")
