"""The model card: what is known is filled in, what only the authors can know is asked for.

Sections as in M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medsoft.errors import InputError
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.report.flow import SPLIT_NAMES, Flow, SplitFlow
from medsoft.evaluation.report.run_facts import RunFacts
from medsoft.evaluation.report.tables import metric_name
from medsoft.evaluation.report.words import counted, mix_of, rule_name

OPEN = {
    "intended_use": "Intended use",
    "users": "Intended users",
    "out_of_scope": "Uses out of scope",
    "reference_standard": "Reference standard: how the targets were established, and by whom",
    "data_collection": "Where, when and how the samples were collected; who was eligible",
    "ethics": "Ethics, consent and privacy",
    "licence": "Licence of model and data",
    "contact": "Contact",
}
"""What only the authors know: names in the file that ``--card`` takes, and their headings."""


@dataclass(frozen=True)
class Entry:
    """A line of the card; ``text`` is None where the authors have not said it."""

    name: str
    text: str | None


@dataclass(frozen=True)
class Section:
    """A section of the card."""

    heading: str
    entries: tuple[Entry, ...]


def read_card(path: str | Path) -> dict[str, str]:
    """The authors' own words, from a YAML file of texts by the names of ``OPEN``.

    Raises:
        InputError: it cannot be read, or has other names.
    """
    try:
        words = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot read the card: {str(error).splitlines()[0]}") from error
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise InputError(f"{path}: a card is a mapping from {', '.join(OPEN)} to texts")
    if unknown := set(map(str, words)) - set(OPEN):
        raise InputError(f"{path}: {', '.join(sorted(unknown))}: a card has {', '.join(OPEN)}")
    return {str(name): text.strip() for name, text in words.items()}


def model_card(
    evaluation: Evaluation, flow: Flow, run: RunFacts | None, warnings: Sequence[str], words: Mapping[str, str]
) -> list[Section]:
    """The card.

    Args:
        evaluation: what is reported.
        flow: counts of the samples.
        run: what the run's folder knows, or None.
        warnings: what limits the results.
        words: of the authors, by the names of ``OPEN``.
    """
    said = {name: Entry(heading, words.get(name)) for name, heading in OPEN.items()}
    parts = {split.name: split for split in flow.splits}
    reported = [split for name, split in parts.items() if name != "train" and split.analysed is not None]
    settings = evaluation.settings
    groups = list(dict.fromkeys(group.column for part in evaluation.parts for group in part.groups))
    intervals = f"{100 * settings.confidence:g} % intervals; bootstrap of {settings.draws} draws"
    return [
        Section("Model", (*_model(run), said["licence"], said["contact"])),
        Section("Intended use", (said["intended_use"], said["users"], said["out_of_scope"], _STATUS)),
        Section("Factors", (Entry("Subgroups that were looked at", ", ".join(groups) or "none"),)),
        Section("Metrics", (Entry("Intervals", intervals), Entry("Thresholds", _thresholds(evaluation)))),
        Section(
            "Training data", (Entry("Training part", _mix(parts.get("train"), flow.unit)), said["data_collection"])
        ),
        Section(
            "Evaluation data",
            (
                *(Entry(SPLIT_NAMES.get(s.name, s.name), _mix(s, flow.unit)) for s in reported),
                said["reference_standard"],
            ),
        ),
        Section("Ethics", (said["ethics"],)),
        Section("Caveats", tuple(Entry("", text) for text in (*warnings, *_CAVEATS))),
    ]


_STATUS = Entry("Status", "Research software. Not a medical device: nothing here may guide the care of a patient.")
_CAVEATS = (
    "Intervals are about the samples. They hold nothing of the chance in training: another seed is another model.",
    "Results hold for data like these. For another hospital, camera or population the model has to be evaluated there.",
)


def _model(run: RunFacts | None) -> list[Entry]:
    if run is None:
        return [
            Entry("Architecture", "not known here: the report was made from the predictions alone (--run names a run)")
        ]
    model: dict[str, Any] = run.facts.get("model", {})
    training: dict[str, Any] = run.facts.get("training", {})
    entries = [Entry("Name", str(run.config.get("name", run.path.name)))]
    architecture = model.get("backbone") or run.option("model", "backbone") or run.option("model", "aggregator")
    arguments = run.option("model", "backbone_args")
    if architecture:
        inside = ", ".join(f"{name} {value}" for name, value in arguments.items()) if arguments else ""
        entries.append(Entry("Architecture", f"{architecture}{f' ({inside})' if inside else ''}"))
    if "parameters" in model:
        trained = "" if model["trainable"] == model["parameters"] else f", {model['trainable']:,} of them trained"
        entries.append(Entry("Parameters", f"{model['parameters']:,}{trained}"))
    if "members" in model:
        entries.append(Entry("Ensemble", f"the mean of {model['members']} models"))
    began = run.option("model", "pretrained")
    entries.append(Entry("Weights at the start", Path(began).name if began else "random"))
    if "best_epoch" in training:
        chosen = f"epoch {training['best_epoch']} of {training['epochs']}, chosen by {metric_name(training['monitor'])}"
        entries.append(Entry("Checkpoint", chosen + " on the validation part"))
    if "device" in training:
        entries.append(Entry("Trained on", str(training["device"])))
    if started := run.versions.get("started"):
        entries.append(Entry("Begun", str(started)))
    if version := run.versions.get("medsoft"):
        commit = run.versions.get("commit")
        entries.append(Entry("Made with", f"medsoft {version}{f', commit {str(commit)[:12]}' if commit else ''}"))
    return entries


def _thresholds(evaluation: Evaluation) -> str:
    if evaluation.locked is None:
        return "none: a regression"
    chosen = [c for c in evaluation.locked.chosen if c.level == "row"] or list(evaluation.locked.chosen)
    texts = []
    for one in chosen[:1]:
        for point in one.points:
            where = f"chosen on {one.split!r} ({one.n} rows)" if point.sensitivity is not None else "given"
            by = rule_name(point.rule)
            if point.threshold is None:
                by = f"none by {by}"
            elif point.sensitivity is not None:
                by = f"p ≥ {point.threshold:.4g} by {by}"
            texts.append(f"{point.class_name}: {by}, {where}")
    more = f"; and those of {len(chosen) - 1} other folds" if len(chosen) > 1 else ""
    return "; ".join(texts) + more if texts else "none: the most probable class is predicted"


def _mix(split: SplitFlow | None, unit: str) -> str:
    if split is None:
        return "not known here"
    people = "" if split.patients is None else f" of {counted(split.patients, 'patient')}"
    mix = ", ".join(mix_of(split.classes))
    return counted(split.rows, unit) + people + (f": {mix}" if mix else "")
