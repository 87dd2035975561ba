"""``rows.csv``: hashes of the rows of a training's table, and comparison with another table.

With it a run knows that its table has changed (rows, labels, parts, contents), and another table that holds rows which
a model was trained on is recognised, by content, by file or by name. Ids and labels cannot be read off the hashes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medsoft.data.tables.reading import text
from medsoft.data.tables.split import UNUSED
from medsoft.errors import InputError
from medsoft.storage.files import replacing
from medsoft.storage.fingerprints import row_hash
from medsoft.text.spelling import is_placeholder, normal_form

if TYPE_CHECKING:
    from medsoft.runs.checkpoint_paths import Checkpoint

ROWS = "rows.csv"
COLUMNS = ("id", "label", "split", "table_split", "path", "content")
"""Hashes of the id, of id and label, the part, the part that the table itself names, hashes of path and content."""
DIGITS = 16
SHOWN = 5
CONTENTS = "contents.csv"
"""In a bundle, in place of ``rows.csv``: part and content alone, from which no name can be guessed."""
LABELS = "labels.json"
"""Beside ``rows.csv``, where values of the label column are grouped as positive and negative: which there were."""
LEARNT_FROM = ("train", "val")
PARTS = ("", "train", "val", "test", UNUSED)


@dataclass(frozen=True)
class Changes:
    """How a table differs from that of a training, in rows."""

    new: int = 0
    gone: int = 0
    labels: int = 0
    splits: int = 0
    contents: int = 0

    def __bool__(self) -> bool:
        return any((self.new, self.gone, self.labels, self.splits, self.contents))

    def accepted(self, table: object) -> list[str]:
        """What to say of a table that is taken as it is; nothing where it has not changed."""
        return [f"WARNING: {table} has changed, and is accepted as it is: {self}"] if self else []

    def __str__(self) -> str:
        told = {
            "new": self.new,
            "gone": self.gone,
            "with another label": self.labels,
            "in another part": self.splits,
            "with another content": self.contents,
        }
        return ", ".join(f"{n} row{'s' if n != 1 else ''} {what}" for what, n in told.items() if n)


@dataclass(frozen=True)
class Seen:
    """Rows of a table that a model has seen before.

    Attributes:
        train: how many were trained on.
        val: how many chose its checkpoint.
        rows: of the table's rows at hand.
    """

    train: int
    val: int
    rows: int

    def __bool__(self) -> bool:
        return bool(self.train or self.val)

    def __str__(self) -> str:
        how = [f"this model was trained on {self.train} of these {self.rows} rows"] if self.train else []
        how += [f"{self.val} of these {self.rows} rows chose its checkpoint"] if self.val else []
        return f"OPTIMISTIC: {', and '.join(how)} (by content, file or id): figures that include them are too good"


def rows_of(data: Any) -> pd.DataFrame:
    """What the table of a data module says; contents of the parts that are loaded, "" of the others."""
    frame = data.all_rows
    targets = [name for name in data.task.target_columns if name in frame]
    answers = frame[targets].astype(object).where(frame[targets].notna(), "")
    contents: dict[str, str] = data.contents
    columns = {
        "id": [_short(id) for id in frame["id"]],
        "label": [_short(id, *values) for id, values in zip(frame["id"], answers.itertuples(index=False), strict=True)],
        "split": frame["split"].tolist(),
        "table_split": [data.table_splits.get(id, "") for id in frame["id"]],
        "path": [_short(path) for path in frame["path"]],
        "content": [contents.get(id, "")[:DIGITS] for id in frame["id"]],
    }
    return pd.DataFrame(columns, dtype=object)


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write ``rows.csv``.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        rows[list(COLUMNS)].to_csv(temporary, index=False, lineterminator="\n")


def read_rows(path: Path) -> pd.DataFrame:
    """Read ``rows.csv``.

    Raises:
        InputError: it is damaged.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # among others pandas' own for what is no CSV
        raise InputError(f"{path}: is damaged: {str(error).splitlines()[0]}") from None
    if tuple(rows.columns) != COLUMNS:
        raise InputError(f"{path}: is damaged: its columns are not {', '.join(COLUMNS)}")
    of_hashes = rows[["id", "label", "path"]]
    whole = of_hashes.apply(lambda column: column.str.fullmatch(f"[0-9a-f]{{{DIGITS}}}"))
    if not (whole.all(axis=None) and rows["split"].isin(PARTS).all() and rows["id"].is_unique):
        raise InputError(f"{path}: is damaged: it was cut short or altered")
    return rows


def write_contents(rows: Path, path: Path) -> bool:
    """Write what a bundle says of the rows of its training, ordered by their hashes; False where nothing is known.

    Raises:
        InputError: ``rows.csv`` is damaged.
        OSError: the file cannot be written.
    """
    known = read_rows(rows) if rows.is_file() else pd.DataFrame(columns=[*COLUMNS])
    known = known[known["split"].isin(LEARNT_FROM) & (known["content"] != "")]
    if len(known):
        with replacing(path) as temporary:
            known[["split", "content"]].sort_values("content").to_csv(temporary, index=False, lineterminator="\n")
    return bool(len(known))


def _read_learnt(file: Path) -> pd.DataFrame | None:
    """The rows that a model has learnt from, of a run or a bundle; None where nobody has kept them."""
    if file.is_file():
        rows = read_rows(file)
    elif (short := file.with_name(CONTENTS)).is_file():
        try:
            rows = pd.read_csv(short, dtype=str, keep_default_na=False).assign(id="", path="")
        except (OSError, ValueError) as error:
            raise InputError(f"{short}: is damaged: {str(error).splitlines()[0]}") from None
        if not {"split", "content"} <= set(rows.columns):
            raise InputError(f"{short}: is damaged: it has no columns split and content")
    else:
        return None
    return rows[rows["split"].isin(LEARNT_FROM)]


def changes(before: pd.DataFrame, now: pd.DataFrame) -> Changes:
    """How a table differs from that of a training; contents count where both are known."""
    both = before.merge(now, on="id", suffixes=("", "_now"))
    known = (both["content"] != "") & (both["content_now"] != "")
    return Changes(
        new=int((~now["id"].isin(before["id"])).sum()),
        gone=int((~before["id"].isin(now["id"])).sum()),
        labels=int((both["label"] != both["label_now"]).sum()),
        splits=int((both["table_split"] != both["table_split_now"]).sum()),
        contents=int((known & (both["content"] != both["content_now"])).sum()),
    )


def require_same_table(rows: Path, now: pd.DataFrame, table: object, accept: bool) -> Changes:
    """Compare a table with what it said when a model was trained on it.

    Args:
        rows: ``rows.csv`` of the training; one of an earlier version of medsoft has none, and nothing is compared.
        now: of ``rows_of``.
        table: its name, for the message.
        accept: go on with the table as it is.

    Raises:
        InputError: it has changed, and this is not accepted.
    """
    found = changes(read_rows(rows), now) if rows.is_file() else Changes()
    if found and not accept:
        raise InputError(
            f"{table}: has changed since the model of {rows.parent} was trained on it, or is read with other options: "
            f"{found}. Restore it, or train anew; --changed_table accept goes on with the table as it is now"
        )
    return found


def seen_before(rows: list[Path], now: pd.DataFrame, splits: list[str]) -> Seen:
    """Which rows at hand models were trained on.

    A row is one of the training where its content is the same, or its file; or its id, unless the contents are known to
    differ, as names such as 0001 are given everywhere.

    Args:
        rows: ``rows.csv`` of each model; those that are not there say nothing.
        now: of ``rows_of``.
        splits: the parts at hand.
    """
    at_hand = now[now["split"].isin(splits)]
    how = np.full(len(at_hand), "", dtype=object)
    for file in rows:
        learnt = _read_learnt(file)
        if learnt is None:
            continue
        for part in reversed(LEARNT_FROM):
            of_part = learnt[learnt["split"] == part]
            content_of = dict(zip(of_part["id"], of_part["content"], strict=True))
            before = at_hand["id"].map(content_of)
            by_id = before.notna() & ((before == "") | (at_hand["content"] == "") | (before == at_hand["content"]))
            by_content = (at_hand["content"] != "") & at_hand["content"].isin(of_part["content"])
            how[(by_id | by_content | at_hand["path"].isin(of_part["path"])).to_numpy()] = part
    return Seen(int((how == "train").sum()), int((how == "val").sum()), len(at_hand))


def label_values(data: Any, config: Any) -> list[str]:
    """The values of a label column that ``data.positive`` groups; none where it groups nothing."""
    column, frame = config.data.get("label"), data.samples.frame
    if config.data.get("positive") is None or not isinstance(column, str) or column not in frame:
        return []
    return sorted({value for value in text(frame[column]) if value and not is_placeholder(value)})


def write_labels(data: Any, config: Any, run: Path) -> None:
    """Write which label values a training has grouped as positive and negative.

    Raises:
        OSError: the file cannot be written.
    """
    if values := label_values(data, config):
        with replacing(run / LABELS) as temporary:
            temporary.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")


def require_known_labels(data: Any, config: Any, run: Path) -> None:
    """Refuse labels that the training did not have: all that is not positive would count as negative.

    Raises:
        InputError: there are such labels, or the file of the run is damaged.
    """
    if not (run / LABELS).is_file():
        return
    try:
        known = {normal_form(str(value)) for value in json.loads((run / LABELS).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        raise InputError(f"{run / LABELS}: is damaged: it is not a list of labels") from None
    unknown = [value for value in label_values(data, config) if normal_form(value) not in known]
    if unknown:
        shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        raise InputError(
            f"{data.samples.source}: the label column {config.data.label!r} holds {shown}, which the training of {run} "
            "did not have: they would count as negative. Correct the labels, or predict without them (--data.label "
            "null)"
        )


def check_rows(data: Any, verb: str, splits: list[str], config: Any, members: Sequence[Checkpoint]) -> list[str]:
    """Compare the rows at hand with those that models were trained on, and keep what was found in ``data.seen``.

    Args:
        data: a data module, with loaded parts.
        verb: validate, test or predict.
        splits: the parts at hand.
        config: of the command line.
        members: the models.

    Returns:
        What to say first.

    Raises:
        InputError: validate or test, and the table is that of the training but has changed.
    """
    now = rows_of(data)
    without_contents = now.assign(content="")
    runs = [member.config.parent for member in members if member.config]
    features = {run: _features_of(run) for run in runs}
    several = len(set(features.values())) > 1  # members of an ensemble that read different features: one is at hand
    alike = {run: not several or own == _place(config.data.get("features")) for run, own in features.items()}
    said = []
    for run in runs:
        if verb != "predict" and _is_of(data.samples.source, run):
            rows = now if alike[run] else without_contents
            changed = require_same_table(run / ROWS, rows, data.samples.source, config.changed_table == "accept")
            data.changed = str(changed)
            said += changed.accepted(data.samples.source)
        require_known_labels(data, config, run)
    # What validate is about chose the checkpoint, as everybody knows who asks for it.
    seen = seen_before([run / ROWS for run in runs], now if all(alike.values()) else without_contents, splits)
    data.seen = Seen(seen.train, 0, seen.rows) if verb == "validate" else seen
    return [*dict.fromkeys(said), *([str(data.seen)] if data.seen else [])]


def _is_of(table: Path, run: Path) -> bool:
    """Whether a run was trained on this very file."""
    named = _named(run, "table")
    return isinstance(named, str) and Path(named).resolve() == Path(table).resolve()


def _features_of(run: Path) -> str:
    """The folder of the features that a training has read; "" for images."""
    return _place(_named(run, "features")) if (run / "config.yaml").is_file() else ""


def _place(folder: object) -> str:
    return str(Path(folder).resolve()) if isinstance(folder, str) else ""


def _named(run: Path, option: str) -> object:
    """What the configuration of a run says under ``data``."""
    from medsoft.parsing.configurations import read_configuration

    own = read_configuration(run / "config.yaml").get("data")
    return own.get(option) if isinstance(own, dict) else None


def _short(*values: object) -> str:
    return row_hash(*values)[:DIGITS]
