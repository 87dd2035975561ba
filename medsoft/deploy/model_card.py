"""The model card of a bundle: what the model is, what it was measured to do, and how to run it.

Its headings follow Mitchell et al., *Model Cards for Model Reporting*, FAT* 2019 (arXiv 1810.03993).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medsoft import __version__
from medsoft.evaluation.metrics import headline, score_splits
from medsoft.evaluation.thresholds import describe

if TYPE_CHECKING:
    from medsoft.deploy.export import Source
    from medsoft.evaluation.locked import Chosen, Locked

WARNING = (
    "Research software. This is **not a medical device**, and nothing that it says about an image may guide the "
    "care of a patient."
)

FEW = 100
"""Rows that leave a share of 0.9 an interval of 0.12."""


def model_card(
    source: Source, about: dict[str, Any], locked: Locked | None, licence: str, description: str | None
) -> str:
    """The card as Markdown; no path and no patient of the training is in it.

    Args:
        source: the run.
        about: ``bundle.json``.
        locked: what was chosen on validation data.
        licence: its text.
        description: the user's sentence on what the model is for.
    """
    sections = {
        "Model": _model(source, about),
        "Intended use": _use(source, description),
        "Input": _input(source, about),
        "Measured": _measured(source),
        "Thresholds and calibration": _locked(locked),
        "How to run it": _run(source, about),
        "Licence": [licence.splitlines()[0] if len(licence) > 500 else licence.strip(), "See LICENCE.txt."],
    }
    name = source.config.get("name") or "model"
    blocks = [f"# {name}", WARNING]
    for heading, lines in sections.items():
        blocks.append("\n".join([f"## {heading}", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _model(source: Source, about: dict[str, Any]) -> list[str]:
    network = about["model"]
    if "aggregator" in network:
        what = f"aggregator {network['aggregator']['name']}"
    else:
        what = network.get("backbone") or f"{network.get('encoder')} over slices, {network.get('slice_aggregator')}"
    options = source.config.get("model", {}).get("backbone_args") or network.get("aggregator", {}).get("options") or {}
    trained = about["trained"]
    packages = trained.get("packages") or {}
    return [
        f"- network: {what}, {json.dumps(options)}; {about['parameters']:,} numbers",
        f"- question: {', '.join([source.task.kind, *source.task.classes])}",
        f"- trained with medsoft {trained.get('medsoft')} (commit {trained.get('commit')}), Python "
        f"{trained.get('python')}, torch {packages.get('torch')}; exported with medsoft {__version__}",
        *(
            f"- {one['file']}: {one['format']}, inputs {json.dumps(one['inputs'])} (words are sizes that may change), "
            f"largest difference from the model {max(one['largest_difference'].values()):.1e}"
            for one in about["networks"]
        ),
    ]


def _use(source: Source, description: str | None) -> list[str]:
    return [
        description or "Nobody has said what this model is for.",
        "",
        "It answers for images like those that it was trained on: other scanners, stains, populations and indications "
        "are other questions, which need an evaluation of their own (`medsoft evaluate --locked`).",
    ]


def _input(source: Source, about: dict[str, Any]) -> list[str]:
    slides = about["model"].get("slides")
    if slides:
        settings, weights = slides["tile_settings"], slides["encoder_sha256"]
        where = "in encoder/" if about["encoder"] else "not in this bundle" if weights else "none are needed"
        return [
            f"- slides, as tiles of {settings['tile_px']} px at {settings['mpp']:g} µm/px",
            f"- encoder {slides['encoder']}, weights {weights or 'random'} ({where})",
        ]
    if "features" in about["model"]:
        return [f"- features of another tool, {about['model']['features']}"]
    use = (source.config.get("use") or {}).get("transforms", "plain")
    return [f"- images, prepared by `{use}` with `{json.dumps(source.config.get('transforms', {}))}`"]


def _measured(source: Source) -> list[str]:
    if source.predictions is None:
        return ["The run has no predictions."]
    scores = score_splits(source.predictions, source.task)
    names = dict.fromkeys(name for found in scores.values() for name in headline(found))
    lines = ["| | " + " | ".join(f"{split} (n={found['n']})" for split, found in scores.items()) + " |"]
    lines.append("|---" * (len(scores) + 1) + "|")
    for name in names:
        values = [headline(found).get(name) for found in scores.values()]
        cells = ["–" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return [*lines, "", "The validation part chose the checkpoint: its values are somewhat too good."]


def _locked(locked: Locked | None) -> list[str]:
    chosen: Chosen | None = None if locked is None else next((c for c in locked.chosen if c.level == "row"), None)
    if chosen is None:
        return ["Nothing is locked."]
    lines = [f"Chosen on {chosen.n} rows of the split {chosen.split!r}, in `locked.json`:", ""]
    if chosen.n < FEW:
        lines.insert(1, f"**{chosen.n} rows are few**: on other data, expect other shares than these.")
        lines.insert(2, "")
    lines += [f"- {describe(point)}" for point in chosen.points]
    if chosen.recalibration is None:
        return [*lines, "- not recalibrated"]
    found = chosen.recalibration
    values = ", ".join(f"{value:.4g}" for value in found.temperatures)
    lines.append(f"- recalibration: {found.method} {values}".rstrip())
    return lines + [f"- {note}" for note in found.notes]


def _run(source: Source, about: dict[str, Any]) -> list[str]:
    if "aggregator" not in about["model"]:
        line = "medsoft predict --bundle BUNDLE --data.table images.csv --out predicted"
    elif about["model"]["slides"]:
        line = "medsoft slides predict SLIDES --bundle BUNDLE --out predicted"
    else:
        line = "medsoft predict --bundle BUNDLE --data.table slides.csv --data.features FOLDER --out predicted"
    data = source.config.get("data") or {}
    asked = (data.get("path") or "path", data.get("patient"), data.get("exam"), data.get("covariates"))
    columns = [name for given in asked if given for name in ([given] if isinstance(given, str) else given)]
    if "slides" not in about["model"] or not about["model"]["slides"]:
        line += f"\n\nThe table has the columns {', '.join(f'`{name}`' for name in columns)}, as that of the training."
    return [f"    {line}", "", "`sha256sum --check SHA256SUMS` compares the files; medsoft does so at every load."]
