"""Finds where an unknown option belongs: to another kind of data, or to another verb."""

from __future__ import annotations

from collections.abc import Mapping

from medsoft.parsing.help import table
from medsoft.registry import REGISTER

OF_VERBS = {
    "crossval and auto": ("folds",),
    "plan and auto": ("budget", "candidates"),
    "auto": ("nested", "tune"),
    "crossval": ("fold_column", "leave_one_site_out", "repeats", "jobs", "fold", "collect"),
    "fit, crossval and auto": ("resume",),
    "validate, test and predict": ("checkpoint", "bundle", "tta", "maps"),
    "data show": ("n",),
}
"""Options of some verbs alone."""

KINDS = {
    "image": "pictures (--config fundus, chest_xray and others)",
    "bag": "slides (--config histo)",
    "volume": "volumes (--config volume)",
    "classifier": "pictures and volumes (--config fundus, volume and others)",
    "slide_classifier": "slides (--config histo)",
    "slice_classifier": "volumes as bags of slices (--config volume_slices)",
    "masks": "masks (--config segmentation)",
    "segmenter": "masks (--config segmentation)",
    "boxes": "boxes (--config detection)",
    "detector": "boxes (--config detection)",
    "volume_masks": "masks of volumes (--config segmentation_volume)",
    "volume_segmenter": "masks of volumes (--config segmentation_volume)",
}
"""What the options of a class are for."""


def belongs_to(option: str, verb: str, named: Mapping[str, str]) -> str | None:
    """What has an option of this name; None where nothing does.

    Args:
        option: such as ``data.laterality``.
        verb: that does not have it.
        named: the classes that this command uses, by role.
    """
    for verbs, names in OF_VERBS.items():
        if option in names and verb not in verbs:
            return f"medsoft {verbs}"
    role, _, name = option.partition(".")
    if role not in REGISTER or not name:
        return None
    found = []
    for kind, options in table()["classes"][role].items():
        own = [one["name"].removeprefix(f"{role}.") for one in options]
        if kind != named.get(role) and name.partition(".")[0] in own:
            of_recipe = f"the {kind} recipe (use: {{transforms: {kind}}})"
            found.append(of_recipe if role == "transforms" and kind != "volume" else KINDS[kind])
    return " and ".join(dict.fromkeys(found)) or None
