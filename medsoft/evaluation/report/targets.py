"""The page of a run with several targets: what each came to, and where its own report is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medsoft import __version__
from medsoft.evaluation.locked import TARGETS
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.report.page import HERE, page_environment
from medsoft.evaluation.report.run import RunFacts
from medsoft.storage.files import replacing
from medsoft.task_types import NamedTask

FORMAT = 1
TAKEN = ("question", "nothing_learnt", "key_figures", "notes", "notes_of_parts", "settings")
"""What the page takes of a target's own ``report.json``."""


def write_targets_report(out: Path | str, targets: Sequence[NamedTask], run: RunFacts | None = None) -> list[Path]:
    """Write ``report.html`` and ``report.json`` of several targets, from the reports of each in ``targets/<name>``.

    Args:
        out: folder.
        targets: that have a report.
        run: what the run's folder knows, or None.

    Returns:
        The files written.

    Raises:
        OSError: a file cannot be read or written.
    """
    out = Path(out)
    each = [_of_target(out, target) for target in targets]
    name = run.name if run else ""
    values = {
        "format": FORMAT,
        "medsoft": __version__,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "title": f"Evaluation of {name}" if name else "Evaluation of predictions",
        "targets": each,
        "notes": _common(each),
    }
    with replacing(out / "report.html") as temporary:
        temporary.write_text(_page(values, run), encoding="utf-8")
    write_metrics(values, out / "report.json")
    return [out / "report.html", out / "report.json"]


def _of_target(out: Path, target: NamedTask) -> dict[str, Any]:
    values = json.loads((out / TARGETS / target.name / "report.json").read_text(encoding="utf-8"))
    return {"name": target.name, "kind": target.task.kind, "weight": target.weight} | {
        name: values[name] for name in TAKEN
    }


def _common(each: Sequence[dict[str, Any]]) -> list[str]:
    """Notes that all targets have; they leave those of the targets."""
    common = [note for note in each[0]["notes"] if all(note in one["notes"] for one in each)] if each else []
    for one in each:
        one["notes"] = [note for note in one["notes"] + one.pop("notes_of_parts") if note not in common]
    return common


def _page(values: dict[str, Any], run: RunFacts | None) -> str:
    from medsoft.evaluation.report.figures import Figures  # imports Matplotlib

    best = run.facts.get("training", {}).get("best_epoch") if run else None
    learning = Figures().of_training(run.log, best) if run and run.log else []
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    page = page_environment().get_template("targets.html.jinja")
    return page.render(values=values, learning=learning, style=style, folder=TARGETS)
