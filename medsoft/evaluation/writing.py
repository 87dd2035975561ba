"""An evaluation as files: ``evaluation.json`` with everything, the same as tables, what was locked, and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from medsoft import __version__
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.learnt import nothing_learnt
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.part import Part
from medsoft.evaluation.tables.predictions import write_predictions
from medsoft.storage.files import replacing

FORMAT = 1


def to_json(evaluation: Evaluation, inputs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Everything as plain values; ``inputs`` says which files it was computed from."""
    task = evaluation.task
    return {
        "format": FORMAT,
        "medsoft": __version__,
        "inputs": [dict(part) for part in inputs],
        "task": {"kind": task.kind, "classes": list(task.classes)},
        "settings": evaluation.settings.to_json(task),
        "nothing_learnt": nothing_learnt(evaluation),
        "notes": evaluation.notes,
        "locked": evaluation.locked.to_json(with_rows=False) if evaluation.locked else None,
        "across_folds": [across.to_json() for across in evaluation.across],
        "parts": [_part_json(part) for part in evaluation.parts],
    }


def write_evaluation(
    evaluation: Evaluation,
    out: Path | str,
    inputs: Sequence[Mapping[str, Any]] = (),
    figures: bool = True,
    note: str = "",
) -> list[Path]:
    """Write all files of an evaluation.

    Args:
        evaluation: what ``evaluate_table`` gave.
        out: folder; created.
        inputs: which files it was computed from.
        figures: whether to draw.
        note: footer of every picture.

    Returns:
        The files written.

    Raises:
        OSError: a file cannot be written.
    """
    out = Path(out)
    write_metrics(to_json(evaluation, inputs), out / "evaluation.json")
    written = [out / "evaluation.json"]
    parts = evaluation.parts
    written += _table(out / "metrics.csv", (_about(p) | e.to_json() for p in parts for e in p.estimates))
    written += _table(
        out / "cross_validation.csv",
        ({"split": a.split, "level": a.level} | e.to_json() for a in evaluation.across for e in a.estimates),
    )
    written += _table(out / "calibration.csv", (row for part in parts for row in _calibration_rows(part)))
    written += _table(out / "reliability.csv", (row for part in parts for row in _reliability_rows(part)))
    written += _table(out / "curves.csv", (row for part in parts for row in _curve_rows(part)))
    aside = ((_about(part), part.abstention) for part in parts)
    written += _table(out / "abstention.csv", (about | row for about, found in aside if found for row in found.rows()))
    survived = [(_about(part), part.survival) for part in parts if part.survival is not None]
    groups = (about | row for about, found in survived for row in found.groups.rows())
    written += _table(out / "survival_curves.csv", groups)
    at_times = (about | row for about, found in survived for row in found.calibration_rows())
    written += _table(out / "survival_calibration.csv", at_times)
    written += _table(out / "subgroups.csv", (_about(p) | g.to_json() for p in parts for g in p.groups))
    if evaluation.locked is not None:
        write_metrics(evaluation.locked.to_json(), out / "locked.json")
        written.append(out / "locked.json")
        written += _table(out / "thresholds.csv", _threshold_rows(evaluation))
    recalibrated = [p.recalibrated for p in parts if p.recalibrated is not None and p.level == "row"]
    (out / "recalibrated.csv").unlink(missing_ok=True)
    if recalibrated:
        write_predictions(pd.concat(recalibrated, ignore_index=True), out / "recalibrated.csv")
        written.append(out / "recalibrated.csv")
    if figures and evaluation.across:  # pictures of each fold by itself would be dozens
        from medsoft.evaluation.figures.folds import draw_folds

        for across in evaluation.across:
            where = (out / "figures", suffix_of(across.split, across.level))
            written += draw_folds(across, parts, evaluation.task, *where, evaluation.settings.confidence, note)
    if figures and not evaluation.across:
        from medsoft.evaluation.figures.part_figures import draw_part

        for part in parts:
            where = (out / "figures", suffix_of(part.split, part.level, part.fold))
            written += draw_part(part, evaluation.task, *where, evaluation.settings.confidence, note)
    return written


def suffix_of(split: str, level: str, fold: str = "") -> str:
    """``_test``, ``_test_fold-2``, ``_test_patient``: nothing in it leads out of a folder."""
    words = [split] if split != "all" else []
    words += [f"fold-{fold}"] if fold else []
    words += [level] if level != "row" else []
    return "".join("_" + re.sub(r"[^\w-]+", "-", word) for word in words)


def _about(part: Part) -> dict[str, Any]:
    return {"fold": part.fold, "split": part.split, "level": part.level}


def _part_json(part: Part) -> dict[str, Any]:
    return {
        **_about(part),
        "n": part.n,
        "n_missing": part.n_missing,
        "n_mixed": part.n_mixed,
        "n_patients": part.n_patients,
        "n_per_class": part.n_per_class,
        "clustered": part.clustered,
        "bootstrap": part.bootstrap,
        "chose_thresholds": part.overlap.n,
        "notes": part.notes,
        "estimates": [estimate.to_json() for estimate in part.estimates],
        "calibration": {
            name: {how or "as predicted": calibration.to_json() for how, calibration in found.items()}
            for name, found in part.calibration.items()
        },
        "top_label_error": {how or "as predicted": error for how, error in part.top_label_error.items()},
        "curves": {
            name: {
                "prevalence": curves.prevalence,
                "roc": curves.roc.to_json(),
                "net_benefit": curves.net_benefit.to_json(),
                "net_benefit_recalibrated": curves.net_benefit_recalibrated.to_json()
                if curves.net_benefit_recalibrated
                else None,
            }
            for name, curves in part.curves.items()
        },
        "time_to_event": part.survival.to_json() if part.survival else None,
        "risk_coverage": {name: curve.to_json() for name, curve in part.risk_coverage.items()},
        "abstention": part.abstention.rows() if part.abstention else None,
        "subgroups": [group.to_json() for group in part.groups],
    }


def _calibration_rows(part: Part) -> list[dict[str, Any]]:
    rows = []
    for name, found in part.calibration.items():
        for how, calibration in found.items():
            values = calibration.to_json()
            del values["bins"]
            rows.append({**_about(part), "class": name, "probabilities": how, **values, "note": _mark(part, how)})
    return rows


def _mark(part: Part, how: str) -> str:
    """What is put beside values after a recalibration that rows of the part chose."""
    return part.overlap.mark if how else ""


def _reliability_rows(part: Part) -> list[dict[str, Any]]:
    return [
        {**_about(part), "class": name, "probabilities": how, **asdict(bin_), "note": _mark(part, how)}
        for name, found in part.calibration.items()
        for how, calibration in found.items()
        for bin_ in calibration.bins
    ]


def _curve_rows(part: Part) -> list[dict[str, Any]]:
    found = [("risk_coverage", name, curve) for name, curve in part.risk_coverage.items()]
    if part.survival and part.survival.auc:
        found.append(("auc_over_time", "", part.survival.auc))
    for name, curves in part.curves.items():
        found += [("roc", name, curves.roc), ("net_benefit", name, curves.net_benefit)]
        if curves.net_benefit_recalibrated is not None:
            found.append(("net_benefit_recalibrated", name, curves.net_benefit_recalibrated))
    rows = []
    for kind, name, curve in found:
        note = _mark(part, "recalibrated" if kind == "net_benefit_recalibrated" else "")
        for at in range(len(curve.x)):
            band = {"low": curve.low[at], "high": curve.high[at]} if len(curve.low) else {"low": None, "high": None}
            rows.append(
                {**_about(part), "class": name, "curve": kind, "x": curve.x[at], "y": curve.y[at], **band, "note": note}
            )
    return rows


def _threshold_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    assert evaluation.locked is not None
    return [
        {
            "fold": chosen.fold,
            "level": chosen.level,
            "chosen_on": chosen.split if point.sensitivity is not None else "",
            "n": chosen.n if point.sensitivity is not None else None,
            **{"class" if name == "class_name" else name: value for name, value in asdict(point).items()},
        }
        for chosen in evaluation.locked.chosen
        for point in chosen.points
    ]


def _table(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Write rows as CSV; without any there is no file, and none of an earlier evaluation either."""
    listed = list(rows)
    if not listed:
        path.unlink(missing_ok=True)
        return []
    with replacing(path) as temporary:
        pd.DataFrame(listed).to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")
    return [path]
