"""The report's charts of one part: ROC, precision-recall, reliability, decision curve; agreement for regression."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from medsoft.evaluation.arrays import OneAgainstRest, one_against_rest
from medsoft.evaluation.estimates import Estimate
from medsoft.evaluation.part import Curve, Part
from medsoft.evaluation.pictures.decision import net_benefit_of_all
from medsoft.evaluation.report.chart import Chart
from medsoft.evaluation.report.words import after, rule_name
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
Size = tuple[int, int]
LARGE, SMALL = (420, 400), (300, 285)
"""Width and height of a chart in px."""
MOST_POINTS = 2000
"""Of a scatter: more cannot be told apart, and each is a line of the file."""


@dataclass(frozen=True)
class Figure:
    """A chart with what stands around it.

    Attributes:
        title: above it.
        svg: the chart.
        legend: style and name of each line.
        caption: below it.
    """

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class FigureGroup:
    """Charts that belong together: all of one question, or one kind of all classes with what they have in common."""

    title: str
    figures: tuple[Figure, ...]
    legend: tuple[tuple[str, str], ...] = ()


def figure_groups(part: Part, task: Task) -> list[FigureGroup]:
    """The charts for which there is material: of one question together, of several kind by kind and smaller."""
    questions = {question.name: question for question in one_against_rest(part.frame, task)}
    size = LARGE if len(questions) == 1 else SMALL
    kinds: dict[str, list[Figure]] = {}
    for name, question in questions.items():
        if name in part.curves:
            kinds.setdefault("ROC curve", []).append(_roc(part, question, size))
            kinds.setdefault("Precision and recall", []).append(_precision_recall(part, question, size))
        if name in part.calibration:
            kinds.setdefault("Calibration", []).append(_reliability(part, question, size))
        if name in part.curves:
            kinds.setdefault("Decision curve", []).append(_decision_curve(part, name, size))
    for name, curve in part.risk_coverage.items():
        kinds.setdefault("Selective prediction", []).append(_risk_coverage(part, name, curve, size))
    if len(questions) == 1:
        return [FigureGroup("", tuple(figure for figures in kinds.values() for figure in figures))] if kinds else []
    groups = []
    for kind, figures in kinds.items():
        legend = tuple(dict.fromkeys(line for figure in figures for line in figure.legend))
        groups.append(FigureGroup(kind, tuple(replace(figure, legend=()) for figure in figures), legend))
    return groups


def _roc(part: Part, question: OneAgainstRest, size: Size) -> Figure:
    curve, said = part.curves[question.name].roc, _said(part.find("auroc", class_name=question.name))
    chart = Chart(f"ROC curve of {question.name}", f"AUROC {said}", "1 − specificity", "sensitivity", size=size)
    if len(curve.low):
        chart.band(curve.x, curve.low, curve.high)
    chart.line((0, 1), (0, 1), "quiet dot")
    x, y, _ = roc_curve(question.truth, question.p)
    chart.line(x, y)
    legend = [("c0", "ROC curve, with a pointwise bootstrap band"), ("quiet dot", "chance")]
    for index, found in enumerate(_decisions(part, question.name)):
        specificity = part.find("specificity", class_name=question.name, rule=found.rule)
        if found.value is None or specificity is None or specificity.value is None:
            continue
        style = f"c{1 + index % 3}"
        text = f"{rule_name(found.rule)}: sensitivity {found.value:.3f}, specificity {specificity.value:.3f}"
        chart.mark(1 - specificity.value, found.value, style, text, radius=5)
        legend.append((f"{style} mark", f"threshold: {rule_name(found.rule)}"))
    chart.write(1, 0.1, [f"AUROC {line}" if at == 0 else line for at, line in enumerate(said.split(" ", 1))], "end")
    return Figure(_title("ROC curve", question.name, size), chart.svg(), tuple(legend))


def _precision_recall(part: Part, question: OneAgainstRest, size: Size) -> Figure:
    found = part.find("average_precision", class_name=question.name)
    said = _said(found)
    prevalence = float(question.truth.mean())
    about = f"average precision {said}, where chance has {prevalence:.3f}"
    chart = Chart(
        f"Precision-recall curve of {question.name}", about, "sensitivity (recall)", "precision (PPV)", size=size
    )
    chart.across(prevalence, "quiet dot")
    precision, recall, _ = precision_recall_curve(question.truth, question.p)
    # Without scikit-learn's last point, a precision of 1 at no recall, which no row stands for: what is drawn has the
    # average precision as its area.
    chart.line(np.repeat(recall, 2)[1:-1], np.repeat(precision[:-1], 2))
    # Written where the curve is not: a good one leaves room low on the left, a poor one high on the right.
    lines = [f"average precision {line}" if at == 0 else line for at, line in enumerate(said.split(" ", 1))]
    if found is not None and found.value is not None and found.value < 0.5:
        chart.write(1, 0.94, lines, "end")
    else:
        chart.write(0.02, 0.1, lines)
    chance = "chance: the prevalence" + (f", {prevalence:.3f}" if size == LARGE else "")
    legend = (("c0", "precision-recall curve"), ("quiet dot", chance))
    return Figure(_title("Precision and recall", question.name, size), chart.svg(), legend)


def _reliability(part: Part, question: OneAgainstRest, size: Size) -> Figure:
    found = part.calibration[question.name]
    errors = [f"ECE {c.ece:.3f}" + (f" {after(how)}" if how else " as predicted") for how, c in found.items()]
    chart = Chart(
        f"Reliability of {question.name}",
        "; ".join(errors),
        "predicted probability",
        "observed share",
        y=(-0.12, 1.0),
        size=size,
    )
    counts, edges = np.histogram(question.p, bins=25, range=(0, 1))
    chart.bars(edges.tolist(), (0.1 * counts / max(counts.max(), 1)).tolist(), -0.12)
    chart.line((0, 1), (0, 1), "quiet dot")
    legend = [("quiet dot", "calibrated"), ("quiet bar", "how the probabilities are spread")]
    for index, (how, calibration) in enumerate(found.items()):
        style = f"c{index}" + (" dash" if index else "")
        for bin_ in calibration.bins:
            if bin_.low is not None and bin_.high is not None:
                chart.whisker(bin_.mean_p, bin_.low, bin_.high, style)
        chart.line([b.mean_p for b in calibration.bins], [b.observed for b in calibration.bins], style)
        for bin_ in calibration.bins:
            text = f"{bin_.n} rows: predicted {bin_.mean_p:.3f}, observed {bin_.observed:.3f}"
            chart.mark(bin_.mean_p, bin_.observed, style, text)
        legend.insert(index, (style, after(how) if how else "as predicted"))
    plain = next(iter(found.values()))
    if size == SMALL:
        chart.write(0.02, 0.94, errors)
        return Figure(question.name, chart.svg(), tuple(legend))
    caption = f"A calibrated model of these scores would have an ECE of {plain.ece_if_calibrated:.3f} by chance."
    if part.clustered:
        caption += " No intervals: patients have several rows."
    chart.write(0.02, 0.94, errors)
    return Figure(_title("Calibration", question.name, size), chart.svg(), tuple(legend), caption)


def _decision_curve(part: Part, name: str, size: Size) -> Figure:
    curves = part.curves[name]
    model, of_all = curves.net_benefit, net_benefit_of_all(curves)
    top = max(curves.prevalence, float(model.y.max()))
    better = model.x[model.y > np.maximum(of_all, 0) + 1e-9]
    useful = (
        f"better than acting on all and on none at thresholds between {better.min():.2f} and {better.max():.2f}"
        if len(better)
        else "nowhere better than acting on all or on none"
    )
    chart = Chart(
        f"Decision curve of {name}",
        useful,
        "threshold probability",
        "net benefit",
        y=(-0.2 * top, 1.08 * top),
        size=size,
    )
    if len(model.low):
        chart.band(model.x, model.low, model.high)
    chart.line(model.x, of_all, "quiet dash")
    chart.across(0.0)
    chart.line(model.x, model.y)
    legend = [("c0", "model, with a pointwise bootstrap band"), ("quiet dash", "act on all"), ("quiet", "act on none")]
    if curves.net_benefit_recalibrated is not None:
        chart.line(model.x, curves.net_benefit_recalibrated.y, "c1 dash")
        legend.insert(1, ("c1 dash", "model, recalibrated"))
    return Figure(_title("Decision curve", name, size), chart.svg(), tuple(legend))


def _risk_coverage(part: Part, name: str, curve: Curve, size: Size) -> Figure:
    """Errors among the samples that are answered, the most certain first; ``name`` is "" for the whole table."""
    said = _said(part.find("aurc", class_name=name))
    top = max(float(curve.high.max()) if len(curve.high) else 0.0, float(curve.y.max()), 1e-3)
    of = f" of {name}" if name else ""
    chart = Chart(
        f"Selective prediction{of}", f"AURC {said}", "coverage", "share of errors", y=(0.0, 1.05 * top), size=size
    )
    if len(curve.low):
        chart.band(curve.x, curve.low, curve.high)
    everything = float(curve.y[-1])
    chart.across(everything, "quiet dash")
    chart.line(curve.x, np.maximum(0, 1 - (1 - everything) / curve.x), "quiet dot")
    chart.line(curve.x, curve.y)
    legend = (
        ("c0", "the most certain answered first, with a pointwise bootstrap band"),
        ("quiet dash", "in random order"),
        ("quiet dot", "all right answers first"),
    )
    title = name or ("All classes" if size == SMALL else "Selective prediction")
    return Figure(title, chart.svg(), legend)


def agreement_figures(part: Part) -> list[Figure]:
    """Regression: predictions against targets, and differences against the mean of both (Bland and Altman)."""
    if not part.n:
        return []
    frame = part.frame
    caption = ""
    if len(frame) > MOST_POINTS:
        frame = frame.sample(MOST_POINTS, random_state=0)
        caption = f"{MOST_POINTS} of {part.n} rows, drawn at random."
    target, prediction = (frame[name].to_numpy(dtype=np.float64) for name in ("target", "prediction"))
    both = _range(np.concatenate([target, prediction]))
    said = _said(part.find("concordance"))
    left = Chart("Predictions against targets", f"concordance {said}", "target", "prediction", x=both, y=both)
    left.line(both, both, "quiet dot")
    for t, p in zip(target, prediction, strict=True):
        left.mark(float(t), float(p), "c0 many", radius=3)
    difference, mean = prediction - target, (prediction + target) / 2
    lines = {name: found.value for name in ("bias", "limit_low", "limit_high") if (found := part.find(name))}
    known = [value for value in lines.values() if value is not None]
    about = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in lines.items() if value is not None)
    right = Chart(
        "Differences of predictions and targets",
        about,
        "mean of prediction and target",
        "prediction − target",
        x=_range(mean),
        y=_range(np.concatenate([difference, known])),
    )
    for m, d in zip(mean, difference, strict=True):
        right.mark(float(m), float(d), "c0 many", radius=3)
    for name, value in lines.items():
        if value is not None:
            right.across(value, "c1" if name == "bias" else "c1 dash")
    legend = (("c1", "bias"), ("c1 dash", "limits of agreement"))
    return [
        Figure("Predictions and targets", left.svg(), (("quiet dot", "equal"),), caption),
        Figure("Agreement", right.svg(), legend, caption),
    ]


def _title(kind: str, name: str, size: Size) -> str:
    """Small charts stand under a heading that says their kind."""
    if size != SMALL:
        return kind
    return f"class {name}" if name[:1].isdigit() else name


def _decisions(part: Part, name: str) -> list[Estimate]:
    """Sensitivities at the thresholds of one class; decisions by the most probable class have no threshold."""
    return [e for e in part.estimates if (e.metric, e.class_name) == ("sensitivity", name) and e.threshold is not None]


def _range(values: FloatArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low)
    return low - room, high + room


def _said(found: Estimate | None) -> str:
    """A value and its interval in words."""
    if found is None or found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
