"""LightningCLI for the classes that a configuration names.

A configuration says under ``use`` which data module, model and transforms it is for. The parser is built for exactly
these, so that ``medsoft fit --config fundus --help`` lists every option there is, and a misspelt one is found.
"""

from __future__ import annotations

import importlib
import inspect
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from medsoft.errors import InputError, check_range
from medsoft.parsing import OneLineErrors, find_configuration, with_configurations_found

DEFAULT_CLASSES = {
    "data": "medsoft.data.images.ImageDataModule",
    "model": "medsoft.learn.classifier.Classifier",
    "transforms": "medsoft.data.transforms.plain.Plain",
}
BASES: dict[str, type] = {"data": LightningDataModule, "model": LightningModule}
# The run's folder, its logs and its checkpoints are medsoft's own affair.
SET_BY_MEDSOFT = {"logger", "default_root_dir", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"}
# Trainer options that would do nothing here, or keep an epoch from ending in a validation and a checkpoint, or cut
# predictions short.
WITHOUT_USE = {
    "barebones",
    "check_val_every_n_epoch",
    "enable_autolog_hparams",
    "fast_dev_run",
    "limit_predict_batches",
    "limit_test_batches",
    "model_registry",
    "overfit_batches",
    "reload_dataloaders_every_n_epochs",
    "use_distributed_sampler",
}
# Options of crossval itself, which a fold's run knows nothing of.
OF_CROSSVAL = ("folds", "fold_column", "leave_one_site_out", "repeats", "jobs", "fold", "collect")
# Options that name files and folders.
PATHS = (
    *(("data", name) for name in ("table", "root", "splits_from", "features", "clinical", "cache_dir")),
    ("model", "pretrained"),
)


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with one-line errors."""


class CommandLine(LightningCLI):
    """Parses a verb's command line; the verb then makes data, model and trainer from it.

    Args:
        verb: fit, crossval, validate, test, predict, or show, which makes no model.
        argv: the command line after the verb.

    Raises:
        InputError: an option, a value or the configuration is wrong.
    """

    def __init__(self, verb: str, argv: Sequence[str]) -> None:
        self.verb = verb
        words = with_configurations_found(argv)
        self.classes = classes_of(named_classes(words))
        super().__init__(
            self.classes["model"],
            self.classes["data"],
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "usage": f"medsoft {'data show TABLE' if verb == 'show' else verb} --config NAME|PATH [options]",
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
        self.config.data.stage = "predict" if self.verb == "show" else self.verb  # whatever a saved configuration says
        check_range("seed_everything", self.config.seed_everything, 0, 2**32 - 1)  # what numpy takes
        check_range("examples", self.config.examples, 0)
        if (self.verb not in ("fit", "crossval") or self.config.get("resume")) and "pretrained" in self.config.model:
            self.config.model.pretrained = None  # the checkpoint holds all weights

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed; Lightning's own option takes true and false too, which say nothing that can be repeated."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of the split, the weights and all that is random."
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of transforms (where the data has them), data and model, then of Lightning's Trainer."""
        if "transforms" in self.classes:
            parser.add_class_arguments(self.classes["transforms"], "transforms")
        parser.add_class_arguments(self.classes["data"], "data")
        parser.add_class_arguments(self.classes["model"], "model")
        parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip=SET_BY_MEDSOFT | WITHOUT_USE)
        parser.set_defaults({"trainer.devices": 1, "trainer.log_every_n_steps": 10, "trainer.num_sanity_val_steps": 0})
        parser.set_defaults({"trainer.max_epochs": 40})
        for action in parser._actions:
            if action.dest == "data.stage":  # the verb's, not the user's
                action.help = SUPPRESS
        if "transforms" in self.classes:
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
        pooling = "How the rows of one data.exam are pooled into predictions_exams.csv: mean or max of logits, or none."
        add("exams", Literal["mean", "max", "none"], "mean", SUPPRESS if self.verb == "show" else pooling)
        add("pictures", bool, True, "Draw curves, confusion matrix, mistakes and examples.")
        ends = self.verb != "show"  # which takes the configuration of a fit as well
        report = "End with report.html, an evaluation of what was predicted, with intervals."
        add("report", bool, True, report if ends else SUPPRESS)
        examples = "So many right and so many wrong answers are drawn for the report; 0 for none."
        add("examples", int, 4, examples if ends else SUPPRESS)
        if self.verb == "show":
            add("n", int, 4, "Number of samples to draw.")
        elif self.verb == "fit":
            add("resume", str | None, None, "Folder of a stopped run to go on with.")
        elif self.verb == "crossval":
            add("folds", int | None, None, "Number of folds to draw, by patient and stratified.")
            add("fold_column", str | None, None, "Column of the table that names folds; instead of folds.")
            add("leave_one_site_out", bool, False, "One fold a value of data.site; instead of folds.")
            add("repeats", int, 1, "How often all is done, each time with the next seed.")
            add("jobs", int, 1, "Folds that run at the same time, each in a process of its own.")
            add("fold", int | None, None, "Run this fold alone, from 0 through all repeats, and gather nothing.")
            add("collect", bool, False, "Run nothing, and gather folds that have all finished.")
            add("resume", str | None, None, "Folder of a cross-validation to go on with; takes jobs, fold, collect.")
        else:
            text = "Folder of a run, for its best checkpoint, or a checkpoint file; several, or a crossval folder."
            add("ckpt_path", str | list[str] | None, None, text)
            add("tta", int, 1, "Average over so many mirrored and turned views, of those that the recipe allows.")
            add("maps", int, 0, "Write maps of shares of so many volumes of each part, as NIfTI and as pictures.")
            add("bundle", str | None, None, "Folder of a bundle (medsoft export), in place of ckpt_path.")

        def add_for_fit(name: str, kind: Any, default: Any, text: str) -> None:
            # The other verbs take these as well, unseen: they are given the configuration of a fit.
            add(name, kind, default, text if self.verb in ("fit", "crossval") else SUPPRESS)

        add_for_fit(
            "monitor",
            str,
            "auto",
            "Validation metric that chooses the checkpoint; auto: auroc, ordinal: kappa, regression: mae.",
        )
        add_for_fit("patience", int | None, None, "Stop after so many epochs without a better metric; else not at all.")
        add_for_fit("ema_decay", float | None, None, "Average the weights with this decay a step, such as 0.999.")
        add_for_fit(
            "ood_quantile",
            float | None,
            0.99,
            "Share of the validation part that is familiar; what lies farther from the training part makes predict "
            "abstain. null for no such score.",
        )
        add_for_fit("save_every_n_steps", int | None, None, "Save the state every so many steps too, not only epochs.")

    def instantiate_classes(self) -> None:
        """Make transforms, data (which reads the table) and model; the trainer waits for the run's folder."""
        if self.verb == "show":
            if "transforms" not in self.classes:
                raise InputError("data show draws images; of slides, medsoft slides tile draws pictures")
            transforms = self.classes["transforms"](**self.config.transforms)
            self.datamodule = self.classes["data"](transforms=transforms, **self.config.data)
            return
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule, self.model = self.config_init.data, self.config_init.model

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain values, with absolute paths, so that it holds from any folder."""
        text = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(text)
        for group, name in PATHS:
            value = config[group].get(name)
            if value and Path(value).exists():
                config[group][name] = str(Path(value).resolve())
        config["out"] = None
        for name in ("resume", *OF_CROSSVAL):
            config.pop(name, None)
        return config

    def pinned(self) -> dict[str, Any]:
        """The resolved configuration, with the question as this table answers it."""
        config = self.resolved()
        task = self.datamodule.task
        config["data"] |= {"task": task.kind, "classes": list(task.classes) or None}
        return config

    def reproducible(self, split: Path) -> dict[str, Any]:
        """The resolved configuration of a run that can be repeated from it alone: with its own split and classes.

        Args:
            split: the run's ``split.csv``.
        """
        config = self.pinned()
        config["data"]["splits_from"] = str(split.resolve())
        return config


def option(argv: Sequence[str], name: str) -> str | None:
    """Value of ``--name VALUE`` or ``--name=VALUE`` on a command line, the last one winning."""
    value = None
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.removeprefix(f"{name}=")
    return value


def split_of_this_table(argv: Sequence[str]) -> list[str]:
    """The command line, with the split of a run's configuration where it is meant.

    A run's configuration names the run's split. It says nothing of a table that comes from elsewhere, and moves with
    the run's folder.
    """
    config, table = option(argv, "--config"), option(argv, "--data.table")
    if config is None or option(argv, "--data.splits_from") is not None:
        return list(argv)
    file = find_configuration(config)
    own = read_configuration(file).get("data")
    if not isinstance(own, dict):
        return list(argv)
    if table and own.get("table") and Path(own["table"]).resolve() != Path(table).resolve():
        return [*argv, "--data.splits_from=null"]
    beside = file.with_name("split.csv")
    if own.get("splits_from") and not Path(own["splits_from"]).is_file() and beside.is_file():
        return [*argv, f"--data.splits_from={beside}"]
    return list(argv)


def named_classes(words: Sequence[str]) -> dict[str, str]:
    """Classes named by the configurations and ``--use.<role>`` options of a command line, the last one winning."""
    named = dict(DEFAULT_CLASSES)
    for word, value in zip(words, [*words, ""][1:], strict=True):
        if word == "--config":
            use = read_configuration(Path(value)).get("use") or {}
            if not isinstance(use, dict):
                raise InputError(f"{value}: use must name classes by {', '.join(DEFAULT_CLASSES)}")
            named |= use
        elif word.startswith("--use."):
            role, _, given = word.removeprefix("--use.").partition("=")
            named[role] = given or value
    unknown = set(named) - set(DEFAULT_CLASSES)
    if unknown:
        raise InputError(f"use: {', '.join(sorted(unknown))} is none of {', '.join(DEFAULT_CLASSES)}")
    return named


def read_configuration(path: Path) -> dict[str, Any]:
    """A configuration's file as plain values.

    Raises:
        InputError: it is none.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a configuration (a mapping of options)")
    return content


def classes_of(named: dict[str, str]) -> dict[str, type]:
    """The classes of all roles; a data module's signature says which transforms it takes, if any."""
    classes = {role: _import(role, path, BASES[role]) for role, path in named.items() if role != "transforms"}
    takes = get_type_hints(classes["data"].__init__).get("transforms")  # type: ignore[misc]
    if takes is not None:
        of_images = named["transforms"] == DEFAULT_CLASSES["transforms"]
        only_one = of_images and not inspect.isabstract(takes)  # volumes have one recipe, which need not be named
        classes["transforms"] = takes if only_one else _import("transforms", named["transforms"], takes)
    elif named["transforms"] != DEFAULT_CLASSES["transforms"]:
        raise InputError(f"use.transforms: {classes['data'].__name__} takes no transforms; leave it out")
    return classes


def _import(role: str, path: str, base: type) -> type:
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(
            f"use.{role}: {path} cannot be imported; give a dotted path such as {DEFAULT_CLASSES[role]}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"use.{role}: {path} is no {base.__name__}")
    return found
