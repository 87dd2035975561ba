"""What many runs reached, as one table that is kept: docs/experiments/runs.csv, and the tables printed from it.

A run's folder is large and stays where it was made. Its row has the test metric with its interval, the seconds, and the
commit, so that figures of several days stand beside each other, and each can be looked up.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

COLUMNS = (
    "set", "way", "seed", "metric", "n_test", "value", "low", "high", "interval",
    "facts_alone", "seconds", "threads", "commit", "date",
)  # fmt: skip


def row_of(folder: Path, metric: str, name: str, way: str, seed: int) -> dict[str, object]:
    """The row of one finished run.

    Args:
        folder: of the run, with ``real_run.json`` beside what medsoft wrote.
        metric: by which the set is judged; of the test part, the mean over classes where there are several.
        name: of the set.
        way: of training.
        seed: of split and training.

    Raises:
        ValueError: the run has no such metric.
    """
    found = _headline(pd.read_csv(folder / "evaluation/metrics.csv"), metric)
    if found is None:
        raise ValueError(f"{folder}: no {metric} of the test part")
    versions = json.loads((folder / "versions.json").read_text())
    made = json.loads((folder / "real_run.json").read_text())
    scores = json.loads((folder / "metrics.json").read_text())["test"]
    return {
        "set": name, "way": way, "seed": seed, "metric": metric, "n_test": scores["n"],
        "value": round(found["value"], 4), "low": round(found["low"], 4), "high": round(found["high"], 4),
        "interval": found["method"], "facts_alone": _facts_alone(folder, metric),
        "seconds": made["seconds"], "threads": made["threads"],
        "commit": versions["commit"][:10], "date": versions["started"][:10],
    }  # fmt: skip


def _headline(table: pd.DataFrame, metric: str) -> pd.Series | None:
    """The row of the test part: of all rows, raw probabilities, the macro average where there is one."""
    rows = table[(table["split"] == "test") & (table["level"] == "row") & (table["metric"] == metric)]
    rows = rows[rows["probabilities"].isna() & (rows["average"].isna() | (rows["average"] == "macro"))]
    macro = rows[rows["average"] == "macro"]
    chosen = macro if len(macro) else rows
    return chosen.iloc[0] if len(chosen) else None


def _facts_alone(folder: Path, metric: str) -> float | None:
    """What trivial facts of the images reach at the same split."""
    from medsoft.evaluation.metrics.score import headline, score
    from medsoft.evaluation.tables.read import read_either

    path = folder / "shortcuts" / "predictions_facts.csv"
    if not path.is_file():
        return None
    frame, task = read_either(path)
    value = headline(score(frame[frame["split"] == "test"], task)).get(metric)
    return None if value is None else round(value, 4)


def keep(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows into the kept table, in place of those of the same set, way and seed.

    Args:
        path: of the table.
        rows: of ``row_of``.
    """
    new = pd.DataFrame(rows, columns=list(COLUMNS))
    old = pd.read_csv(path, dtype={"commit": str}) if path.is_file() else new.iloc[:0]
    both = new if old.empty else pd.concat([old, new])
    both = both.drop_duplicates(["set", "way", "seed", "metric"], keep="last")
    both.sort_values(["set", "way", "seed"], kind="stable").to_csv(path, index=False)


PAGE = "<!-- from runs.csv: scripts/results.py page -->"
END = "<!-- end -->"


def page_with(text: str, tables: str) -> str:
    """The text of a page with new tables between its two marks.

    Raises:
        ValueError: the page has not both marks.
    """
    before, mark, rest = text.partition(PAGE)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"the page has no {PAGE} … {END}")
    return f"{before}{mark}\n{tables.strip()}\n{end}{after}"


def print_tables(path: Path, sets: Sequence[str], ways: Sequence[str], seeds: int) -> None:
    """Print, by metric, the mean over seeds with the range; then seconds; then what trivial facts reach.

    Args:
        path: of the kept table.
        sets: the rows, in order.
        ways: the columns, in order; those without a run are left out.
        seeds: how many there should be; fewer are said.
    """
    table = pd.read_csv(path)
    ways = [way for way in ways if (table["way"] == way).any()]
    print("| test | metric | " + " | ".join(ways) + " | trivial facts |\n" + "|---" * (len(ways) + 3) + "|")
    for name in sets:
        of_set = table[table["set"] == name]
        if of_set.empty:
            continue
        cells = [_cell(of_set[of_set["way"] == way]["value"].tolist(), seeds) for way in ways]
        facts = of_set.drop_duplicates("seed")["facts_alone"].dropna().tolist()
        print(f"| {name} | {of_set['metric'].iloc[0]} | " + " | ".join([*cells, _cell(facts, seeds)]) + " |")
    print("\n| seconds a run | " + " | ".join(ways) + " |\n" + "|---" * (len(ways) + 1) + "|")
    for name in sets:
        of_set = table[table["set"] == name]
        seconds = [of_set[of_set["way"] == way]["seconds"] for way in ways]
        if not of_set.empty:
            print(f"| {name} | " + " | ".join(f"{s.mean():.0f}" if len(s) else "–" for s in seconds) + " |")


def _cell(values: Sequence[float], seeds: int) -> str:
    if not values:
        return "–"
    few = f", n={len(values)}" if len(values) < seeds else ""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}{few})"
