"""Reads configuration files: those shipped with medsoft, a user's own, and those that runs and bundles keep.

A configuration is data. It holds options as plain values and names classes by the short names of the register; it
neither builds an object nor imports a module (see ``medsoft.registry``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medsoft.errors import InputError
from medsoft.parsing.words import Words
from medsoft.registry import DEFAULTS, TRUST, short_names

SHIPPED = Path(__file__).parents[1] / "configs"
OTHER_NAMES = {"histology": "histo_tiles"}
"""Names that shipped configurations have besides that of their file."""

BUILT = ("callbacks", "plugins", "profiler", "logger")
"""Options of the trainer that are objects; no run and no bundle keeps them."""

NAMED_OR_BUILT = ("strategy", "accelerator")
"""Options of the trainer that are kept as long as they are a word, such as ddp."""

OF_THE_CALL = ("out", "checkpoint", "ckpt_path", "bundle", "resume", "trust")
"""Options that belong to one call, and mean nothing in the configuration that a run keeps.

Earlier versions called checkpoint ckpt_path.
"""

EARLIER_NAMES = {"pictures": "figures"}
"""What version 0.1 wrote into the configurations of runs and bundles, and what it is called now."""

OF_A_BUNDLE = (
    "use",
    "name",
    "transforms",
    "data",
    "model",
    "exams",
    "patients",
    "figures",
    "report",
    "examples",
    "seed_everything",
)
"""What is read of a bundle's configuration: how data are prepared, and the model. The trainer is the user's own."""

PATHS_OF_DATA = ("table", "root", "splits_from", "features", "clinical", "cache_dir", "boxes")
"""Options of the data that name files of the machine on which a model was trained."""


def shipped_configurations() -> dict[str, Path]:
    """Names and files of the configurations that come with medsoft."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def find_configuration(name: str) -> Path:
    """The file of ``--config NAME|PATH``: an existing path, else a shipped configuration.

    Raises:
        InputError: neither; the shipped names are listed.
    """
    shipped = shipped_configurations()
    if Path(name).is_file():
        return Path(name)
    if OTHER_NAMES.get(name, name) in shipped:
        return shipped[OTHER_NAMES.get(name, name)]
    raise InputError(f"--config {name}: no such file, and no shipped configuration: {', '.join(shipped)}")


def with_configurations_found(words: Words) -> Words:
    """The command line with every ``--config`` value replaced by the path of its file.

    Raises:
        InputError: there is no such configuration, or none is named.
    """

    def found(name: str, value: str | None) -> list[tuple[str, str | None]]:
        if name != "config":
            return [(name, value)]
        if not value:
            raise InputError("--config needs a name or a path: " + ", ".join(shipped_configurations()))
        return [(name, str(find_configuration(value)))]

    return words.each(found)


def named_classes(words: Words) -> dict[str, str]:
    """Classes named by the configurations and ``--use.<role>`` options of a command line, the last one winning.

    Args:
        words: with configurations found.

    Raises:
        InputError: a configuration cannot be read, or it names something else than data, model and transforms.
    """
    named = dict(DEFAULTS)
    for name, value in words.options:
        if value is None:
            continue
        if name == "config":
            named |= read_configuration(Path(value)).get("use") or {}
        elif name.startswith("use."):
            named |= short_names({name.removeprefix("use."): value}, "the command line")
    return named


def read_configuration(path: Path) -> dict[str, Any]:
    """A configuration's file as plain values, with classes by their short names.

    Raises:
        InputError: it is none.
    """
    from jsonargparse import get_loader  # numbers as on the command line: YAML takes 1e-3 for text
    from yaml import YAMLError

    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path}: not a configuration: nested too deeply") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a configuration (a mapping of options)")
    if "trust" in content:
        raise InputError(f"{path}: trust can only be given on the command line, never in a file")
    use = content.get("use")
    if use is not None and not isinstance(use, dict):
        raise InputError(f"{path}: use must be a mapping, such as use: {{transforms: plain}}")
    if use is not None:
        content["use"] = short_names(use, str(path))
    return dict(_with_names_of_now(content))


def _with_names_of_now(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(EARLIER_NAMES.get(name, name), value) for name, value in content.items()]


def of_a_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of a run's configuration by another call: no objects, and nothing that was of its own call."""
    return without_objects({name: value for name, value in _with_names_of_now(content) if name not in OF_THE_CALL})


def of_a_bundle(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle keeps, and what is read of it: no trainer, and no file of the machine that trained it."""
    kept = {name: value for name, value in _with_names_of_now(content) if name in OF_A_BUNDLE}
    model = kept.get("model")
    # Where a backbone is named beside an encoder, the encoder was what it began with; else it is the network.
    began = ("pretrained", "encoder") if isinstance(model, dict) and "backbone" in model else ("pretrained",)
    for group, names in (("data", PATHS_OF_DATA), ("model", began)):
        if isinstance(kept.get(group), dict):
            kept[group] = {name: value for name, value in kept[group].items() if name not in names}
    return kept


def without_objects(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what its trainer was given as objects: callbacks and the like."""
    trainer = content.get("trainer")
    if not isinstance(trainer, dict):
        return dict(content)
    objects = objects_of(trainer)
    return {**content, "trainer": {name: value for name, value in trainer.items() if name not in objects}}


def objects_of(trainer: Mapping[str, Any]) -> list[str]:
    """Names of the trainer's options that are objects, or could be."""
    named = [name for name in NAMED_OR_BUILT if not isinstance(trainer.get(name), str | None)]
    return [name for name in trainer if name in (*BUILT, *named)]


def refuse_class_paths(content: Mapping[str, Any], source: str) -> None:
    """Check that a configuration asks for no object to be built.

    Args:
        content: of the file.
        source: the file, for the message.

    Raises:
        InputError: it does, anywhere; the first such option is named.
    """
    for option, path in _class_paths(content, ""):
        raise InputError(f"{source}: {option} names the class {path!r}. {TRUST}")


def _class_paths(value: Any, option: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield option, value["class_path"]
        for name, inner in value.items():
            yield from _class_paths(inner, f"{option}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _class_paths(inner, option)
