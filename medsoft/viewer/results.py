"""The cases of a run's folder and of a folder of slides: rows of their tables, and the files that belong to each."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medsoft.data.features.names import is_bag_name
from medsoft.data.tables.reading import load_source, require_columns, text
from medsoft.data.tables.sample_table import read_table
from medsoft.data.volumes.rows import VolumeFiles, path_columns
from medsoft.errors import InputError
from medsoft.evaluation.examples import FILE as EXAMPLES
from medsoft.evaluation.report.run import RunFacts, read_run
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.runs.run_folder import RunFolder
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.heatmaps.write import about_heatmap
from medsoft.storage.own_files import read_json_object
from medsoft.viewer.cases import Case, Kind, Place, is_inside, kind_of_file
from medsoft.viewer.rows import rows_of

OF_DATA: dict[str, Kind] = {"image": "picture", "volume": "volume"}
"""How the samples of a run are shown, by the short name of its data module; of others each file says it."""

NOT_HERE = "its file is not where the table says"


@dataclass
class _Sample:
    """What is known of a sample beside its prediction."""

    path: str = ""
    kind: Kind = "none"
    mpp: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def is_results(folder: Path) -> bool:
    """Whether a folder is that of a run, or one that ``medsoft slides`` wrote."""
    return any((folder / name).is_file() for name in ("config.yaml", "predictions.csv", "slides.csv"))


def find_results(folder: Path, place: int, patients: bool) -> tuple[Place, list[Case], list[str]]:
    """The cases of a folder of results.

    Args:
        folder: for which ``is_results`` holds.
        place: its index.
        patients: whether columns of patients are shown.

    Returns:
        The place, its cases, and what could not be found.

    Raises:
        InputError: one of its files is damaged.
    """
    run, notes, about = RunFolder(folder), [], []
    samples: dict[str, _Sample] = {}
    facts = None
    if run.config.is_file():
        facts = read_run(folder)
        samples, said = _of_table(facts)
        notes += said
        about += [f"run: {facts.name}"]
    samples |= _of_slides(SlidesFolder(folder))
    columns: tuple[dict[str, str], ...] = ()
    cases = []
    if run.predictions.is_file():
        frame, task = read_predictions(run.predictions)
        rows, columns = rows_of(frame, task, patients)
        keys = zip(frame["id"], frame["split"], frame["fold"], rows, strict=True)
        cases = [_case(id, samples.get(id), place, split, fold, row) for id, split, fold, row in keys]
        about += [f"task: {task}", f"{len(frame)} predictions"]
    else:
        cases = [_case(id, sample, place) for id, sample in samples.items()]
    if not cases:
        raise InputError(f"{folder}: holds no predictions, and no slides that are listed: nothing to show")
    pictures, maps = _examples(run), _maps(run)
    cases = [_with_files(case, folder, pictures, maps) for case in cases]
    report = run.report if run.report.is_file() and is_inside(run.report, [folder.resolve()]) else None
    return Place(folder.resolve().name, folder, report, columns, tuple(about)), cases, notes


def _case(
    id: str, sample: _Sample | None, place: int, split: str = "", fold: str = "", row: Mapping[str, Any] | None = None
) -> Case:
    found = sample or _Sample()
    kind, missing = found.kind, ""
    if not found.path:
        kind, missing = "none", "no table that is here says where its file is"
    elif not os.path.exists(found.path.partition("#")[0]):  # noqa: PTH110 (a path may have a place in the file behind it)
        kind, missing = "none", NOT_HERE
    elif kind == "none":
        missing = "its file is of no kind that can be shown"
    return Case(id, kind, place, found.path, split, fold, found.mpp, missing=missing, row=dict(row or {}))


def _of_table(facts: RunFacts) -> tuple[dict[str, _Sample], list[str]]:
    """Where the samples of a run are, by id, as its table says."""
    table = facts.option("data", "table")
    if not isinstance(table, str) or not table:
        return {}, []
    if not Path(table.partition("#")[0]).is_file():
        return {}, [
            f"{facts.path}: its table is not here any more ({Path(table).name}): the predictions have no pictures"
        ]
    kind = OF_DATA.get(str(facts.option("use", "data") or "image"))

    def option(name: str, default: Any = None) -> Any:
        given = facts.option("data", name)
        return default if given is None else given

    try:
        source = load_source(table)
        columns = path_columns(source, option("path", "path"))
        base = Path(os.path.abspath(option("root") or Path(table).parent))  # noqa: PTH100 (as read_table does)
        require_columns(table, source.columns, {"path": columns})
        laterality = option("laterality") if kind == "volume" else None
        files = None
        if kind == "volume":
            files = VolumeFiles(table, source, base, columns, option("missing", "error"), laterality, None)
        samples = read_table(
            table,
            source=source,
            files=files,
            root=option("root"),
            path=columns[0],
            label=None,
            id=option("id"),
            split=None,
            require_labels=False,
            on_error="keep",
            placeholders=option("placeholders"),
        )
        if laterality and option("id") is None and files is not None:
            from medsoft.data.datasets.volume_module import named_by_side  # MONAI waits until there are sides

            samples = named_by_side(samples, files)
    except InputError as error:
        return {}, [f"{facts.path}: the predictions have no pictures, as its table cannot be read: {error}"]
    found = {}
    paths = text(samples.frame["path"])
    for id, path in zip(samples.frame["id"], paths, strict=True):
        of_features = kind is None and is_bag_name(path)
        found[str(id)] = _Sample("" if of_features else path, kind or kind_of_file(path))
    return found, []


def _of_slides(folder: SlidesFolder) -> dict[str, _Sample]:
    """The slides of ``slides.csv``, with the resolution that somebody stated."""
    found = {}
    for id, row in folder.rows().items():
        stated = row.get("mpp_origin") in ("option", "table") and row.get("mpp")
        path = row.get("path", "")
        kind: Kind = "none" if is_bag_name(path) else "slide"
        found[id] = _Sample("" if kind == "none" else path, kind, float(row["mpp"]) if stated else None)
    return found


def _examples(run: RunFolder) -> dict[tuple[str, str], Path]:
    """Pictures of contributions that the run drew, by id and split."""
    file = run.examples / EXAMPLES
    if not file.is_file():
        return {}
    found: dict[tuple[str, str], Path] = {}
    listed = read_json_object(file).get("examples")
    for example in listed if isinstance(listed, list) else []:
        name = example.get("map") if isinstance(example, dict) else None
        if isinstance(name, str) and name and is_inside(path := run.examples / name, [run.path.resolve()]):
            found.setdefault((str(example.get("id")), str(example.get("split", ""))), path)
    return found


def _maps(run: RunFolder) -> dict[tuple[str, str], Path]:
    """Maps of volumes, by id and split."""
    file = run.maps / "maps.csv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("nifti")]
    paths = {(row["id"], row["split"]): run.maps / row["nifti"] for row in rows}
    return {key: path for key, path in paths.items() if is_inside(path, [run.path.resolve()])}


def _with_files(
    case: Case, folder: Path, pictures: Mapping[tuple[str, str], Path], maps: Mapping[tuple[str, str], Path]
) -> Case:
    key = (case.name, case.split)
    if case.kind != "slide":
        return replace(case, example=pictures.get(key), map=maps.get(key))
    names = SlidesFolder(folder)
    drawn = tuple(path for path in (names.heatmap(case.name, ".geojson"),) if path.is_file())
    return replace(
        case,
        contributions=dict(_contributions(names, case.name)),
        features=_if_there(names.features(case.name)),
        tiles=_if_there(names.tiles(case.name)),
        regions=drawn,
        drawn=drawn,
    )


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _contributions(folder: SlidesFolder, id: str) -> Iterator[tuple[str, Path]]:
    """The tables of contributions of a slide: that of its class, and those of classes that were asked for."""
    heatmaps = folder.path / "heatmaps"
    classes = sorted(inside for inside in heatmaps.iterdir() if inside.is_dir()) if heatmaps.is_dir() else []
    for path in (folder.heatmap(id, ".csv"), *(inside / f"{id}.csv" for inside in classes)):
        if path.is_file():
            name = str(about_heatmap(path.with_suffix(".json")).get("class") or path.parent.name)
            yield (name if path.parent == heatmaps else path.parent.name), path
