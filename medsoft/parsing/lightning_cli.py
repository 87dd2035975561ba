"""LightningCLI for the classes that a configuration names.

A configuration says under ``use`` which data module, model and transforms it is for, by the register's short names. The
parser is built for exactly these, so that ``medsoft fit --config fundus --help`` lists every option there is, and a
misspelt one is found.
"""

from __future__ import annotations

import inspect
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from medsoft.errors import InputError, check_range
from medsoft.parsing.configurations import (
    find_configuration,
    named_classes,
    objects_of,
    of_a_bundle,
    of_a_run,
    read_configuration,
    with_configurations_found,
    without_objects,
)
from medsoft.parsing.elsewhere import belongs_to
from medsoft.parsing.help import SHORT_FORMS, text_of
from medsoft.parsing.help_pages import page_of
from medsoft.parsing.log_options import LOG_OPTIONS
from medsoft.parsing.options_of_plans import OF_AUTO
from medsoft.parsing.options_of_runs import TRAIN, add_options_of_runs
from medsoft.parsing.parser import OneLineErrors, class_paths
from medsoft.parsing.shipped_arguments import with_arguments_of_others
from medsoft.parsing.words import OF_A_TABLE, Words
from medsoft.registry import DEFAULTS, find_class
from medsoft.system.progress import progress

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
# Verbs that take trained models.
APPLY = ("validate", "test", "predict")
# Options that stand alone for true; of those that a class brings, its parser knows.
USAGE = {"show": "data show TABLE --config NAME|PATH"}
USAGE |= {verb: f"{verb} --checkpoint RUN" for verb in ("validate", "test", "predict")}
USAGE |= {verb: f"{verb} TABLE [--config NAME|PATH]" for verb in ("plan", "auto")}
"""How a verb is called, where not by its configuration."""

FLAGS = ("trust", "lr_find", "collect", "leave_one_site_out", "figures", "report", "shortcuts", "nested", "tune")
# What is said of options that others define; the stage is the verb's affair, not the user's.
HELP = {
    "config": "Name of a shipped configuration, or a YAML file; may be repeated, and later ones override earlier ones.",
    "trainer.max_epochs": "Number of epochs; the cosine learning rate schedule ends with the last one.",
    "data.stage": SUPPRESS,
}
# Options of crossval itself, which a fold's run knows nothing of.
OF_CROSSVAL = (
    *("folds", "fold_column", "leave_one_site_out", "repeats", "train_fraction", "learning_curve"),
    *("jobs", "fold", "collect"),
)
STAGES = {"show": "predict", "plan": "crossval", "auto": "crossval"}
"""What a table is read for, where that is not what the verb is called."""
# Options that name files and folders.
PATHS = (
    *(("data", name) for name in ("table", "root", "splits_from", "features", "clinical", "cache_dir", "boxes")),
    ("model", "pretrained"),
    ("model", "encoder"),
)


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with one-line errors.

    Attributes:
        named: classes by role, as ``named_classes``.
        contents: what is read of files, by path, where it is not all that they say.
    """

    named: dict[str, str] = {}  # noqa: RUF012 (each parser is given its own)
    contents: dict[Path, dict[str, Any]] = {}  # noqa: RUF012

    def content_of(self, path: Path) -> dict[str, Any]:
        """What counts of a configuration file."""
        kept = self.contents.get(path.resolve())
        return super().content_of(path) if kept is None else kept

    def elsewhere(self, option: str) -> str | None:
        """The verb or the kind of data that has such an option."""
        return belongs_to(option, self.verb, self.named)


PARSERS: dict[tuple[Any, ...], LightningArgumentParser] = {}
"""By verb and classes; what differs between command lines is set by each before it is parsed."""


class CommandLine(LightningCLI):
    """Parses a verb's command line; the verb then makes data, model and trainer from it.

    Args:
        verb: fit, crossval, validate, test, predict, plan, auto, or show, which makes no model.
        words: the command line after the verb, as typed or as ``read_words`` gives it.
        saved: a configuration among those named that a run or a bundle has kept: options of another call do not count.
        of_bundle: whether it is a bundle's, of which only data preparation and model count.

    Attributes:
        notes: what the user should know of how the configuration was read.

    Raises:
        InputError: an option, a value or the configuration is wrong, or it names classes that are not trusted.
    """

    def __init__(
        self, verb: str, words: Sequence[str] | Words, saved: Path | None = None, of_bundle: bool = False
    ) -> None:
        self.verb = verb
        words = words if isinstance(words, Words) else read_words(verb, words)
        self.trusted = words.is_true("trust")
        self.words = words.without("trust", *LOG_OPTIONS)
        self.contents: dict[Path, dict[str, Any]] = {}
        if saved is not None:
            content = read_configuration(saved)
            self.contents[saved.resolve()] = of_a_bundle(content) if of_bundle else of_a_run(content)
        more, self.notes = with_arguments_of_others(self.words)
        self.contents |= more
        self.named = named_classes(self.words)
        with progress("starting"):
            self.classes = classes_of(self.named, self.trusted)
        with class_paths(self.trusted):
            super().__init__(
                self.classes["model"],
                self.classes["data"],
                save_config_callback=None,
                seed_everything_default=0,
                parser_class=Parser,
                parser_kwargs={
                    "usage": f"medsoft {USAGE.get(verb, f'{verb} --config NAME|PATH')} [options]",
                    "description": "--trust (on the command line only) lets a configuration name your own classes.",
                    "dump_header": [],
                },
                args=[],  # parse_arguments has them
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    def setup_parser(self, add_subcommands: bool, main_kwargs: Any, subparser_kwargs: Any) -> None:
        """One parser for all command lines of the same verb and classes: to read all signatures takes long.

        ``crossval`` and ``auto`` read one for each training.
        """
        key = (self.verb, self.trusted, *self.classes.items())
        if key not in PARSERS:
            super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
            PARSERS[key] = self.parser
        self.parser = PARSERS[key]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the verb's own command line; ``sys.argv`` has no part in it."""
        assert isinstance(parser, Parser)
        parser.trusted, parser.verb, parser.named, parser.contents = self.trusted, self.verb, self.named, self.contents
        if (asked := self.words.help) is not None:  # of classes that the table of help does not have
            name = "data show" if self.verb == "show" else self.verb
            print(text_of(page_of(parser, name, self.named), name, asked == "all"))
            raise SystemExit
        self.config = parser.parse_words(parser.checked(self.words))
        self.config.use = self.named
        self.config.data.stage = STAGES.get(self.verb, self.verb)  # whatever a saved configuration says
        check_range("seed_everything", self.config.seed_everything, 0, 2**32 - 1)  # what numpy takes
        check_range("examples", self.config.examples, 0)
        if Path(self.config.name).is_absolute() or ".." in Path(self.config.name).parts:
            raise InputError(f"name {self.config.name}: must be a name within runs/, not a path to somewhere else")
        complete = getattr(self.classes["model"], "complete", None)
        if self.verb not in TRAIN or self.config.get("resume"):
            for option in getattr(self.classes["model"], "begins_with", ("pretrained",)):
                if option in self.config.model:
                    self.config.model[option] = None  # the checkpoint holds all weights
        elif complete is not None and "transforms" in self.config:
            typed = [name for name, _ in self.words.options]
            self.notes += complete(self.config.model, self.config.transforms, typed)
        given = [name for name in objects_of(vars(self.config.trainer)) if self.config.trainer[name] not in (None, [])]
        if given and self.verb == "crossval":
            raise InputError(
                f"trainer.{given[0]}: crossval trains its folds from a saved configuration, which keeps no objects: "
                "train the folds with medsoft fit"
            )
        if given and self.verb == "fit":
            names = ", ".join(f"trainer.{name}" for name in given)
            self.notes.append(f"{names}: the run does not keep it; give it again to resume or to repeat the run")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed; Lightning's own option takes true and false too, which say nothing that can be repeated."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="Seed of everything random: split, weights, augmentation.",
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
        text = "auto: the largest batch that fits, up to the samples of a step; what is left is accumulated."
        trains = self.verb in ("fit", "crossval")
        parser.add_argument(
            "--trainer.batch", type=Literal["auto"] | None, default=None, help=text if trains else SUPPRESS
        )
        for action in parser._actions:
            if action.dest in HELP:
                action.help = HELP[action.dest]
        if "transforms" in self.classes:
            parser.link_arguments("transforms", "data.transforms", apply_on="instantiate")
        parser.link_arguments("data.spec", "model.spec", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run itself."""

        def add(name: str, kind: Any, default: Any, text: str) -> None:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)

        add_options_of_runs(add, self.verb)

    def instantiate_classes(self) -> None:
        """Make transforms, data (which reads the table) and model; the trainer waits for the run's folder."""
        if self.verb == "show":
            if "transforms" not in self.classes:
                raise InputError("data show draws images; of slides, medsoft slides tile draws pictures")
            transforms = self.classes["transforms"](**self.config.transforms)
            self.datamodule = self.classes["data"](transforms=transforms, **self.config.data)
            return
        with progress("reading the table and building the model"):
            self.config_init = self.parser.instantiate(self.config)
        self.datamodule, self.model = self.config_init.data, self.config_init.model
        self.config.trainer = self.config_init.trainer  # whose objects are made

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain values, with absolute paths, so that it holds from any folder."""
        plain = self.config.clone()
        for name in objects_of(vars(plain.trainer)):
            plain.trainer[name] = self.parser.get_default(f"trainer.{name}")
        text = self.parser.dump(plain, skip_link_targets=True, skip_unset=False, format="yaml")
        config: dict[str, Any] = without_objects(yaml.safe_load(text))
        for group, name in PATHS:
            value = config[group].get(name)
            if value and Path(value).exists():
                config[group][name] = str(Path(value).resolve())
        config["out"] = None
        for name in ("resume", "changed_table", *OF_CROSSVAL, *OF_AUTO):
            config.pop(name, None)
        return config

    def pinned(self) -> dict[str, Any]:
        """The resolved configuration, with the question as this table answers it."""
        config = self.resolved()
        config["data"] |= self.datamodule.task.pinned(config["data"])
        return config

    def reproducible(self, split: Path) -> dict[str, Any]:
        """The resolved configuration of a run that can be repeated from it alone: with its own split and classes.

        Args:
            split: the run's ``split.csv``.
        """
        config = self.pinned()
        config["data"]["splits_from"] = str(split.resolve())
        return config


def read_words(verb: str, argv: Sequence[str]) -> Words:
    """The command line of a verb that trains or applies a model: configurations found, short forms written out.

    Raises:
        InputError: there is no such configuration, or a short form's value is wrong.
    """
    several = ("checkpoint",) if verb in APPLY else ()
    words = Words.read(argv, flags=FLAGS, several=several)
    if verb in OF_A_TABLE and len(words.loose) == 1:
        words = replace(words.begun_with("data.table", words.loose[0]), loose=())
    return with_configurations_found(words if verb == "show" else words.each(_written_out))


def _written_out(name: str, value: str | None) -> list[tuple[str, str | None]]:
    if name == "device" and value is not None:
        return [("trainer.accelerator", accelerator(value)), *devices(value)]
    return [(SHORT_FORMS.get(name, name), value)]


def accelerator(device: str) -> str:
    """Lightning's word for the kind of a device.

    Raises:
        InputError: it is none of auto, cpu, mps, cuda, and cuda:0 and so on.
    """
    kind, colon, number = device.partition(":")
    if kind not in ("auto", "cpu", "mps", "cuda") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise InputError(f"--device {device}: auto, cpu, cuda, cuda:1 or mps; several with --trainer.devices")
    return kind


def devices(device: str) -> list[tuple[str, str | None]]:
    """Lightning's option for how many devices, or which; auto leaves them as they are."""
    number = device.partition(":")[2]
    return [] if device == "auto" else [("trainer.devices", f"[{number}]" if number else "1")]


def split_of_this_table(words: Words) -> Words:
    """The command line, with the split of a run's configuration where it is meant.

    A run's configuration names the run's split, which moves with its folder and says nothing of other tables; likewise
    the file of the true boxes.
    """
    config, table = words.last("config"), words.last("data.table")
    if config is None:
        return words
    file = find_configuration(config)
    own = read_configuration(file).get("data")
    if not isinstance(own, dict):
        return words
    is_other = table and own.get("table") and Path(own["table"]).resolve() != Path(table).resolve()
    if is_other and own.get("boxes") and words.last("data.boxes") is None:
        words = words.ended_with("data.boxes", "null")
    if words.last("data.splits_from") is not None:
        return words
    if is_other:
        return words.ended_with("data.splits_from", "null")
    beside = file.with_name("split.csv")
    if own.get("splits_from") and not Path(own["splits_from"]).is_file() and beside.is_file():
        return words.ended_with("data.splits_from", str(beside))
    return words


def classes_of(named: dict[str, str], trusted: bool) -> dict[str, type]:
    """The classes of all roles; a data module's signature says which transforms it takes, if any.

    Args:
        named: by role.
        trusted: whether classes other than medsoft's own may be imported.

    Raises:
        InputError: there is no such class, it is not trusted, or they do not fit each other.
    """
    classes = {role: find_class(role, named[role], base, trusted) for role, base in BASES.items()}
    takes = get_type_hints(classes["data"].__init__).get("transforms")  # type: ignore[misc]
    of_images = named["transforms"] == DEFAULTS["transforms"]
    if takes is not None:
        only_one = of_images and not inspect.isabstract(takes)  # volumes have one recipe, which need not be named
        classes["transforms"] = takes if only_one else find_class("transforms", named["transforms"], takes, trusted)
    elif not of_images:
        raise InputError(f"use.transforms: {classes['data'].__name__} takes no transforms; leave it out")
    return classes
