"""The verb ``compare``: differences between models on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from medsoft import __version__
from medsoft.errors import InputError, check_range
from medsoft.evaluation.comparison.compare import Difference, compare_models
from medsoft.evaluation.comparison.pairing import Paired, pair, short_names
from medsoft.evaluation.intervals.bootstrap import few_notes
from medsoft.evaluation.locked import TARGETS
from medsoft.evaluation.metrics.by_name import Asked, wanted_key
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.metrics.table import lower_is_better, metric_name
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.levels import LEVELS
from medsoft.evaluation.tables.read import read_parts
from medsoft.storage.files import holding, replacing
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console
from medsoft.text.spelling import normal_form


def compare(
    predictions: list[str],
    metric: str | None = None,
    margin: float | None = None,
    of: str | None = None,
    threshold: str | float = "0.5",
    split: str | None = None,
    by: str = "row",
    common: bool = False,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    stratify: bool = True,
    out: str | None = None,
    figures: bool = True,
) -> int:
    """Compare models on the same samples, with confidence intervals and tests.

    Args:
        predictions: Two or more tables; the last is the reference with which the others are compared.
        metric: metric to compare: auroc, average_precision, brier, log_loss, sensitivity, specificity, ppv, npv,
            accuracy, balanced_accuracy, f1, mcc, kappa; for regression: mae, rmse, r2, concordance; for survival:
            c_index, uno_c, integrated_brier, auc_at, brier_at. If not given, the one that chooses checkpoints: auroc;
            of grades kappa, of a regression mae, of survival c_index.
        margin: Margin of non-inferiority in units of the metric: how much worse a model may be and still be acceptable.
        of: Class or label to compare by itself; the positive class or the macro average if not given. Of auc_at and
            brier_at the time.
        threshold: Decision threshold: a number, or a rule such as youden or sensitivity:0.95 that each model applies to
            its own validation rows.
        split: Split to compare; test, or the only one, if not given.
        by: unit of the comparison: row, exam or patient.
        common: Compare on the samples that all tables share, instead of refusing tables that differ.
        draws: Number of bootstrap draws over patients.
        seed: Seed of the bootstrap.
        confidence: Confidence level of all intervals.
        stratify: Draw patients within classes. Use false for a consecutive series, whose mix of classes arose by
            chance.
        out: Folder for comparison.json, comparison.csv and a figure; if not given, the result is only printed.
        figures: Draw a figure of the differences.

    Raises:
        InputError: the tables do not hold the same samples, or the options are wrong.
    """
    if len(predictions) < 2:
        raise InputError("name two or more predictions tables; the last one is the reference")
    options = Settings(draws=draws, seed=seed, confidence=confidence, stratify=stratify)
    if margin is not None:
        check_range("margin", margin, 0)
    if by not in LEVELS:
        raise InputError(f"by {by!r}: one of {', '.join(LEVELS)}")
    names = short_names(predictions)
    tables = [read_parts([path]) for path in predictions]
    task = tables[0].task
    if task.parts:
        raise InputError(
            f"{predictions[0]} holds several targets: compare one, by the folders of its predictions, such as "
            f"{Path(predictions[0]) / TARGETS / task.parts[0].name}"
        )
    for path, given in zip(predictions, tables, strict=True):
        shared = task.shared_with(given.task)
        if shared is None:
            raise InputError(f"{path} and {predictions[0]} have different tasks or classes")
        task = shared
    metric = metric or task.monitor
    rule = parse_rule(str(threshold))
    asked = Asked(metric, of or "", rule.text)
    wanted_key(asked, task)
    paired = pair(
        [(name, given.frame) for name, given in zip(names, tables, strict=True)],
        task,
        split=split,
        level=by,
        rule=rule,
        common=common,
    )
    with progress("comparing models"):
        found = compare_models(paired, asked, options, margin)
    console = plain_console()
    first = paired.models[0].frame
    samples = f"{len(first)} {'rows' if by == 'row' else by + 's'}"
    patients = first.loc[first["patient"] != "", "patient"].map(normal_form).nunique()
    samples += f" of {patients} patients" if patients and by == "row" else ""
    samples += f" in {len(paired.folds)} folds" if len(paired.folds) > 1 else ""
    console.print(f"{metric}{f' of {of}' if of else ''}, split {paired.split or 'all'}, {samples}", soft_wrap=True)
    for result in found:
        console.print(sentence(result, confidence, len(found)), soft_wrap=True)
    notes = [*paired.notes, *few_notes(first, paired.task)]
    for note in notes:
        console.print(f"Note: {note}", soft_wrap=True)
    if out is not None:
        settings: dict[str, Any] = {n: getattr(options, n) for n in ("draws", "seed", "confidence", "stratify")}
        settings |= {"by": by, "split": paired.split}
        inputs = [part for given in tables for part in given.inputs]
        settings |= {"inputs": inputs, "samples": samples, "notes": notes}
        with holding(Path(out)):
            _write(found, paired, asked, settings, Path(out), figures)
        console.print(f"Wrote {Path(out) / 'comparison.json'}", soft_wrap=True)
    return 0


def sentence(result: Difference, confidence: float, n_compared: int) -> str:
    """A comparison in words and numbers."""
    about = f"{result.model} − {result.reference}"
    if result.value is None or result.reference_value is None or result.difference is None:
        return f"{about}: {result.note}"
    text = f"{about}: {result.value:.4f} − {result.reference_value:.4f} = {result.difference:+.4f}"
    if result.low is not None and result.high is not None:
        text += f" ({confidence:.0%} interval {result.low:+.4f} to {result.high:+.4f}, {result.method}"
        if result.method != "bootstrap" and result.bootstrap_low is not None and result.bootstrap_high is not None:
            text += f"; bootstrap {result.bootstrap_low:+.4f} to {result.bootstrap_high:+.4f}"
        text += ")"
    if result.p is not None:
        text += f", p = {_p(result.p)}"
        text += f", by Holm {_p(result.p_holm)}" if n_compared > 1 and result.p_holm is not None else ""
    text += f" [{result.note}]" if result.note else ""
    if result.margin is not None:
        text += f"\n    non-inferior (margin {result.margin:g}): "
        text += "cannot be told" if result.not_worse is None else "shown" if result.not_worse else "not shown"
        if result.p_not_worse is not None:
            holm = n_compared > 1 and result.p_not_worse_holm is not None
            text += f" (one-sided p = {_p(result.p_not_worse)}"
            text += f", by Holm over {n_compared} models {_p(result.p_not_worse_holm)}, which decides)" if holm else ")"
    decisions = result.decisions
    if decisions is not None:
        text += f"\n    decisions: right alone {decisions.only_first} against {decisions.only_second}, McNemar "
        text += "without a test" if decisions.p is None else f"({decisions.method}) p = {_p(decisions.p)}"
    return text


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _write(
    found: Sequence[Difference], paired: Paired, asked: Asked, settings: dict[str, Any], out: Path, figures: bool
) -> None:
    values = {
        "format": 1,
        "medsoft": __version__,
        "asked": asdict(asked),
        "folds": list(paired.folds),
        **settings,
        "comparisons": [result.to_json() for result in found],
    }
    write_metrics(values, out / "comparison.json")
    rows = []
    for result in found:
        row = result.to_json()
        decisions = row.pop("decisions") or {}
        rows.append({**row, **{f"mcnemar_{name}": value for name, value in decisions.items()}})
    with replacing(out / "comparison.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    if figures:
        from medsoft.evaluation.figures.forest import Row, forest

        lines = [
            Row(r.model, r.difference, r.low, r.high, f"{r.value:.3f}" if r.value is not None else "–") for r in found
        ]
        margin = found[0].margin
        if margin is not None:
            margin = margin if lower_is_better(asked.metric) else -margin
        title = f"Difference in {metric_name(asked.metric)} to {found[0].reference}"
        about = f"split: {paired.split or 'all'} · {settings['samples']}" + (
            " · dashed: margin" if margin is not None else ""
        )
        label = f"model − {found[0].reference}, {settings['confidence']:.0%} interval"
        forest(lines, out / "comparison.png", label, title=title, facts=about, line=0.0, margin=margin)
