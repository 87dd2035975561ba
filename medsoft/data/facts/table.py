"""Facts of a whole part of a table: of each sample's file, and which site and scanner the table names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from medsoft.data.facts.pictures import Facts
from medsoft.data.tables.reading import text
from medsoft.data.tables.sample_table import SampleTable

NUMBER, KIND, COVARIATE = "number ", "kind ", "covariate "
"""What the columns of a table of facts begin with: numbers, words, and covariates, which no file tells."""
OF_THE_DEVICE = ("scanner", "camera", "device", "manufacturer", "scanner_model", "camera_model", "device_model")
"""Columns of a sample table that are taken for facts, however they are written, beside that of ``data.site``."""


def facts_table(
    part: SampleTable, of_files: Sequence[Facts], covariates: Mapping[str, np.ndarray], labels: Collection[str] = ()
) -> pd.DataFrame:
    """A table of facts: ``id``, ``split``, the target columns, then facts and covariates by prefix.

    Args:
        part: N rows of a sample table with labels.
        of_files: N mappings, of the rows' files.
        covariates: by name, (N,) numbers, NaN where missing.
        labels: columns with the labels, which are no facts whatever they are called.
    """
    assert part.task is not None
    frame = part.frame
    columns = {name: frame[name] for name in ("id", "split", *part.task.target_columns) if name in frame}
    names = list(dict.fromkeys(name for facts in of_files for name in facts))
    for name in names:
        values = [facts.get(name) for facts in of_files]
        if any(isinstance(value, str) for value in values):
            columns[KIND + name] = pd.Series(["" if value is None else str(value) for value in values], dtype=object)
        else:
            columns[NUMBER + name] = pd.Series([np.nan if value is None else value for value in values], dtype=float)
    if (frame["site"] != "").any():
        columns[KIND + "site"] = frame["site"]
    taken = {"id", "path", "row", "patient", "exam", "site", "split", *part.task.target_columns, *labels}
    for name in frame.columns:
        if str(name) not in taken and str(name).casefold() in OF_THE_DEVICE:
            columns[KIND + f"{name} (of the table)"] = text(frame[name])
    columns |= {COVARIATE + name: pd.Series(values.astype(np.float64)) for name, values in covariates.items()}
    return pd.DataFrame(columns).reset_index(drop=True)
