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
from medsoft.evaluation.metrics import write_metrics
from medsoft.evaluation.part import Part
from medsoft.evaluation.predictions import write_predictions
from medsoft.files import replacing
from medsoft.task import Task

FORMAT = 1


def to_json(evaluation: Evaluation, inputs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Everything as plain values; ``inputs`` says which files it was computed from."""
    task = evaluation.task
    return {
        "format": FORMAT,
        "medsoft": __version__,
        "inputs": [dict(part) for part in inputs],
        "task": {"kind": task.kind, "classes": list(task.classes)} if task else {"kind": "regression", "classes": []},
        "settings": asdict(evaluation.settings),
        "notes": evaluation.notes,
        "locked": evaluation.locked.to_json() if evaluation.locked else None,
        "across_folds": [across.to_json() for across in evaluation.across],
        "parts": [_part_json(part) for part in evaluation.parts],
    }


def write_evaluation(
    evaluation: Evaluation,
    out: Path | str,
    inputs: Sequence[Mapping[str, Any]] = (),
    pictures: bool = True,
    note: str = "",
) -> list[Path]:
    """Write all files of an evaluation.

    Args:
        evaluation: what ``evaluate_table`` gave.
        out: folder; created.
        inputs: which files it was computed from.
        pictures: whether to draw.
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
    if pictures and evaluation.across:  # pictures of each fold by itself would be dozens
        from medsoft.evaluation.pictures.folds import draw_folds

        for across in evaluation.across:
            where = (out / "pictures", suffix_of(across.split, across.level))
            written += draw_folds(across, parts, evaluation.task, *where, evaluation.settings.confidence, note)
    for part in parts if pictures and not evaluation.across else ():
        written += draw_part(part, evaluation.task, out / "pictures", evaluation.settings.confidence, note)
    return written


def draw_part(part: Part, task: Task | None, folder: Path, confidence: float = 0.95, note: str = "") -> list[Path]:
    """Draw the pictures of a part for which there is material; ``confidence`` is that of its intervals."""
    from medsoft.evaluation.pictures.coverage import risk_coverage
    from medsoft.evaluation.pictures.decision import decision_curve
    from medsoft.evaluation.pictures.forest import forest, group_rows
    from medsoft.evaluation.pictures.panels import describe
    from medsoft.evaluation.pictures.regression import agreement
    from medsoft.evaluation.pictures.reliability import reliability
    from medsoft.evaluation.pictures.roc_band import roc_band

    suffix = file_suffix(part)
    written = []
    if part.curves and task is not None:
        written.append(roc_band(part, task, folder / f"roc_band{suffix}.png", note))
        written.append(decision_curve(part, task, folder / f"decision_curve{suffix}.png", note))
    if part.risk_coverage:
        written.append(risk_coverage(part, task, folder / f"risk_coverage{suffix}.png", note))
    if part.calibration and task is not None:
        written.append(reliability(part, task, folder / f"reliability{suffix}.png", note))
    if task is None and part.n:
        written.append(agreement(part, folder / f"agreement{suffix}.png", note))
    wanted = {(g.estimate.metric, g.estimate.class_name, g.estimate.average, g.estimate.rule) for g in part.groups}
    for metric, class_name, average, rule in sorted(wanted):
        if metric not in ("auroc", "mae", "accuracy") or (task and task.kind == "multilabel" and class_name):
            continue
        rows = group_rows(part, metric, class_name, average, rule)
        whole = rows[0].value if rows and rows[0].name == "all" else None
        about = f"split: {part.split} · n = {part.n}" if task is None else describe(part, task)
        name = {"auroc": "AUROC", "mae": "mean absolute error"}.get(metric, metric)
        shown = [g.estimate for g in part.groups if g.estimate.metric == metric and g.estimate.average == average]
        methods = {estimate.method for estimate in shown if estimate.method}
        how = " or ".join(sorted(methods)).replace("delong", "DeLong")
        label = f"{name}{f' ({average})' if average else ''}" + (f", {confidence:.0%} interval ({how})" if how else "")
        about += " · grey: small group" if any(group.note for group in part.groups) else ""
        file = folder / f"subgroups_{metric}{suffix}.png"
        title = f"Subgroups: {name}" + (f" of {class_name}" if class_name else "")
        written.append(forest(rows, file, label, title=title, facts=about, note=note, line=whole))
    return written


def file_suffix(part: Part) -> str:
    """``_test``, ``_test_fold-2``, ``_test_patient``: nothing in it leads out of a folder."""
    return suffix_of(part.split, part.level, part.fold)


def suffix_of(split: str, level: str, fold: str = "") -> str:
    """As ``file_suffix``."""
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
            rows.append({**_about(part), "class": name, "probabilities": how, **values})
    return rows


def _reliability_rows(part: Part) -> list[dict[str, Any]]:
    return [
        {**_about(part), "class": name, "probabilities": how, **asdict(bin_)}
        for name, found in part.calibration.items()
        for how, calibration in found.items()
        for bin_ in calibration.bins
    ]


def _curve_rows(part: Part) -> list[dict[str, Any]]:
    found = [("risk_coverage", name, curve) for name, curve in part.risk_coverage.items()]
    for name, curves in part.curves.items():
        found += [("roc", name, curves.roc), ("net_benefit", name, curves.net_benefit)]
        if curves.net_benefit_recalibrated is not None:
            found.append(("net_benefit_recalibrated", name, curves.net_benefit_recalibrated))
    rows = []
    for kind, name, curve in found:
        for at in range(len(curve.x)):
            band = {"low": curve.low[at], "high": curve.high[at]} if len(curve.low) else {"low": None, "high": None}
            rows.append({**_about(part), "class": name, "curve": kind, "x": curve.x[at], "y": curve.y[at], **band})
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
