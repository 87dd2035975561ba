"""Examples of right and wrong answers: which ones to show, and the pictures that were drawn of them.

The pictures are drawn where the model is, at the end of a run, into a folder with ``examples.json``:

    {"format": 1, "how": "…", "examples": [{"id", "split", "target", "predicted", "p", "label", "image", "map"}, …]}

``image`` and ``map`` are names of files in the folder, ``map`` may be null.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.abstention import unfamiliar
from medsoft.evaluation.metrics.targets import predicted, probabilities, targets
from medsoft.task import Task

FILE = "examples.json"
_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Example:
    """One answer about one sample.

    Attributes:
        id: the sample's.
        split: its part.
        label: which label of a multilabel task, else "".
        target: what is true.
        predicted: what the model says.
        p: the probability of what the model says.
        unfamiliar: the out-of-distribution score, and whether the model abstains, in words; "" where nothing is known.
        note: why it has no map.
        said: the answer in words, where it is neither a class nor a probability.
    """

    id: str
    split: str
    label: str
    target: str
    predicted: str
    p: float
    unfamiliar: str = ""
    note: str = ""
    said: str = ""

    @property
    def right(self) -> bool:
        """Whether the model says what is true."""
        return self.target == self.predicted


@dataclass(frozen=True)
class Shown:
    """An example with its pictures, as addresses that hold them (``data:``); None where there is none."""

    example: Example
    image: str | None
    map: str | None


def reported_part(known: pd.DataFrame) -> pd.DataFrame:
    """The rows of the part that is reported: test, else val, else that of the first row.

    Args:
        known: rows of a predictions table with a target, at least one.
    """
    splits = [split for split in ("test", "val", *known["split"]) if (known["split"] == split).any()]
    found: pd.DataFrame = known[known["split"] == splits[0]]
    return found


def all_examples(frame: pd.DataFrame, task: Task) -> list[Example]:
    """Every answer with a known target, the most confident first; for multilabel one a label."""
    target, says, p_NC = targets(frame, task), predicted(frame, task), probabilities(frame, task)
    ids, splits, far = frame["id"].tolist(), frame["split"].tolist(), unfamiliar(frame)
    found = []
    for row in range(len(frame)):
        if task.several_columns:
            for label, name in enumerate(task.classes):
                if target[row, label] >= 0:
                    p = p_NC[row, label] if says[row, label] else 1 - p_NC[row, label]
                    truth, answer = (("no", "yes")[int(value[row, label])] for value in (target, says))
                    found.append(Example(ids[row], splits[row], name, truth, answer, float(p), far[row]))
        elif target[row] >= 0:
            classes, answer = task.classes, says[row]
            p = float(p_NC[row, answer])
            found.append(Example(ids[row], splits[row], "", classes[target[row]], classes[answer], p, far[row]))
    return sorted(found, key=lambda example: -example.p)


def pick_examples(frame: pd.DataFrame, task: Task, n: int) -> list[Example]:
    """The ``n`` most confident right and the ``n`` most confident wrong answers, spread over the true classes.

    Each class (and label) gives its most confident answer before any gives a second one; a sample is shown once.
    """
    picked: list[Example] = []
    for right in (True, False):
        queues: dict[tuple[str, str], list[Example]] = {}
        for example in all_examples(frame, task):
            # That a label is not there is the usual case, and rarely worth a picture.
            if example.right == right and not (task.several_columns and right and example.target == "no"):
                queues.setdefault((example.label, example.target), []).append(example)
        taken = 0
        while taken < n and any(queues.values()):
            for queue in queues.values():
                while queue and any(other.id == queue[0].id for other in picked):
                    queue.pop(0)
                if queue and taken < n:
                    picked.append(queue.pop(0))
                    taken += 1
    return picked


def read_examples(folder: Path, frame: pd.DataFrame, n: int) -> tuple[list[Shown], str]:
    """At most ``n`` right and ``n`` wrong examples of the samples of these predictions, and how they were drawn.

    Raises:
        InputError: ``examples.json`` is none.
    """
    file = folder / FILE
    if n == 0 or not file.is_file():
        return [], ""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found = [_example(about) for about in values["examples"]]
        how = str(values["how"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not an examples.json of medsoft ({error!r})") from error
    known = set(zip(frame["id"], frame["split"], strict=True))
    shown: list[Shown] = []
    ordered = sorted(found, key=lambda one: not one[0].right)
    kinds = dict.fromkeys((e.right, e.target if e.said else "") for e, _ in ordered)
    for kind in kinds:
        there = [(e, about) for e, about in found if (e.id, e.split) in known]
        of_kind = [(e, about) for e, about in there if (e.right, e.target if e.said else "") == kind]
        shown += [
            Shown(e, _data(folder, about.get("image")), _data(folder, about.get("map"))) for e, about in of_kind[:n]
        ]
    return shown, how


def write_examples(folder: Path, rows: Sequence[tuple[Example, str | None, str | None]], how: str) -> Path:
    """Write ``examples.json``; rows are examples with the names of their picture and their map."""
    from medsoft.evaluation.metrics.score import write_metrics

    listed = [
        {
            "id": example.id,
            "split": example.split,
            "label": example.label,
            "target": example.target,
            "predicted": example.predicted,
            "p": example.p,
            "unfamiliar": example.unfamiliar,
            "note": example.note,
            "said": example.said,
            "image": image,
            "map": map_,
        }
        for example, image, map_ in rows
    ]
    write_metrics({"format": 1, "how": how, "examples": listed}, folder / FILE)
    return folder / FILE


def _example(about: dict[str, Any]) -> tuple[Example, dict[str, Any]]:
    id_, split, label, target, says = (str(about[name]) for name in ("id", "split", "label", "target", "predicted"))
    further = {name: str(about.get(name, "")) for name in ("unfamiliar", "note", "said")}  # runs of before have none
    return Example(id_, split, label, target, says, float(about["p"]), **further), about


def _data(folder: Path, name: Any) -> str | None:
    """A picture as an address that holds it; None where there is none."""
    if not name:
        return None
    # A name only: what the file says must not lead out of its folder.
    file = folder / Path(str(name)).name
    kind = _TYPES.get(file.suffix.lower())
    if kind is None or not file.is_file():
        return None
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
