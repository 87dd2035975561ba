"""The verb ``export``: a trained run becomes a bundle, one folder that predicts by itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medsoft import __version__
from medsoft.errors import InputError
from medsoft.learn.checkpoint_file import ABOUT, SUMS
from medsoft.parsing import call
from medsoft.slides.recipes import find_recipe
from medsoft.weights_folder import find_weights

if TYPE_CHECKING:
    import pandas as pd

    from medsoft.evaluation.locked import Locked
    from medsoft.learn.bundle import Bundle
    from medsoft.task import Task

FORMATS = ("weights", "onnx", "torch-export")
PATHS_OF_DATA = ("table", "root", "splits_from", "features", "clinical")
OF_THE_MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "callbacks", "plugins", "profiler")


def export(argv: Sequence[str]) -> None:
    """Make a bundle of a run."""
    call(export_run, argv, "export", positional="run")


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
    format: str = "weights",
) -> None:
    """Make a bundle of a run of medsoft fit: weights, configuration, locked thresholds, model card, hashes.

    medsoft predict and medsoft slides predict run from it alone, with --bundle.

    Args:
        run: Folder of the run; its best checkpoint is taken.
        out: Folder to make.
        licence: Licence of the weights, in words, or a file with its text; the bundle says so if there is none.
        locked: locked.json of medsoft evaluate; if not given, thresholds and temperature are chosen now on the run's
            validation predictions.
        encoder: Of a model on slides, the file of its encoder's weights (a path, or a name in MEDSOFT_WEIGHTS), or the
            folder of the run that trained it, to put it into the bundle.
        description: A sentence for the model card on what the model is for.
        format: weights; onnx or torch-export besides, or both with a comma between.

    Raises:
        InputError: no trained run, a folder that is there already, or options that do not fit it.
        RunError: an exported network that does not answer as the model does.
    """
    from medsoft.deploy.model_card import model_card
    from medsoft.learn import bundle as layout
    from medsoft.learn.familiar import FILE_NAME as FAMILIAR

    formats = _formats(format)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{out}: is there already; name a new folder")
    source = read_run(Path(run))
    chosen = _locked(source, locked)
    terms = _licence(licence)
    given = _encoder(source, encoder)
    with _whole(target) as folder:
        _write_weights(source, folder / layout.WEIGHTS)
        _write_text(folder / layout.CONFIG, yaml.safe_dump(clean_config(source.config), sort_keys=False))
        _write_text(folder / layout.LICENCE, terms)
        if (familiar := Path(run) / FAMILIAR).is_file():
            shutil.copyfile(familiar, folder / FAMILIAR)
        if chosen is not None:
            _write_text(folder / layout.LOCKED, json.dumps(chosen.to_json(), indent=2, ensure_ascii=False) + "\n")
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
        }
        _write_text(folder / ABOUT, _json(about))
        if formats:
            about["networks"] = _networks(folder, formats)
            _write_text(folder / ABOUT, _json(about))
        _write_text(folder / layout.CARD, model_card(source, about, chosen, terms, description))
        _write_text(folder / SUMS, layout.sums_of(folder))
    _report(layout.Bundle(target), source, chosen, licence)


def read_run(path: Path) -> Source:
    """A trained run.

    Raises:
        InputError: no folder of one, or without a checkpoint that says what it answers.
    """
    from medsoft.evaluation.tables import read_either
    from medsoft.learn.checkpoint_io import AtomicCheckpointIO
    from medsoft.learn.run_folder import RunFolder
    from medsoft.task import Task

    run = RunFolder.existing(str(path))
    if not run.best.is_file():
        raise InputError(f"{path}: this run has no checkpoint yet")
    checkpoint = AtomicCheckpointIO().load_checkpoint(run.best)
    known = checkpoint.get("medsoft")
    if not known:
        raise InputError(f"{run.best}: does not say what the model answers; train it with this medsoft")
    task = Task(known["task"]["kind"], tuple(known["task"]["classes"]))
    frame = read_either(run.predictions)[0] if run.predictions.is_file() else None
    versions = json.loads(run.versions.read_text(encoding="utf-8")) if run.versions.is_file() else {}
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return Source(path, config, checkpoint["state_dict"], known, versions, frame, task)


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without the paths of its data, and without what was of its machine.

    File names can bear names of patients, and mean nothing elsewhere.
    """
    groups: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items()}
    for name in PATHS_OF_DATA:
        groups.get("data", {}).pop(name, None)
    groups.get("model", {}).pop("pretrained", None)
    for name in OF_THE_MACHINE:
        groups.get("trainer", {}).pop(name, None)
    for name in ("out", "ckpt_path", "bundle", "resume"):
        groups.pop(name, None)
    return groups


def _formats(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in FORMATS]:
        raise InputError(f"--format {unknown[0]}: one of {', '.join(FORMATS)}, or several with commas between")
    return [word for word in dict.fromkeys(words) if word != "weights"]


def _locked(source: Source, given: str | None) -> Locked | None:
    """What the user names, else what the run's evaluation left, else what the validation predictions say now."""
    from medsoft.evaluation.evaluate import evaluate_table
    from medsoft.evaluation.locked import read_locked
    from medsoft.evaluation.settings import Settings

    if source.task.kind == "regression":
        if given is not None:
            raise InputError("--locked is for classes: a regression has no thresholds")
        return None
    if given is not None:
        return read_locked(given, source.task)
    left = source.path / "evaluation" / "locked.json"
    if left.is_file():
        return read_locked(left, source.task)
    frame = source.predictions
    if frame is None or "val" not in set(frame["split"]):
        return None
    # What is locked does not depend on the draws, which are for the intervals of what is reported.
    rows = frame[frame["split"] == "val"]
    return evaluate_table(rows, source.task, Settings(draws=1, optimistic=True)).locked


def _licence(given: str | None) -> str:
    if given is None:
        return "No licence was stated for these weights when they were exported.\n"
    file = Path(given)
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if not given.strip() or os.sep in given:
        raise InputError(f"--licence {given}: no such file, and no name of a licence")
    return f"Licence of these weights: {given.strip()}\n"


def _encoder(source: Source, given: str | None) -> Path | None:
    """The encoder to put into the bundle, which must be the one that made the features of the training."""
    from medsoft.deploy.encoder_weights import checked_sha256
    from medsoft.deploy.run_encoder import find_run

    if given is None:
        return None
    slides = source.model.get("slides")
    if slides is None or not needs_encoder(slides):
        raise InputError("--encoder: this model needs no encoder with weights of its own; leave it out")
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


def _put_encoder(file: Path, folder: Path) -> str:
    """Copy an encoder; gives its name within the folder, "" for that of a run."""
    from medsoft.deploy.run_encoder import find_run

    run = find_run(str(file)) if file.suffix == ".ckpt" else None
    if run is None:
        folder.mkdir()
        shutil.copyfile(file, folder / file.name)
        return file.name
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copyfile(file, folder / "checkpoints" / "best.ckpt")
    _write_text(folder / "config.yaml", yaml.safe_dump(clean_config(run.config), sort_keys=False))
    return ""


def _networks(folder: Path, formats: Sequence[str]) -> list[dict[str, Any]]:
    from medsoft.deploy.network import export_networks
    from medsoft.learn import bundle as layout

    _write_text(folder / SUMS, layout.sums_of(folder))
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


def _report(bundle: Bundle, source: Source, chosen: Locked | None, licence: str | None) -> None:
    from medsoft.data.hashing import sha256

    slides = source.model.get("slides")
    notes = []
    if licence is None:
        notes.append("No licence is stated: say under which the weights may be used with --licence")
    if chosen is None and source.task.kind != "regression":
        notes.append("Nothing is locked: the run has no validation predictions")
    if slides is not None and needs_encoder(slides) and bundle.encoder is None:
        notes.append(
            f"The encoder {slides['encoder']} is not in it (--encoder): slides predict will ask for its weights, whose "
            f"SHA-256 is {slides['encoder_sha256'][:12]}…"
        )
    if source.model.get("features") is not None and slides is None:
        notes.append("The features came from another tool: it predicts from feature files, not from slides")
    print("\n".join([*notes, f"Bundle: {bundle.path} (SHA-256 of its {SUMS}: {sha256(bundle.path / SUMS)})"]))
