"""Splits that keep a patient together and the classes in proportion.

A split is a function of the seed, the groups and their targets; the order of the rows does not matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medsoft.data.tables import checks
from medsoft.data.tables.problems import TableError
from medsoft.data.tables.reading import load_source, require_columns, text
from medsoft.data.tables.sample_table import SampleTable
from medsoft.errors import InputError
from medsoft.text.spelling import normal_form

MOST_FOLDS = 20  # that the parts of a hold-out split are put together from
TOLERANCE = 0.02  # accepted error of a part's share: fewer, larger folds keep the classes better in proportion
UNUSED = "unused"
"""What a split file calls rows that take no part, such as the test rows of the table in a cross-validation."""
DRAWS = 50  # how often a split is drawn when a class that could be in every part is missing from one


def split_holdout(
    strata: np.ndarray, groups: Sequence[str] | np.ndarray, fractions: Mapping[str, float], seed: int
) -> np.ndarray:
    """Assign rows to parts such as train, val and test.

    The rows are cut into up to 20 stratified folds without dividing a group, and each part is given as many folds
    as come within two percentage points of its fraction (less closely with few groups). When a stratum is missing from
    a part, the split is drawn anew; of 50 draws the one with the fewest strata missing counts, the parts that
    ``fractions`` names first before the others.

    Args:
        strata: (N,) whole numbers, such as the class (see ``Task.strata``): each is spread evenly over the parts.
        groups: (N,) what stays together: the patient, or a key of its own for each row.
        fractions: part to its share of the rows; they sum to 1, and a share of 0 means no such part.
        seed: another seed gives another split.

    Returns:
        (N,) names of parts.

    Raises:
        InputError: there are too few groups, or the fractions are not the shares of a whole.
    """
    shares = {part: share for part, share in fractions.items() if share != 0}
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        stated = ", ".join(f"{part} {share:g}" for part, share in fractions.items())
        raise InputError(f"the fractions of a split must be positive and sum to 1, not {stated}")
    names = np.asarray(groups, dtype=str)
    n_groups = len(set(names))
    if n_groups < len(shares):
        raise InputError(f"{n_groups} patients (or samples) are too few to split into {', '.join(shares)}")
    folds_of = _folds_of_parts(shares, min(MOST_FOLDS, n_groups))
    part_of_fold = np.repeat(list(folds_of), list(folds_of.values()))
    groups_with = [len(set(names[strata == stratum])) for stratum in set(strata)]
    least_missing = [sum(n <= i for n in groups_with) for i in range(len(shares))]
    rng = np.random.default_rng(seed)
    best, fewest = names, [len(groups_with) + 1]
    for _ in range(DRAWS):
        folds = _folds(strata, names, len(part_of_fold), int(rng.integers(2**31)))
        parts = rng.permutation(part_of_fold)[folds]
        missing = [len(groups_with) - len(set(strata[parts == part])) for part in shares]
        if missing < fewest:
            best, fewest = parts, missing
        if missing == least_missing:
            break
    if set(best) != set(shares):
        raise InputError(
            f"{n_groups} patients (or samples) of such unequal size cannot be split into {', '.join(shares)}"
        )
    return best


def split_folds(strata: np.ndarray, groups: Sequence[str] | np.ndarray, k: int, seed: int) -> np.ndarray:
    """Assign rows to k folds of about equal size for cross-validation.

    Args:
        strata: as for ``split_holdout``.
        groups: as for ``split_holdout``.
        k: number of folds, at least 2.
        seed: another seed gives other folds.

    Returns:
        (N,) fold numbers from 0.

    Raises:
        InputError: there are fewer groups than folds.
    """
    names = np.asarray(groups, dtype=str)
    if not 2 <= k <= len(set(names)):
        raise InputError(f"{k} folds: 2 to {len(set(names))} are possible with as many patients (or samples)")
    return _folds(np.asarray(strata), names, k, seed)


def complete_splits(
    samples: SampleTable, val_fraction: float, test_fraction: float, seed: int, splits_from: str | None = None
) -> tuple[SampleTable, str]:
    """Give a table the splits that training needs, unless it has them.

    Without a split column, train, val and test are made. With train rows but none for val, val is taken out of
    train; a test part is never made out of rows that the table calls train.

    Args:
        samples: the table; rows of one patient (else of one exam) stay together.
        val_fraction: share for val: of all rows, or of the train rows where the table has splits.
        test_fraction: share of all rows for test where the table has no splits; may be 0.
        seed: of the split.
        splits_from: file that the splits were taken from already, for the sentence; None for the table itself.

    Returns:
        The table with splits, and a sentence on what was done.

    Raises:
        TableError: a class has no sample in train or in val.
        InputError: the table has splits but no train rows, or too few rows or patients.
    """
    by = samples.grouped_by
    whose = f"{splits_from}'s" if splits_from else "the table's"
    if not samples.has_split:
        shares = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
        samples = samples.with_split(split_holdout(samples.strata, samples.groups, shares, seed))
        done = f"split by {by}, stratified, seed {seed}"
    elif "train" not in samples.splits:
        raise InputError(f"{samples.source}: no row has the split train; there are {', '.join(samples.splits)}")
    elif "val" not in samples.splits:
        train = samples.subset("train")
        parts = split_holdout(train.strata, train.groups, {"train": 1 - val_fraction, "val": val_fraction}, seed)
        split = samples.frame["split"].to_numpy(dtype=object)
        split[split == "train"] = parts
        samples = samples.with_split(split)
        done = f"val taken out of {whose} train by {by}, stratified, seed {seed}"
    else:
        done = f"splits of {splits_from}" if splits_from else "the table's own splits"
    assert samples.task is not None
    columns = samples.frame[samples.task.target_columns]
    if problems := samples.task.check_targets(columns, samples.frame["split"]):
        raise TableError(str(samples.source), problems)
    return samples, f"{done}: {_counts(samples)}"


def apply_split_file(samples: SampleTable, path: str | Path) -> SampleTable:
    """Replace the splits of a table by those of a file with the columns id and split, such as a run's split.csv.

    A file of CLAM (``splits_0.csv``, ``splits_0_bool.csv``) has a column per part instead. Rows that the file calls
    ``unused`` are left out.

    Raises:
        InputError: the file cannot be read, or says nothing of some rows.
        TableError: the file has other splits than train, val and test, or divides a patient.
    """
    file = _one_row_each(load_source(path))
    require_columns(path, file.columns, {"id": ["id"], "split": ["split"]})
    ids = text(file["id"])
    if again := sorted(set(ids[ids.duplicated()])):
        raise InputError(f"{path}: {len(again)} ids stand in several rows, such as {again[0]!r}: keep one row each")
    split_of = dict(zip(ids, text(file["split"]), strict=True))
    absent = [name for name in samples.frame["id"] if name not in split_of]
    if absent:
        some = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        alike = {normal_form(name) for name in absent} & {normal_form(name) for name in ids}
        more = f". {len(alike)} of them differ from ids there in writing only (case, zeros, spaces)" if alike else ""
        raise InputError(f"{path}: has no split for {len(absent)} rows of {samples.source}: {some}{more}")
    splits = samples.frame["id"].map(split_of).to_numpy(dtype=object)
    used = splits != UNUSED
    if not used.any():
        raise InputError(f"{path}: calls every row of {samples.source} unused")
    samples, splits = samples.select(used), splits[used]
    problems = checks.check_splits(splits)
    if samples.grouped_by != "sample":
        problems += checks.check_undivided(samples.frame[samples.grouped_by].tolist(), list(splits), samples.grouped_by)
    if problems:
        raise TableError(str(path), problems)
    return samples.with_split(splits)


def _one_row_each(file: pd.DataFrame) -> pd.DataFrame:
    """A split file with a row per sample; CLAM's have a column per part, of names, or of True beside the name."""
    parts = [part for part in checks.SPLITS if part in file]
    if "split" in file or len(parts) < 2:
        return file
    cells = {part: text(file[part]).tolist() for part in parts}
    if all(cell.lower() in ("true", "false", "") for column in cells.values() for cell in column):
        names = text(file.iloc[:, 0]).tolist()
        cells = {
            part: [id for id, cell in zip(names, cells[part], strict=True) if cell.lower() == "true"] for part in parts
        }
    rows = [(id, part) for part, column in cells.items() for id in column if id]
    return pd.DataFrame(rows, columns=["id", "split"], dtype=object)


def _counts(samples: SampleTable) -> str:
    counts = samples.frame["split"].value_counts()
    return ", ".join(f"{split} {counts[split]}" for split in samples.splits)


def _folds_of_parts(shares: Mapping[str, float], most: int) -> dict[str, int]:
    """How many folds each part gets: the fewest in all that come within the tolerance, else the closest."""
    best: dict[str, int] = {}
    best_error = np.inf
    largest = max(shares, key=lambda part: shares[part])
    for k in range(len(shares), most + 1):
        folds = {part: max(1, round(share * k)) for part, share in shares.items()}
        folds[largest] += k - sum(folds.values())
        error = max(abs(folds[part] / k - share) for part, share in shares.items())
        if folds[largest] > 0 and error < best_error:
            best, best_error = folds, error
        if best_error <= TOLERANCE:
            break
    return best


def _folds(strata: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if k == 1:
        return np.zeros(len(strata), dtype=np.int64)
    if np.unique(strata, return_counts=True)[1].max() < k:  # no class could reach every fold
        strata = np.zeros_like(strata)
    order = np.lexsort((strata, groups))  # so that the rows' own order does not matter
    together = None if len(set(groups)) == len(groups) else groups[order]
    splitter = (StratifiedKFold if together is None else StratifiedGroupKFold)(k, shuffle=True, random_state=seed)
    folds = np.empty(len(strata), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # callers see what is missing
        for fold, (_, rows) in enumerate(splitter.split(order, strata[order], together)):
            folds[order[rows]] = fold
    return folds
