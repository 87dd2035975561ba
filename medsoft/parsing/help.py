"""Prints the help of a verb: a page of its options, the common ones first.

What a page says is kept in ``help.json`` beside this file, which ``scripts/help_table`` writes from the code: so that
``medsoft fit --help`` need not import what takes seconds.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medsoft.parsing.words import Words
from medsoft.registry import DEFAULTS

TABLE = Path(__file__).parent / "help.json"

FEW = 14
"""A verb with no more options than these shows all of them."""

COMMON = {
    "fit": (
        *("config", "data.table", "data.label", "data.task", "data.positive", "data.patient", "data.features"),
        *("model.backbone", "model.aggregator", "model.lr", "trainer.max_epochs", "batch_size", "workers", "device"),
        *("name", "out", "resume"),
    ),
    "crossval": (
        *("config", "data.table", "data.label", "data.task", "data.positive", "data.patient", "data.features"),
        *("trainer.max_epochs", "batch_size", "workers", "device", "folds", "fold_column", "leave_one_site_out"),
        *("jobs", "name", "out", "resume"),
    ),
    "plan": (
        *("config", "data.table", "data.label", "data.task", "data.positive", "data.patient", "budget", "candidates"),
        *("device", "out"),
    ),
    "auto": (
        *("config", "data.table", "data.label", "data.task", "data.positive", "data.patient", "budget", "nested"),
        *("tune", "candidates", "device", "out", "resume"),
    ),
    "predict": ("checkpoint", "bundle", "data.table", "batch_size", "workers", "device", "tta", "maps", "name", "out"),
    "encode": (
        *("table", "root", "path", "kind", "encoder", "weights", "config", "transforms", "size", "tokens", "views"),
        *("dtype", "batch_size", "workers", "device", "jobs", "out"),
    ),
    "pretrain": (
        *("table", "teacher", "config", "size", "backbone", "backbone_args", "patient", "exclude", "splits_from"),
        *("max_epochs", "batch_size", "lr", "device", "name", "out", "resume"),
    ),
    "data show": ("config", "data.table", "data.label", "transforms.size", "n", "out"),
}
"""Options that most calls of a verb need, in the order of its help."""
COMMON["validate"] = COMMON["test"] = COMMON["predict"]

COMMON_ANYWHERE = (
    *("slides", "features", "predictions", "run", "table", "label", "task", "positive", "classes", "patient", "path"),
    *("checkpoint", "bundle", "encoder", "weights", "mpp", "tile", "tile_px", "heatmap", "thresholds", "subgroups"),
    *("metric", "margin", "locked", "mechanisms", "models", "names", "tokens", "sizes", "tiles", "kind", "folds"),
    *("batch_size", "workers", "device", "jobs", "out", "overwrite"),
)
"""The same for verbs that have no list of their own, as far as they have such options."""


RUN = "The run"
TITLES = {
    "data": "Data (use.data: {})",
    "transforms": "Transforms (use.transforms: {})",
    "model": "Model (use.model: {})",
    "trainer": "Trainer (Lightning's)",
}
"""Titles of the groups of a verb that trains or applies a model: its own options, and those of each class by role."""

SHORT_FORMS = {"batch_size": "data.batch_size", "workers": "data.num_workers"}
"""Options of data under the names that they have in every verb."""


@dataclass(frozen=True)
class Option:
    """An option as its help shows it.

    Attributes:
        name: without ``--``.
        kind: what it takes, in words.
        default: its value where it is not given, as plain data.
        text: what it is for.
        required: whether it must be given.
    """

    name: str
    kind: str
    default: Any
    text: str
    required: bool = False


@dataclass(frozen=True)
class Page:
    """All that the help of a verb says.

    Attributes:
        usage: how it is called.
        about: what it does, in a sentence or two.
        groups: titles, and the options under each.
    """

    usage: str
    about: str
    groups: tuple[tuple[str, tuple[Option, ...]], ...]

    @property
    def options(self) -> list[Option]:
        """Those of all groups."""
        return [option for _, options in self.groups for option in options]

    def as_plain(self) -> dict[str, Any]:
        """For ``help.json``."""
        groups = [[title, [asdict(option) for option in options]] for title, options in self.groups]
        return {"usage": self.usage, "about": self.about, "groups": groups}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Page:
        """From ``help.json``."""
        groups = tuple((title, tuple(Option(**one) for one in options)) for title, options in content["groups"])
        return cls(content["usage"], content["about"], groups)


@cache
def table() -> dict[str, Any]:
    """What ``help.json`` holds.

    Returns:
        ``verbs``, a page each; ``classes``, by role and short name the options of each; ``transforms``, by kind of data
        the recipe that it takes where none is named.
    """
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


def find_page(verb: str, argv: Sequence[str]) -> Page | None:
    """The page of a verb; for one that trains or applies a model with the options of the classes that it names.

    Args:
        verb: as in ``medsoft.cli.main.VERBS``.
        argv: the command line after it, whose ``--config`` and ``--use`` say which classes these are.

    Returns:
        None where a class is not medsoft's own.

    Raises:
        InputError: a configuration cannot be read.
    """
    content = table()
    page = Page.from_plain(content["verbs"][verb])
    if page.groups[0][0] != RUN:
        return page
    words = Words.read(argv)
    named: dict[str, str | None] = dict(DEFAULTS)
    values: dict[str, Any] = {}
    if words.all("config") or any(name.startswith("use.") for name, _ in words.options):
        from medsoft.parsing.configurations import named_classes, read_configuration, with_configurations_found

        words = with_configurations_found(words)
        named |= named_classes(words)
        for file in words.all("config"):
            values = _merged(values, read_configuration(Path(file)))
    if any(named[role] not in names for role, names in content["classes"].items()):
        return None
    if named["transforms"] == DEFAULTS["transforms"]:
        named["transforms"] = content["transforms"][named["data"]]
    groups = []
    for role in ("data", "transforms") if verb == "data show" else ("data", "transforms", "model"):
        if named[role] is not None:
            options = tuple(Option(**one) for one in content["classes"][role][named[role]])
            groups.append((TITLES[role].format(named[role]), options))
    found = (page.groups[0], *groups, *page.groups[1:])
    found = tuple((title, with_defaults(options, values)) for title, options in found)
    for short, name in SHORT_FORMS.items():
        same = [option.default for _, options in found for option in options if option.name == name]
        values[short] = same[0] if same else None
    return Page(page.usage, page.about, ((RUN, with_defaults(found[0][1], values)), *found[1:]))


def _merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: {**values[name], **more[name]} for name in more if _are_groups(values.get(name), more[name])}
    return {**values, **more, **both}


def _are_groups(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def text_of(page: Page, verb: str, everything: bool) -> str:
    """A page as it is printed.

    Args:
        page: of the verb.
        verb: as in ``medsoft.cli.main.VERBS``.
        everything: all options, and not the common ones alone.
    """
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [f"usage: {page.usage}", "", *textwrap.wrap(page.about, width)]
    groups = page.groups
    more = ""
    if not everything and len(page.options) > FEW:
        shown = _common(page, verb)
        groups = (("Common options", tuple(shown)),)
        more = f"{len(page.options) - len(shown)} more options: medsoft {verb} --help all"
    column = min(max(len(option.name) for _, options in groups for option in options) + 6, 30)
    for title, options in groups:
        lines += ["", f"{title}:", *(line for option in options for line in _lines(option, column, width))]
    return "\n".join([*lines, *(["", more] if more else [])])


def _common(page: Page, verb: str) -> list[Option]:
    by_name = {option.name: option for option in page.options}
    required = [option.name for option in page.options if option.required]
    names = COMMON.get(verb, (*required, *COMMON_ANYWHERE))
    return [by_name[name] for name in dict.fromkeys(names) if name in by_name]


def _lines(option: Option, column: int, width: int) -> Iterator[str]:
    value = "required" if option.required else f"default: {_shown(option.default)}"
    text = textwrap.wrap(f"{option.text} ({'; '.join(filter(None, (option.kind, value)))})", max(20, width - column))
    name = f"  --{option.name}"
    if len(name) + 2 > column:
        yield name
    else:
        yield f"{name:<{column}}{text.pop(0)}"
    yield from (" " * column + line for line in text)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def with_defaults(options: Sequence[Option], values: Mapping[str, Any]) -> tuple[Option, ...]:
    """Options with other defaults.

    Args:
        options: any.
        values: of a configuration, in groups as there.
    """
    found = []
    for option in options:
        value: Any = values
        for part in option.name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        required = option.required and value is None
        default = option.default if value is None else value
        found.append(Option(option.name, option.kind, default, option.text, required))
    return tuple(found)
