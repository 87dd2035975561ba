"""Settings objects: dataclasses whose fields are options of a verb.

What belongs together (the columns of a table, the size of tiles) is one dataclass, documented once. A verb is a
function that takes such objects; on the command line their fields stand flat beside the verb's own options.
``tile(out: str, tiling: Tiling)`` is called by ``medsoft slides tile --out DIR --tile-px 256``, where ``Tiling`` has a
field ``tile_px``. The help shows each field as the class's own docstring describes it, under its first line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from medsoft.errors import InputError


class Settings:
    """Base of dataclasses whose fields are options of a verb.

    A field that is such an object itself is spread as well. A field that is any other dataclass keeps its name as a
    prefix: ``--tissue.method``. A field with ``init=False`` is no option.
    """


def settings_in(function: Callable[..., Any]) -> dict[str, type[Settings]]:
    """Parameters of a function, or of a settings class, that are settings objects, and their classes."""
    found: dict[str, type[Settings]] = {}
    hints: dict[str, Any] = get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    for name, hint in hints.items():
        if name != "return" and isinstance(hint, type) and issubclass(hint, Settings):
            found[name] = hint
    return found


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Values of a function's or a settings class's options where the object in its signature has others than its class.

    Returns:
        By option; of settings that are required, none.
    """
    parameters = inspect.signature(function).parameters
    values: dict[str, Any] = {}
    for name, made in settings_in(function).items():
        default = parameters[name].default
        values |= defaults_of(made)
        if isinstance(default, made):
            values |= _as_options(default)
    return values


def _as_options(settings: Settings) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            values |= _as_options(value)
        elif field.init and not is_dataclass(value):
            values[field.name] = value
    return values


def arguments_of(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What to call a function with: its settings objects made of the options.

    Args:
        function: or a settings class.
        values: of all options, flat.

    Raises:
        InputError: the settings say that their values are wrong.
    """
    settings = settings_in(function)
    return {
        name: settings[name](**arguments_of(settings[name], values)) if name in settings else values[name]
        for name in inspect.signature(function).parameters
    }


OLD_NAMES: dict[str, dict[str, str]] = {
    "": {"ckpt_path": "checkpoint", "pictures": "figures"},
    "benchmark attention": {"batch": "batch_size"},
    "benchmark backbones": {"batch": "batch_size"},
    "benchmark aggregators": {"batch": "batch_size"},
    "slides encode": {"batch": "batch_size"},
    "slides predict": {"batch": "batch_size"},
}
"""By verb, names that options had in earlier versions and what they are called now; "" for those of all verbs."""


def refuse_old_name(verb: str, option: str, known: Collection[str]) -> None:
    """Answer an option's earlier name with its name now.

    Args:
        verb: as in ``medsoft.cli.main.VERBS``.
        option: as the user wrote it, without ``--`` and with ``_``.
        known: options that the verb has; nothing is said of a new name that is not among them.

    Raises:
        InputError: it has another name now.
    """
    now = (OLD_NAMES.get("", {}) | OLD_NAMES.get(verb, {})).get(option)
    if now in known:
        raise InputError(f"--{option} is now called --{now}")
