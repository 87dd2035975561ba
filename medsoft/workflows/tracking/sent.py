"""What MLflow or Weights & Biases are given of a run: nothing that names a patient or a file.

Parameters are the configuration as a bundle keeps it, without the paths of its data: names of files and folders, that
of the table too, can bear names of patients. The SHA-256 of the table says whether two runs had the same one. Files are
those that hold numbers over many samples. Tables of rows, pictures of samples and messages about single files stay in
the run's folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from medsoft.errors import InputError, RunError
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.figures import TABLE_FIGURES
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.privacy import without_folders
from medsoft.inference.export.export import clean_config, export_run
from medsoft.storage.hashing import sha256
from medsoft.storage.own_files import read_json_object
from medsoft.workflows.tracking.loggers import SUCCESS, TRACKERS, Log, going_on, open_log, parent_of

STAGED = "tracking"
"""Folder of a run in which its files wait to be sent; it goes when they are."""
TABLES = ("metrics.csv", "lr_find.csv", "folds.csv", "learning_curve.csv")
"""Tables whose rows are epochs, rates or folds, and never samples."""
OF_SAMPLES = {"confident_mistakes"}
"""Figures that show samples; of the others, ``metrics.csv`` and the tables above are drawn."""
FIGURES = ("learning_curves", *sorted(TABLE_FIGURES.keys() - OF_SAMPLES))


def parameters_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run as flat parameters.

    Args:
        config: as the run's ``config.yaml``.
    """
    table = (config.get("data") or {}).get("table")
    flat = dict(_flat(_plain(config), ""))
    if isinstance(table, str) and Path(table).is_file():
        flat["table_sha256"] = sha256(Path(table))
    return flat


def stage_report(result: Evaluation, folder: Path, given: Given) -> None:
    """Write the report of a tracked run once more, as it is sent: without pictures, and without the table's name.

    Args:
        result: what ``evaluate_table`` gave.
        folder: of the run.
        given: as for the run's own report.
    """
    about = given.run
    if about is None or about.config.get("logger") not in TRACKERS:
        return
    data = {name: value for name, value in about.facts.get("data", {}).items() if name != "table"}
    versions = {name: value for name, value in about.versions.items() if name not in ("command", "resumed")}
    candidates = tuple({**one, "reason": ""} for one in about.candidates)  # which may name a file
    facts = {**about.facts, "data": data}
    about = replace(about, config=_plain(about.config), facts=facts, versions=versions, candidates=candidates)
    write_report(result, folder / STAGED, replace(given, run=about))


def send(log: Log, folder: Path) -> None:
    """Give a tracker what a run has come to: its metrics and its files.

    Args:
        log: of the run.
        folder: of the run, with everything written.
    """
    staged = folder / STAGED
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    with going_on(log):
        staged.mkdir(exist_ok=True)
        (staged / "config.yaml").write_text(yaml.safe_dump(_plain(config), sort_keys=False), encoding="utf-8")
        _stage_versions(folder, staged)
        for file in _files(folder):
            target = staged / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if parent_of(folder, config["logger"]) is None:
            _stage_bundle(folder, staged / "bundle")
        metrics = folder / "metrics.json"
        log.put(dict(_numbers(read_json_object(metrics), "") if metrics.is_file() else ()), staged)
    shutil.rmtree(staged, ignore_errors=True)


def end_parent(logger: str, experiment: str, folder: Path) -> None:
    """Give a tracker what a cross-validation or a call of auto has come to; its parts were sent as they ended.

    Args:
        logger: the word of ``--logger``.
        experiment: under which it stands.
        folder: with everything written.
    """
    log = open_log(logger, experiment, folder)
    if log is None:
        return
    log.log_hyperparams(parameters_of(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))))
    send(log, folder)
    log.close(SUCCESS)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without paths; what may be left of one, as of an encoder's weights, is the name of its file."""
    plain: dict[str, Any] = without_folders(clean_config(dict(config)))
    return plain


def _stage_versions(folder: Path, staged: Path) -> None:
    """Versions and machine; not the command, which names files."""
    file = folder / "versions.json"
    if file.is_file():
        kept = {name: value for name, value in read_json_object(file).items() if name not in ("command", "resumed")}
        (staged / file.name).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    """What is sent of a run's folder as it is."""
    drawn = [f"figures/{name}*.png" for name in FIGURES] + [str(Path(name).with_suffix(".png")) for name in TABLES]
    found = (file for name in (*TABLES, "metrics*.json", *drawn) for file in sorted(folder.glob(name)))
    return [file for file in dict.fromkeys(found) if file.is_file()]


def _stage_bundle(folder: Path, target: Path) -> None:
    """The trained model as a bundle, which names no patient; nothing of a folder of several models."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(InputError, RunError):
        export_run(str(folder), str(target))


def _flat(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _numbers(values: Any, above: str) -> Iterator[tuple[str, float]]:
    """Numbers by dotted names: ``test.overall.auroc``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{name}", float(value)
