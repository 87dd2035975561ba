"""A model bundle: one folder with everything that a trained model needs, each file with its hash.

    bundle.json         what the model is: task, network, preprocessing, outputs, versions
    model.safetensors   weights
    config.yaml         the run's configuration, without the paths of its data
    out_of_distribution.safetensors  what the training data are like, where the run has kept it
    locked.json         thresholds and recalibration that were chosen on validation data, where there are some
    README.md           model card
    LICENCE.txt         licence of the weights
    encoder/            the tile encoder, where it was put in
    model.onnx, model.pt2   the network for other runtimes, where asked for
    run_onnx.py         runs model.onnx on pictures without medsoft, where a script can
    SHA256SUMS          SHA-256 of every other file (``sha256sum --check`` reads it)

A bundle is read only where it holds exactly the files that ``SHA256SUMS`` lists, with these hashes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from medsoft.errors import InputError
from medsoft.evaluation.locked import Locked, read_locks
from medsoft.runs.checkpoint_io import check_model
from medsoft.runs.checkpoint_paths import ABOUT, SUMS, check_bundle
from medsoft.storage.hashing import sha256
from medsoft.storage.own_files import read_json_object, value_of
from medsoft.task import Task

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
CARD, LICENCE, ENCODER = "README.md", "LICENCE.txt", "encoder"
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class Bundle:
    """A bundle that was found to be whole.

    Attributes:
        path: the folder.
        about: what ``bundle.json`` says.
        config: the configuration's file.
        task: the question.

    Args:
        path: the folder.

    Raises:
        InputError: no bundle; a file was changed, is missing, or is there in addition; or it is of a later format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_bundle(self.path)
        check_files(self.path)
        about = self.path / ABOUT
        self.about: dict[str, Any] = read_json_object(about)
        if (format := value_of(self.about, "format", int, about)) != FORMAT:
            raise InputError(f"{path}: a bundle of format {format}; this medsoft reads {FORMAT}")
        self.config = self.path / CONFIG
        encoder = value_of({"encoder": None, **self.about}, "encoder", (str, type(None)), about)
        if encoder is not None and not (self.path / encoder).resolve().is_relative_to(self.path.resolve()):
            raise InputError(f"{about}: is damaged: its encoder lies outside of the bundle")
        known = check_model(self.about.get("model"), about)["task"]
        self.task = Task.from_json(known)

    @property
    def weights(self) -> Path:
        """The file with the weights."""
        return self.path / WEIGHTS

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the model: ``state_dict``, and under ``medsoft`` what the weights answer.

        Raises:
            InputError: the weights cannot be read.
        """
        try:
            return {"state_dict": load_file(self.weights), "medsoft": self.about["model"]}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.weights}: is damaged, or not there: {error}") from None

    def locked(self) -> dict[str, Locked]:
        """Thresholds and recalibration, by target ("" of a single question); empty where the bundle has none."""
        return read_locks(self.path, self.task)

    @property
    def encoder(self) -> Path | None:
        """The tile encoder in it: its file of weights, or the folder of the run that trained it; None without one."""
        name = self.about.get("encoder")
        return self.path / name if name else None


def sums_of(folder: Path) -> str:
    """What ``SHA256SUMS`` must hold: a line per file, by name."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return "".join(f"{sha256(folder / name)}  {name}\n" for name in files if name != SUMS)


def check_files(folder: Path) -> None:
    """Check that a folder holds exactly the files that its ``SHA256SUMS`` lists, with their hashes.

    Raises:
        InputError: it does not; the first file that differs is named.
    """
    try:
        listed = (folder / SUMS).read_text(encoding="utf-8")
        found = sums_of(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: the bundle cannot be read: {error}") from None
    if listed == found:
        return
    wanted, there = (_by_name(text) for text in (listed, found))
    reasons = [
        *(f"{name} is missing" for name in wanted if name not in there),
        *(f"{name} does not belong to it" for name in there if name not in wanted),
        *(f"{name} was changed" for name in wanted if name in there and wanted[name] != there[name]),
        f"{SUMS} was changed",
    ]
    raise InputError(
        f"{folder}: this bundle is not as it was exported: {reasons[0]}. Take a fresh copy, or export it again"
    )


def _by_name(sums: str) -> dict[str, str]:
    return {match[2]: match[1] for match in map(LINE.fullmatch, sums.splitlines()) if match}
