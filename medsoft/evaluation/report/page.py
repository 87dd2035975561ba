"""The report as a page and as ``report.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.examples import Shown
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.confusion import ConfusionTable, confusion_tables
from medsoft.evaluation.report.content import Content, Given, PartContent, report_content
from medsoft.evaluation.report.flow import SPLIT_NAMES
from medsoft.evaluation.report.flow_figure import flow_svg
from medsoft.evaluation.report.glossary import GLOSSARY
from medsoft.evaluation.report.model_card import ASKED
from medsoft.evaluation.report.tables import MetricTable, metric_tables
from medsoft.evaluation.wording import after, counted, mix_of, rule_name
from medsoft.storage.files import replacing
from medsoft.task import Task

if TYPE_CHECKING:
    from medsoft.evaluation.figures.forest import Forest
    from medsoft.evaluation.report.figures import FigureGroup, Figures

HERE = Path(__file__).parent


@dataclass(frozen=True)
class PartView:
    """One fold and split as the page shows it.

    Attributes:
        heading: of its section.
        anchor: where links lead.
        own: whether thresholds were chosen here.
        levels: by row, by exam, by patient.
        notes: what to know before reading.
        charts: together where there is one question, else kind by kind.
        tables: metrics.
        confusion: confusion matrices.
        calibration: a line a class and kind of probability.
        forests: subgroups.
    """

    heading: str
    anchor: str
    own: bool
    levels: tuple[Part, ...]
    notes: list[str]
    charts: list[FigureGroup]
    tables: list[MetricTable]
    confusion: list[ConfusionTable]
    calibration: list[dict[str, Any]]
    forests: list[Forest]


def write_report(
    evaluation: Evaluation,
    out: Path | str,
    given: Given,
    examples: Sequence[Shown] = (),
    how: str = "",
    show_ids: bool = False,
) -> list[Path]:
    """Write ``report.html`` and ``report.json``.

    Args:
        evaluation: what ``evaluate_table`` gave.
        out: folder; created.
        given: what else is known.
        examples: with their pictures.
        how: a sentence on how the pictures were made.
        show_ids: whether the names of the examples are shown.

    Returns:
        The files written.

    Raises:
        OSError: a file cannot be written.
    """
    content = report_content(evaluation, given)
    html = report_html(content, evaluation.task, given, examples, how, show_ids)
    out = Path(out)
    with replacing(out / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    write_metrics(content.values, out / "report.json")
    return [out / "report.html", out / "report.json"]


@cache
def page_environment() -> Environment:
    """The templates of all pages; compiled once."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters |= {"rule": rule_name, "after": after, "counted": counted, "mix": mix_of}
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return environment


def report_html(content: Content, task: Task, given: Given, examples: Sequence[Shown], how: str, show_ids: bool) -> str:
    """The page; arguments as for ``write_report``."""
    from medsoft.evaluation.report.figures import Figures  # imports Matplotlib

    figures = Figures()
    parts = [
        _view(part, task, values["levels"], values["calibration"], figures)
        for part, values in zip(content.parts, content.values["parts"], strict=True)
    ]
    best = given.run.facts.get("training", {}).get("best_epoch") if given.run else None
    return (
        page_environment()
        .get_template("page.html.jinja")
        .render(
            values=content.values,
            task=task,
            glossary=[GLOSSARY[name] for name in task.glossary],
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            flow={"wide": Markup(flow_svg(content.flow)), "narrow": Markup(flow_svg(content.flow, narrow=True))},
            parts=parts,
            first=parts[0] if parts else None,
            folds=_folds(content, task, figures),
            learning=figures.of_training(given.run.log, best) if given.run and given.run.log else [],
            data_size=figures.of_data_size(given.learning_curve) if given.learning_curve else None,
            examples=list(examples),
            how=how,
            asked=ASKED,
            show_ids=show_ids,
            names={split.name: SPLIT_NAMES.get(split.name, f"Part {split.name}") for split in content.flow.splits},
        )
    )


def number(value: float) -> str:
    """Three decimals; large values in four digits, tiny ones in two, and what only rounding keeps from 0 as 0."""
    value = 0.0 if abs(value) < 1e-14 else value
    digits = 2 if abs(value) < 1e-3 else 4
    text = f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 100 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def _folds(content: Content, task: Task, figures: Figures) -> FigureGroup | None:
    """The figure of all folds of the part that is reported first."""
    levels = [level for part in content.parts for level in part.levels]
    return figures.of_folds(content.across, levels, task) if content.across else None


def _view(
    part: PartContent,
    task: Task,
    levels: list[dict[str, Any]],
    calibration: list[dict[str, Any]],
    figures: Figures,
) -> PartView:
    from medsoft.evaluation.figures.forest import forests

    of_rows = part.levels[0]
    notes: list[str] = []
    for level in levels:
        said = [note if level["level"] == "row" else f"{level['name']}: {note}" for note in level["notes"]]
        notes += [note for note in said if note not in notes]
    return PartView(
        part.heading,
        part.anchor,
        part.own,
        part.levels,
        notes,
        figures.of_part(of_rows, task),
        metric_tables(part.levels, task),
        confusion_tables(of_rows, task),
        calibration,
        forests(of_rows, task),
    )
