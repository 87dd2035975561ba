"""The model card: what is known is filled in, what only the authors can know is asked for.

Sections as in M. Mitchell et al., Model Cards for Model Reporting, FAT* 2019. The report shows the card as a section of
its page; a bundle has it as its README, with how to run the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medsoft import __version__
from medsoft.errors import InputError
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.locked import Chosen, Locked
from medsoft.evaluation.metrics.score import headline, score_splits
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.report.flow import SPLIT_NAMES, Flow, SplitFlow, recorded_splits
from medsoft.evaluation.report.run import RunFacts
from medsoft.evaluation.wording import counted, mix_of, rule_name
from medsoft.storage.own_files import require_file
from medsoft.task import Task

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
ASKED = "to be stated by the authors"
STATUS = "Research software, not a medical device: nothing here may guide the care of a patient."
FEW = 100
"""Rows that leave a share of 0.9 an interval of 0.12."""
_CAVEATS = (
    "Intervals are about the samples. They hold nothing of the chance in training: another seed is another model.",
    "Results hold for data like these. For another hospital, camera or population the model has to be evaluated there.",
)


@dataclass(frozen=True)
class Entry:
    """A line of the card; ``text`` is None where the authors have not said it."""

    name: str
    text: str | None


@dataclass(frozen=True)
class Section:
    """A section of the card; ``body`` is Markdown that a bundle's card has below the entries."""

    heading: str
    entries: tuple[Entry, ...]
    body: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known without the authors.

    Attributes:
        run: what the run's folder knows; None where there are only predictions.
        name: of the model; "" where there are only predictions.
        question: what the model answers.
        unit: what a row is: image, slide, volume, sample.
        training: the part that trained the model; None where nobody knows it.
        evaluated: the parts that metrics are reported of.
        locked: thresholds and recalibration; None where nothing is locked.
        intervals: how they were made; "" where there are none.
        groups: columns of the subgroups; None where nobody knows whether some were looked at.
        caveats: what limits the results.
        network: what the checkpoint says of the network, where it was read.
    """

    run: RunFacts | None
    name: str
    question: str
    unit: str
    training: SplitFlow | None
    evaluated: Sequence[SplitFlow]
    locked: Locked | None
    intervals: str = ""
    groups: Sequence[str] | None = None
    caveats: Sequence[str] = ()
    network: Mapping[str, Any] = field(default_factory=dict)


def read_card(path: str | Path) -> dict[str, str]:
    """The authors' own words, from a YAML file of texts by the names of ``OPEN``.

    Raises:
        InputError: it cannot be read, or has other names.
    """
    try:
        require_file(Path(path))
        words = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot read the card: {str(error).splitlines()[0]}") from error
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise InputError(f"{path}: a card is a mapping from {', '.join(OPEN)} to texts")
    if unknown := set(map(str, words)) - set(OPEN):
        raise InputError(f"{path}: {', '.join(sorted(unknown))}: a card has {', '.join(OPEN)}")
    return {str(name): text.strip() for name, text in words.items()}


def report_facts(
    evaluation: Evaluation, flow: Flow, run: RunFacts | None, question: str, warnings: Sequence[str]
) -> Facts:
    """What the report knows.

    Args:
        evaluation: what is reported.
        flow: counts of the samples.
        run: what the run's folder knows, or None.
        question: what the model answers.
        warnings: what limits the results.
    """
    settings = evaluation.settings
    parts = {split.name: split for split in flow.splits}
    return Facts(
        run,
        str(run.config.get("name") or run.path.name) if run else "",
        question,
        flow.unit,
        parts.get("train"),
        [split for name, split in parts.items() if name != "train" and split.analysed is not None],
        evaluation.locked,
        f"{100 * settings.confidence:g} % intervals; bootstrap of {settings.draws} draws",
        list(dict.fromkeys(group.column for part in evaluation.parts for group in part.groups)),
        (*warnings, *_CAVEATS),
    )


def model_card(facts: Facts, words: Mapping[str, str]) -> list[Section]:
    """The card.

    Args:
        facts: what is known.
        words: of the authors, by the names of ``OPEN``.
    """
    said = {name: Entry(heading, words.get(name)) for name, heading in OPEN.items()}
    metrics = [Entry("Intervals", facts.intervals)] if facts.intervals else []
    sections = [
        Section("Model", (*_model(facts), said["licence"], said["contact"])),
        Section("Intended use", (said["intended_use"], said["users"], said["out_of_scope"], Entry("Status", STATUS))),
        Section("Metrics", (*metrics, *_locked(facts.locked))),
        Section("Training data", (Entry("Training part", _mix(facts.training, facts.unit)), said["data_collection"])),
        Section(
            "Evaluation data",
            (
                *(Entry(SPLIT_NAMES.get(s.name, s.name), _mix(s, facts.unit)) for s in facts.evaluated),
                said["reference_standard"],
            ),
        ),
        Section("Ethics", (said["ethics"],)),
        Section("Caveats", tuple(Entry("", text) for text in (*facts.caveats, *_few(facts.locked)))),
    ]
    if facts.groups is not None:
        looked_at = Entry("Subgroups that were looked at", ", ".join(facts.groups) or "none")
        sections.insert(2, Section("Factors", (looked_at,)))
    return sections


def bundle_card(
    run: RunFacts,
    about: Mapping[str, Any],
    task: Task,
    predictions: pd.DataFrame | None,
    locked: Locked | None,
    words: Mapping[str, str],
) -> str:
    """The card of a bundle as Markdown; no path and no patient of the training is in it.

    Args:
        run: the run that trained the model.
        about: ``bundle.json``.
        task: the question.
        predictions: of the run; None without.
        locked: what was chosen on validation data.
        words: of the authors, by the names of ``OPEN``.
    """
    parts = recorded_splits(run)
    predicted = [] if predictions is None else list(dict.fromkeys(predictions["split"]))
    name = str(run.config.get("name") or "model")
    facts = Facts(
        run,
        name,
        ", ".join([task.kind, *task.classes]),
        run.unit,
        parts.get("train"),
        [parts[name] for name in predicted if name in parts],
        locked,
        caveats=(_CAVEATS[1],),  # there are no intervals
        network={"parameters": about["parameters"], **about["model"]},
    )
    found = {section.heading: section for section in model_card(facts, words)}
    model = found["Model"]
    found["Model"] = replace(model, entries=(*model.entries, *_exported(about)))
    found["Metrics"] = replace(found["Metrics"], body=_measured(predictions, task))
    sections = [*found.values(), Section("How to run it", (), _how_to_run(run, about))]
    sections.insert(2, Section("Input", (), _input(about)))
    return "\n\n".join([f"# {name}", f"**{STATUS}**", *map(_markdown, sections)]) + "\n"


def _markdown(section: Section) -> str:
    lines = []
    for entry in section.entries:
        text = f"*{ASKED}*" if entry.text is None else entry.text.replace("\n", "\n  ")
        lines.append(f"- {entry.name}: {text}" if entry.name else f"- {text}")
    return "\n\n".join(text for text in (f"## {section.heading}", "\n".join(lines), section.body) if text)


def _model(facts: Facts) -> list[Entry]:
    run = facts.run
    if run is None:
        unknown = "not known here: the report was made from the predictions alone (--run names a run)"
        return [Entry("Architecture", unknown), Entry("Question", facts.question)]
    model: dict[str, Any] = {**facts.network, **run.facts.get("model", {})}
    training: dict[str, Any] = run.facts.get("training", {})
    entries = [Entry("Name", facts.name)]
    if architecture := _architecture(run, facts.network):
        entries.append(Entry("Architecture", architecture))
    entries.append(Entry("Question", facts.question))
    if "parameters" in model:
        trained = (
            ""
            if model.get("trainable", model["parameters"]) == model["parameters"]
            else (f", {model['trainable']:,} of them trained")
        )
        entries.append(Entry("Parameters", f"{model['parameters']:,}{trained}"))
    if "members" in model:
        entries.append(Entry("Ensemble", f"the mean of {model['members']} models"))
    if encoder := _encoder_of_features(run, model):
        text = f"{encoder}, frozen: the model was trained on features that it had made before"
        entries.append(Entry("Encoder", text))
    else:
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
        commit, packages = run.versions.get("commit"), run.versions.get("packages") or {}
        with_ = [f"medsoft {version}"] + ([f"commit {str(commit)[:12]}"] if commit else [])
        with_ += [f"Python {run.versions['python']}"] if run.versions.get("python") else []
        with_ += [f"torch {packages['torch']}"] if "torch" in packages else []
        entries.append(Entry("Made with", ", ".join(with_)))
    return entries


def _encoder_of_features(run: RunFacts, model: Mapping[str, Any]) -> str:
    """The encoder that made the features which a model on bags reads; "" of a model that reads images."""
    features = model.get("features")
    encoder = features.get("encoder") if isinstance(features, dict) else model.get("encoder_of_features")
    return str(encoder) if encoder else "that of the feature files" if run.option("data", "features") else ""


def _architecture(run: RunFacts, network: Mapping[str, Any]) -> str:
    """Which network it is, with its options; "" where nobody says it."""
    model = {**network, **run.facts.get("model", {})}
    options = run.option("model", "backbone_args")
    if isinstance(aggregator := network.get("aggregator"), dict):
        name, options = f"aggregator {aggregator['name']}", options or aggregator.get("options")
    elif network.get("slice_aggregator"):
        name = f"{network.get('encoder')} over slices, {network['slice_aggregator']}"
    else:
        name = model.get("backbone") or run.option("model", "backbone") or run.option("model", "aggregator") or ""
    inside = ", ".join(f"{option} {value}" for option, value in options.items()) if options else ""
    return f"{name} ({inside})" if name and inside else name


def _locked(locked: Locked | None) -> list[Entry]:
    """Thresholds and recalibration, of one fold where there are several."""
    chosen = _chosen(locked)
    if chosen is None:
        return [Entry("Thresholds", "Nothing is locked")]
    assert locked is not None
    folds = sum(other.level == chosen.level for other in locked.chosen)
    more = f"; and those of {folds - 1} other folds" if folds > 1 else ""
    if locked.task.has_risk_groups:
        cut = "No cut is locked: each part is cut at its own median risk"
        return [Entry("Risk groups", cut if chosen.risk_cut is None else chosen.risk_cut.said + more)]
    points = "; ".join(_point(point, chosen) for point in chosen.points)
    entries = [Entry("Thresholds", points + more if points else "none: the most probable class is predicted")]
    if (found := chosen.recalibration) is not None:
        values = ", ".join(f"{value:.4g}" for value in found.temperatures)
        text = f"{found.method} {values}".rstrip() + f", fitted on {chosen.split!r} ({chosen.n} rows)"
        entries.append(Entry("Recalibration", "; ".join([text, *found.notes])))
    return entries


def _chosen(locked: Locked | None) -> Chosen | None:
    """What is told of several folds and levels: the first by row."""
    if locked is None or not locked.chosen:
        return None
    return next((one for one in locked.chosen if one.level == "row"), locked.chosen[0])


def _point(point: OperatingPoint, chosen: Chosen) -> str:
    by = rule_name(point.rule)
    if point.threshold is None:
        return f"{point.class_name}: none by {by}, chosen on {chosen.split!r} ({chosen.n} rows)"
    if point.sensitivity is None:
        return f"{point.class_name}: {by}, given"
    there = f"sensitivity {point.sensitivity:.3f}"
    there += "" if point.specificity is None else f", specificity {point.specificity:.3f}"
    where = f"chosen on {chosen.split!r} ({chosen.n} rows), where it has {there}"
    note = f"; {point.note}" if point.note else ""
    return f"{point.class_name}: p ≥ {point.threshold:.4g} by {by}, {where}{note}"


def _few(locked: Locked | None) -> list[str]:
    chosen = _chosen(locked)
    if locked is None or chosen is None or chosen.n >= FEW or not chosen.n or locked.task.has_risk_groups:
        return []
    return [f"{chosen.n} rows are few to choose thresholds on: on other data, expect other sensitivities than these."]


def _mix(split: SplitFlow | None, unit: str) -> str:
    if split is None:
        return "not known here"
    people = "" if split.patients is None else f" of {counted(split.patients, 'patient')}"
    mix = ", ".join(mix_of(split.classes))
    return counted(split.rows, unit) + people + (f": {mix}" if mix else "")


# What a bundle's card has besides


def _exported(about: Mapping[str, Any]) -> list[Entry]:
    entries = [Entry("Exported with", f"medsoft {__version__}")]
    for one in about["networks"]:
        inputs = f"inputs {json.dumps(one['inputs'])} (words are sizes that may change)"
        difference = f"largest difference from the model {max(one['largest_difference'].values()):.1e}"
        entries.append(Entry(one["file"], f"{one['format']}, {inputs}, {difference}"))
    return entries


def _input(about: Mapping[str, Any]) -> str:
    slides = about["model"].get("slides")
    if slides:
        settings, weights = slides["tile_settings"], slides["encoder_sha256"]
        where = "in encoder/" if about["encoder"] else "not in this bundle" if weights else "none are needed"
        return (
            f"- slides, as tiles of {settings['tile_px']} px at {settings['mpp']:g} µm/px\n"
            f"- encoder {slides['encoder']}, weights {weights or 'random'} ({where})"
        )
    if images := about["model"].get("images"):
        weights = images["encoder_sha256"]
        where = "in encoder/" if about["encoder"] else "not in this bundle" if weights else "none are needed"
        return (
            f"- images or volumes, prepared as `{json.dumps(images['preparation'])}`\n"
            f"- encoder {images['encoder']}, weights {weights or 'random'} ({where})"
        )
    if "features" in about["model"]:
        return f"- features of another tool, {about['model']['features']}"
    prepared = about["preprocessing"]
    lines = [f"Images, prepared by the recipe `{prepared['recipe']}`; the values are in `bundle.json`:", ""]
    lines += [f"{index}. {step['what']}" for index, step in enumerate(prepared["steps"], start=1)]
    if "options" in prepared:
        lines.append(f"\nOptions: `{json.dumps(prepared['options'])}`")
    return "\n".join(lines)


def _measured(predictions: pd.DataFrame | None, task: Task) -> str:
    if predictions is None:
        return "The run has no predictions."
    scores = score_splits(predictions, task)
    names = dict.fromkeys(name for found in scores.values() for name in headline(found))
    lines = ["| | " + " | ".join(f"{split} (n={found['n']})" for split, found in scores.items()) + " |"]
    lines.append("|---" * (len(scores) + 1) + "|")
    for name in names:
        values = [headline(found).get(name) for found in scores.values()]
        cells = ["–" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {metric_name(name)} | {' | '.join(cells)} |")
    lines += ["", "The validation part chose the checkpoint: its values are somewhat too good."]
    return "\n".join(lines)


def _how_to_run(run: RunFacts, about: Mapping[str, Any]) -> str:
    slides, images = about["model"].get("slides"), about["model"].get("images")
    if "aggregator" not in about["model"] or (images and images.get("encode")):
        line = "medsoft predict --bundle BUNDLE --data.table images.csv --out predicted"
    elif slides:
        line = "medsoft slides predict SLIDES --bundle BUNDLE --out predicted"
    else:
        line = "medsoft predict --bundle BUNDLE --data.table slides.csv --data.features FOLDER --out predicted"
    paragraphs = [f"    {line}"]
    if not slides:
        data = run.config.get("data") or {}
        asked = (data.get("path") or "path", data.get("patient"), data.get("exam"), data.get("covariates"))
        columns = [name for given in asked if given for name in ([given] if isinstance(given, str) else given)]
        named = ", ".join(f"`{name}`" for name in columns)
        paragraphs.append(f"The table has the columns {named}, as that of the training.")
    if any(one.get("script") for one in about["networks"]):
        paragraphs.append("Without medsoft: `python run_onnx.py PICTURE …` (numpy, Pillow, onnxruntime).")
    paragraphs.append("`sha256sum --check SHA256SUMS` compares the files; medsoft does so at every load.")
    return "\n\n".join(paragraphs)
