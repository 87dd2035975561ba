"""Answers unknown options: where they belong, or which option is the nearest.

It needs no parser: so ``medsoft fit --modle.lr 1e-3`` is refused at once, not after PyTorch and others are imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from medsoft.errors import InputError
from medsoft.parsing.help import RUN, Page, find_page, table
from medsoft.parsing.log_options import LOG_OPTIONS
from medsoft.parsing.options import OLD_NAMES
from medsoft.parsing.words import BARE, OF_A_TABLE, Words, shown

SAME = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "bs": "batch_size",
    "workers": "num_workers",
    "img_size": "size",
    "image_size": "size",
    "ckpt": "checkpoint",
    "weights": "pretrained",
    "arch": "backbone",
    "csv": "table",
    "target": "label",
}
"""What other tools call an option, and its last part here."""

SET_ELSEWHERE = ("data.seed", "data.stage", "data.transforms", "model.spec", "trainer.batch", "trust")
"""Options that no help lists: a parser knows them, and says why they cannot be set, or takes them."""


def of_unknown(unknown: Sequence[str], known: Sequence[str], elsewhere: Callable[[str], str | None]) -> str:
    """What to say of options that there are not.

    Args:
        unknown: as typed; without ``--`` where a file names them.
        known: those that there are.
        elsewhere: tells to what else an option belongs, if to anything.

    Returns:
        All of them, each with the nearest or with where it belongs; "" where there are none.
    """

    def hint(name: str) -> str:
        if (belongs := elsewhere(name)) is not None:
            return f": it belongs to {belongs}"
        near = _nearest(name, known)
        return f"; the nearest is {near}" if near else "; --help all lists all options"

    hints = {name: hint(name.lstrip("-")) for name in unknown}
    if len(hints) == 1:
        return "".join(f"unknown option {name}{text}" for name, text in hints.items())
    return "unknown options: " + ", ".join(f"{name} ({text[2:]})" for name, text in hints.items()) if hints else ""


def _nearest(unknown: str, known: Sequence[str]) -> str | None:
    """Of the known names one of the same last part or meaning, else one that it begins, else the most similar one."""
    group, _, last = unknown.rpartition(".")
    if last in SAME and not any(name.rpartition(".")[2] == last for name in known):
        last = SAME[last]
    at_end = [name for name in known if name.rpartition(".")[2] == last]
    begun = [name for name in known if name.rpartition(".")[2].startswith(last) and name.startswith(group)]
    # Letters in another order are the commonest slip, and difflib's ratio does not know it.
    turned = [name for name in known if name.startswith(group) and sorted(name) == sorted(unknown)]
    return next(iter([*at_end, *begun, *turned, *difflib.get_close_matches(unknown, known, n=1)]), None)


def refuse_unknown(verb: str, argv: Sequence[str]) -> None:
    """Refuse options that no verb of runs and none of their classes has; what is left, the parser looks at.

    Args:
        verb: one that trains or applies a model, as in ``medsoft.cli.main.VERBS``.
        argv: the command line after it.

    Raises:
        InputError: there are such options.
    """
    content = table()
    pages = [Page.from_plain(plain) for plain in content["verbs"].values()]
    known = {option.name for page in pages if page.groups[0][0] == RUN for option in page.options}
    known |= {one["name"] for kinds in content["classes"].values() for options in kinds.values() for one in options}
    known |= {*SET_ELSEWHERE, *BARE, *LOG_OPTIONS, *OLD_NAMES[""], *OLD_NAMES.get(verb, {})}
    groups = {name.rpartition(".")[0] for name in known}  # by itself one is the parser's affair too
    words = Words.read(argv)
    names = [name.removesuffix("+") for name, _ in words.options]
    names = [name for name in names if name not in groups]
    unknown = [name for name in names if not any(name == one or name.startswith(f"{one}.") for one in known)]
    table_is_a_word = verb.rpartition(" ")[2] in OF_A_TABLE and len(words.loose) == 1
    if not unknown or (words.loose and not table_is_a_word) or (page := find_page(verb, argv)) is None:
        return
    names = [option.name for option in page.options]
    raise InputError(of_unknown([shown(name) for name in unknown], names, lambda name: None))
