"""``medsoft compare`` over the runs of scripts that train each model with several seeds, or by folds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd


def compare(
    out: Path, questions: Mapping[str, Sequence[str]], models: Sequence[str], reference: str, seeds: Sequence[int]
) -> None:
    """Compare all models of each question with the reference, and print a table of the differences.

    A question's folder holds one of each model and seed; the seeds count as folds, and a cross-validation, which is
    there once, has its own. Models without all of the seeds, and questions with one model, are left out.

    Args:
        out: folder of the runs.
        questions: further words for ``medsoft compare`` by the question's name.
        models: names of all models.
        reference: the model that each other is compared with.
        seeds: that are asked for.
    """
    from medsoft.cli.main import main

    others = [model for model in models if model != reference]
    rows = []
    for question, options in questions.items():
        folder = out / _folder(question)
        tables = [_gathered(folder, model, seeds) for model in (*others, reference)]
        paths = [str(path) for path in tables if path is not None]
        if tables[-1] is None or len(paths) < 2:
            continue
        words = [*paths, *options, "--out", str(folder / "compared")]
        print(f"\n## {question}\n$ medsoft compare {shlex.join(words)}", flush=True)
        if main(["compare", *words]) != 0:
            sys.exit(f"{question}: could not be compared")
        found = pd.read_csv(folder / "compared" / "comparison.csv", index_col="model")
        cells = ["–" if _folder(name) not in found.index else _cell(found.loc[_folder(name)]) for name in others]
        rows.append(f"| {question} | " + " | ".join(cells) + " |")
    print("\n| question | " + " | ".join(others) + " |\n" + "|---" * (len(others) + 1) + "|", *rows, sep="\n")


def _gathered(folder: Path, model: str, seeds: Sequence[int]) -> Path | None:
    """The predictions of a model's runs as one table with folds; None where a run is missing."""
    runs = [folder / f"{_folder(model)}-{seed}" for seed in seeds]
    done = [run for run in runs if (run / "real_run.json").is_file()]
    parts = [pd.read_csv(run / "predictions.csv", dtype={"id": str, "patient": str}) for run in done]
    if parts and parts[0]["fold"].notna().all():  # of a cross-validation
        frame = parts[0]
    elif len(parts) < len(seeds):
        return None
    else:
        frame = pd.concat(part.assign(fold=f"seed {seed}") for seed, part in zip(seeds, parts, strict=True))
    path = folder / "compared" / f"{_folder(model)}.csv"
    path.parent.mkdir(exist_ok=True)
    frame.to_csv(path, index=False)
    return path


def _cell(row: Any) -> str:
    mark = " *" if str(row.get("not_worse")) == "True" else ""  # not worse by more than the margin
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}){mark}"


def _folder(text: str) -> str:
    return text.replace(" ", "_")
