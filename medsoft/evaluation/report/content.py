"""What the report says, as plain values: what ``report.json`` holds and the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import pandas as pd

from medsoft import __version__
from medsoft.evaluation.comparison.across_folds import AcrossFolds
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.learning_curve.curve import LearningCurve
from medsoft.evaluation.learnt import nothing_learnt
from medsoft.evaluation.locked import Chosen
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.confusion import confusion_tables
from medsoft.evaluation.report.flow import SPLIT_NAMES, Flow, flow_of
from medsoft.evaluation.report.key_figures import KeyFigure, key_figures, last_rule
from medsoft.evaluation.report.model_card import Section, model_card, report_facts
from medsoft.evaluation.report.privacy import listed, names_in, without_folders, without_names
from medsoft.evaluation.report.run import RunFacts
from medsoft.evaluation.report.sections.candidates import candidate_values
from medsoft.evaluation.report.sections.shortcuts import shortcut_values
from medsoft.evaluation.report.tables import LEVEL_NAMES, metric_tables
from medsoft.evaluation.shortcuts.judge import Shortcuts
from medsoft.task import Task

FORMAT = 1


@dataclass(frozen=True)
class Given:
    """What the report is made from, beside the evaluation.

    Attributes:
        frame: all predictions.
        inputs: of each file its name, SHA-256 and number of rows.
        run: what the run's folder knows, or None.
        title: of the report; "" for one made from the run's name.
        words: of the authors, for the model card.
        shortcuts: baselines on facts of the samples; None where nobody asked for them.
        learning_curve: of a cross-validation that was trained on parts of the data too.
    """

    frame: pd.DataFrame
    inputs: Sequence[Mapping[str, Any]] = ()
    run: RunFacts | None = None
    title: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    shortcuts: Shortcuts | None = None
    learning_curve: LearningCurve | None = None


@dataclass(frozen=True)
class PartContent:
    """One fold and split: its levels side by side.

    Attributes:
        heading: such as "Test part, fold 2".
        split: name.
        fold: name; "" without folds.
        own: whether thresholds were chosen here.
        levels: the parts, by row first.
    """

    heading: str
    split: str
    fold: str
    own: bool
    levels: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """Where links of the page lead."""
        return "-".join(
            ["part", *("".join(c if c.isalnum() else "-" for c in w) for w in (self.split, self.fold) if w)]
        )


@dataclass(frozen=True)
class Content:
    """The report before it is a page.

    Attributes:
        values: what ``report.json`` holds.
        parts: what is reported, the most important first.
        flow: counts of the samples.
        across: the mean over folds of the part that is reported first; None without folds.
    """

    values: dict[str, Any]
    parts: list[PartContent]
    flow: Flow
    across: AcrossFolds | None


def report_content(evaluation: Evaluation, given: Given) -> Content:
    """Put together what is reported."""
    run = given.run
    hidden = names_in(given.frame)
    flow = flow_of(evaluation, given.frame, run)
    parts = ordered_parts(evaluation)
    notes = [without_names(note, hidden) for note in evaluation.notes]
    if run and (about := run.facts.get("data", {}).get("note")):
        notes.insert(0, str(about))
    if run:
        notes[:0] = filter(None, (run.changed_table, run.seen_before))
    first = parts[0] if parts else None
    of_first = [without_names(note, hidden) for note in _of_parts(parts)]
    question = _question(evaluation.task, run, flow)
    card = model_card(report_facts(evaluation, flow, run, question["text"], [*notes, *of_first]), given.words)
    across = _primary_across(evaluation, first)
    top = across or (first.levels[0] if first else None)
    of_top = f"{SPLIT_NAMES.get(across.split, across.split)}, mean of {len(across.n_per_fold)} folds" if across else ""
    figures = key_figures(top, evaluation.task) if top else []
    name = run.name if run else ""
    values = {
        "format": FORMAT,
        "medsoft": __version__,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "title": given.title or (f"Evaluation of {name}" if name else "Evaluation of predictions"),
        "question": question,
        "nothing_learnt": nothing_learnt(evaluation),
        "candidates": candidate_values(run.candidates) if run else None,
        "shortcuts": shortcut_values(given.shortcuts, evaluation, flow.unit) if given.shortcuts else None,
        "learning_curve": given.learning_curve.to_json() if given.learning_curve else None,
        "notes": notes,
        "notes_of_parts": of_first,
        "flow": asdict(flow),
        "key_figures": {
            "of": of_top or (first.heading if first else ""),
            "n": (sum(across.n_per_fold.values()) if across else first.levels[0].n) if first else 0,
            "n_patients": _patients(first, across),
            "figures": [asdict(figure) for figure in figures],
        },
        "folds": _folds(parts, across, evaluation.task) if across else [],
        "parts": [_part_values(part, evaluation.task, hidden) for part in parts],
        "locked": _locked(evaluation),
        "card": [_section(section) for section in card],
        "settings": evaluation.settings.to_json(evaluation.task),
        "inputs": [{**about, "file": without_folders(str(about["file"]))} for about in given.inputs],
        "run": _run_values(run) if run else None,
    }
    return Content(values, parts, flow, across)


def ordered_parts(evaluation: Evaluation) -> list[PartContent]:
    """Folds and splits: what is reported first, what chose thresholds and checkpoint last."""
    found: dict[tuple[str, str], list[Part]] = {}
    for part in evaluation.parts:
        found.setdefault((part.fold, part.split), []).append(part)
    parts = []
    for (fold, split), levels in found.items():
        heading = SPLIT_NAMES.get(split, f"Part {split}") + (f", fold {fold}" if fold else "")
        parts.append(PartContent(heading, split, fold, levels[0].overlap.whole, tuple(levels)))
    if len({part.split for part in parts}) == 1:
        return parts
    return sorted(parts, key=lambda part: (part.split == "val" or part.own, part.split != "test"))


def _primary_across(evaluation: Evaluation, first: PartContent | None) -> AcrossFolds | None:
    """The mean over folds of the part that is reported first; None without folds."""
    same = [a for a in evaluation.across if first is not None and a.split == first.split]
    return next((a for a in same if a.level == first.levels[0].level), None) if first is not None else None


def _patients(first: PartContent | None, across: AcrossFolds | None) -> int | None:
    """Patients behind the key figures, of all folds together; None where they are not named."""
    named = first.levels[0].n_patients if first else None
    return across.n_patients if named is not None and across else named


def _folds(parts: Sequence[PartContent], across: AcrossFolds, task: Task) -> list[dict[str, Any]]:
    """The key figures of every fold, their mean, and the pooled value beside it."""
    of_split = [part for part in parts if part.split == across.split]
    rule = last_rule(across)  # a fold whose validation part chose nothing has none of its own
    rows = [(part.heading, [asdict(f) for f in key_figures(part.levels[0], task, rule)]) for part in of_split]
    rows.append(("Mean over folds", [asdict(figure) for figure in key_figures(across, task, rule)]))
    pooled = replace(
        across, estimates=[replace(e, value=e.pooled, low=e.pooled_low, high=e.pooled_high) for e in across.estimates]
    )
    rows.append(("Pooled: mixes the scores of different models", [asdict(f) for f in key_figures(pooled, task, rule)]))
    return [{"name": name, "pooled": name.startswith("Pooled"), "figures": figures} for name, figures in rows]


def _question(task: Task, run: RunFacts | None, flow: Flow) -> dict[str, Any]:
    """The question in a sentence, and where it stands."""
    label = run.option("data", "label") if run else None
    positive = run.option("data", "positive") if run else None
    text = task.sentence(flow.unit)
    if task.positive and task.classes == ("negative", "positive") and label and positive is not None:
        # The classes are named for what they stand for; the label's values say what that is.
        values = ", ".join(map(str, positive)) if isinstance(positive, list) else str(positive).replace(",", ", ")
        text = f"{task.kind.capitalize()}: is “{label}” of the {flow.unit} {values} (positive) or not (negative)?"
    return {
        "kind": task.kind,
        "classes": list(task.classes),
        "text": text,
        "table": flow.source,
        "label": label,
        "positive": positive,
    }


def _of_parts(parts: list[PartContent]) -> list[str]:
    """Notes on the part that is reported first; of a cross-validation, on that part of every fold."""
    said: dict[str, list[str]] = {}
    alike = [part for part in parts if part.split == parts[0].split]
    for part in alike:
        for note in part.levels[0].notes:
            said.setdefault(note, []).append(part.fold)
    if len(alike) < 2:
        return list(said)
    return [f"{'fold' if len(folds) == 1 else 'folds'} {', '.join(folds)}: {note}" for note, folds in said.items()]


def _part_values(part: PartContent, task: Task, hidden: frozenset[str]) -> dict[str, Any]:
    of_rows = part.levels[0]
    return {
        "heading": part.heading,
        "split": part.split,
        "fold": part.fold,
        "chose_thresholds": part.own,
        "levels": [
            {
                "level": level.level,
                "name": LEVEL_NAMES[level.level],
                "n": level.n,
                "n_missing": level.n_missing,
                "n_patients": level.n_patients,
                "n_per_class": level.n_per_class,
                "bootstrap": level.bootstrap,
                "notes": [without_names(note, hidden) for note in level.notes],
            }
            for level in part.levels
        ],
        "tables": [asdict(table) for table in metric_tables(part.levels, task)],
        "confusion": [asdict(table) for table in confusion_tables(of_rows, task)],
        "calibration": [
            {
                "class": name,
                "probabilities": how or "as predicted",
                "mark": of_rows.overlap.mark if how else "",
                **_without_bins(calibration.to_json()),
            }
            for name, found in of_rows.calibration.items()
            for how, calibration in found.items()
        ],
        "time_to_event": of_rows.survival.to_json() if of_rows.survival else None,
        "subgroups": [group.to_json() for group in of_rows.groups],
    }


def _without_bins(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "bins"}


def _locked(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Thresholds and recalibration, a line each."""
    rows = []
    for chosen in evaluation.locked.chosen if evaluation.locked else ():
        about = {"fold": chosen.fold, "level": chosen.level}
        for point in chosen.points:
            where = {"chosen_on": chosen.split, "n": chosen.n} if point.sensitivity is not None else {}
            rows.append({**about, "what": point.class_name, **asdict(point), "chosen_on": "", "n": None} | where)
        if chosen.recalibration is not None:
            rows.append({**about, **_recalibration(chosen)})
        rows += _risk_cuts(about, chosen)
    return rows


def _risk_cuts(about: dict[str, Any], chosen: Chosen) -> list[dict[str, Any]]:
    if (cut := chosen.risk_cut) is None:
        return []
    where = {"chosen_on": cut.split, "n": cut.n if cut.split else None, "note": ""}
    return [{**about, "what": "risk groups", "rule": cut.rule, "threshold": value, **where} for value in cut.values]


def _recalibration(chosen: Chosen) -> dict[str, Any]:
    assert chosen.recalibration is not None
    temperatures = ", ".join(f"{value:.3g}" for value in chosen.recalibration.temperatures)
    return {
        "what": "recalibration",
        "rule": chosen.recalibration.method + (f" {temperatures}" if temperatures else ""),
        "threshold": None,
        "chosen_on": chosen.split,
        "n": chosen.n,
        "note": "; ".join(chosen.recalibration.notes),
    }


def _section(section: Section) -> dict[str, Any]:
    return {"heading": section.heading, "entries": [asdict(entry) for entry in section.entries]}


def _run_values(run: RunFacts) -> dict[str, Any]:
    command = run.versions.get("command")
    return {
        "name": run.path.name,
        "command": listed(command) if command else "",
        "versions": {name: value for name, value in run.versions.items() if name not in ("command", "packages")},
        "packages": run.versions.get("packages", {}),
        "training": run.facts.get("training", {}),
        "model": run.facts.get("model", {}),
        "config": without_folders(run.config),
    }


__all__ = ["Content", "Given", "KeyFigure", "PartContent", "ordered_parts", "report_content"]
