"""LightningCLI for the classes that a configuration names.

A configuration says under ``use`` which data module, model and transforms it is for. The parser is built for exactly
these, so that ``medsoft fit --config fundus --help`` lists every option there is, and a misspelt one is found.
"""

from __future__ import annotations

import importlib
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from medsoft.errors import InputError
from medsoft.parsing import OneLineErrors, find_configuration, with_configurations_found

DEFAULT_CLASSES = {
    "data": "medsoft.data.images.ImageDataModule",
    "model": "medsoft.learn.classifier.Classifier",
    "transforms": "medsoft.data.transforms.plain.Plain",
}
# Set by medsoft itself: the run's folder, its logs and its checkpoints.
SET_BY_MEDSOFT = {"logger", "default_root_dir", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"}


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with one-line errors."""


class CommandLine(LightningCLI):
    """Parses a verb's command line; the verb then makes data, model and trainer from it.

    Args:
        verb: fit, validate, test, predict, or show, which makes no model.
        argv: the command line after the verb.

    Raises:
        InputError: an option, a value or the configuration is wrong.
    """

    def __init__(self, verb: str, argv: Sequence[str]) -> None:
        self.verb = verb
        words = with_configurations_found(argv)
        self.classes = {role: _import(role, path) for role, path in named_classes(words).items()}
        super().__init__(
            self.classes["model"],
            self.classes["data"],
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "usage": f"medsoft {verb} --config NAME|PATH [options]",
                "description": None,
                "dump_header": [],
            },
            args=words,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the verb's own command line; ``sys.argv`` has no part in it."""
        self.config = parser.parse_args(args)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of transforms, data and model, then of Lightning's Trainer."""
        parser.add_class_arguments(self.classes["transforms"], "transforms")
        parser.add_class_arguments(self.classes["data"], "data")
        parser.add_class_arguments(self.classes["model"], "model")
        parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip=SET_BY_MEDSOFT)
        stage = "predict" if self.verb == "show" else self.verb
        parser.set_defaults({"data.stage": stage, "trainer.log_every_n_steps": 10})
        parser.link_arguments("transforms", "data.transforms", apply_on="instantiate")
        parser.link_arguments("data.spec", "model.spec", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run itself."""

        def add(name: str, kind: Any, default: Any, text: str) -> None:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)

        add("use", dict[str, str], DEFAULT_CLASSES, "Classes of data, model and transforms, by dotted path.")
        add("name", str, "run", "Name of the experiment: runs go to runs/NAME/TIME.")
        add("out", str | None, None, "Folder of this run, instead of runs/NAME/TIME.")
        add("pictures", bool, True, "Draw curves, confusion matrix and mistakes.")
        if self.verb == "show":
            add("n", int, 4, "Number of samples to draw.")
        elif self.verb == "fit":
            add("resume", str | None, None, "Folder of a stopped run to go on with.")
        else:
            add("ckpt_path", str | None, None, "Folder of a run, for its best checkpoint, or a checkpoint file.")

        def add_for_fit(name: str, kind: Any, default: Any, text: str) -> None:
            # The other verbs take these as well, unseen: they are given the configuration of a fit.
            add(name, kind, default, text if self.verb == "fit" else SUPPRESS)

        add_for_fit(
            "monitor", str, "auto", "Validation metric that chooses the checkpoint; auto: auroc, ordinal: kappa."
        )
        add_for_fit("patience", int | None, None, "Stop after so many epochs without a better metric; else not at all.")
        add_for_fit("ema_decay", float | None, None, "Average the weights with this decay a step, such as 0.999.")
        add_for_fit("save_every_n_steps", int | None, None, "Save the state every so many steps too, not only epochs.")

    def instantiate_classes(self) -> None:
        """Make transforms, data (which reads the table) and model; the trainer waits for the run's folder."""
        if self.verb == "show":
            self.datamodule = self.classes["data"](
                self.classes["transforms"](**self.config.transforms), **self.config.data
            )
            return
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule, self.model = self.config_init.data, self.config_init.model

    def resolved(self) -> dict[str, Any]:
        """The whole configuration, as plain values."""
        text = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False, format="yaml")
        resolved: dict[str, Any] = yaml.safe_load(text)
        resolved["data"].pop("stage")  # the verb's, not the configuration's
        return resolved

    def reproducible(self, split: Path) -> dict[str, Any]:
        """The resolved configuration of a run that can be repeated from it alone: absolute paths, and its own split.

        Args:
            split: the run's ``split.csv``.
        """
        config = self.resolved()
        data = config["data"]
        for name in ("table", "root"):
            data[name] = str(Path(data[name]).resolve()) if data[name] else None
        data["splits_from"] = str(split.resolve())
        if data["positive"] is None:
            data["task"], data["classes"] = self.datamodule.task.kind, list(self.datamodule.task.classes)
        config["out"] = None
        del config["resume"]
        return config


def option(argv: Sequence[str], name: str) -> str | None:
    """Value of ``--name VALUE`` or ``--name=VALUE`` on a command line, the last one winning."""
    value = None
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.removeprefix(f"{name}=")
    return value


def split_of_this_table(argv: Sequence[str]) -> list[str]:
    """The command line, without the configuration's ``splits_from`` where another table than its own is given.

    A run's configuration names the run's split. It says nothing of a table that comes from elsewhere.
    """
    config, table = option(argv, "--config"), option(argv, "--data.table")
    if config is None or table is None or option(argv, "--data.splits_from") is not None:
        return list(argv)
    own = (_read(find_configuration(config)).get("data") or {}).get("table")
    if own is None or Path(own).resolve() == Path(table).resolve():
        return list(argv)
    return [*argv, "--data.splits_from=null"]


def named_classes(words: Sequence[str]) -> dict[str, str]:
    """Classes named by the configurations and ``--use.<role>`` options of a command line, the last one winning."""
    named = dict(DEFAULT_CLASSES)
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == "--config":
            named |= _read(Path(value)).get("use") or {}
        elif word.startswith("--use."):
            role, _, given = word.removeprefix("--use.").partition("=")
            named[role] = given or value
    unknown = set(named) - set(DEFAULT_CLASSES)
    if unknown:
        raise InputError(f"use: {', '.join(sorted(unknown))} is none of {', '.join(DEFAULT_CLASSES)}")
    return named


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a configuration (a mapping of options)")
    return content


def _import(role: str, path: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(
            f"use.{role}: {path} cannot be imported; give a dotted path such as {DEFAULT_CLASSES[role]}"
        ) from None
    assert isinstance(found, type)
    return found
