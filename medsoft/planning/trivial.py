"""What trivial facts of the samples tell of the answer, before any model is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medsoft.data.facts.pictures import Facts
from medsoft.data.facts.table import facts_table
from medsoft.data.tables.covariates import read_covariates
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.tables.split import split_folds
from medsoft.errors import InputError
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.out_of_fold import in_sentences, out_of_fold

FOLDS = 5
DRAWS = 500


def what_trivial_facts_reach(
    samples: SampleTable, of_files: Mapping[str, Facts], covariates: tuple[str, ...], labels: tuple[str, ...], seed: int
) -> list[str]:
    """A sentence a shortcut baseline; none where there are too few rows for folds, or nothing is known of them.

    Args:
        samples: the table; rows of the split test are left alone.
        of_files: facts by path, of the pictures that were read.
        covariates: columns of ``data.covariates``.
        labels: columns with the labels.
        seed: of the folds.
    """
    task = samples.task
    assert task is not None
    frame = samples.frame
    keep = (frame["split"] != "test").to_numpy() & task.known(frame)
    if of_files:
        keep &= frame["path"].isin(of_files).to_numpy()
    elif not covariates:
        return []
    part = samples.select(keep)
    try:
        fold_N = split_folds(part.strata, part.groups, FOLDS, seed)
    except InputError:  # too few patients: the table is told so elsewhere
        return []
    values_NK = read_covariates(part, covariates) if covariates else np.zeros((len(part), 0))
    files = [of_files.get(path, {}) for path in part.frame["path"]]
    facts = facts_table(part, files, dict(zip(covariates, values_NK.T, strict=True)), labels)
    tables = out_of_fold(facts, part.frame["patient"].to_numpy(dtype=object), fold_N, task)
    return in_sentences(tables, task, Settings(draws=DRAWS, levels=("row",)))
