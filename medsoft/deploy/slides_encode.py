"""The verb ``slides encode``: from slides to one feature file a slide."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsoft.deploy.cluster import Cluster
from medsoft.deploy.workers import ClusterSettings, Workers
from medsoft.errors import InputError, check_range
from medsoft.parsing import call
from medsoft.slides.settings import TileSettings, TissueSettings

if TYPE_CHECKING:
    from medsoft.deploy.encoder import Encoder

MPP_MARGIN = 0.01
"""Resolutions that differ by less are the same."""


def encode(argv: Sequence[str]) -> int:
    """Encode the tiles of slides."""
    code: int = call(encode_tiles, argv, "slides encode", positional="slides", several=True)
    return code


def encode_tiles(
    slides: list[str],
    encoder: str,
    out: str,
    weights: str | None = None,
    weights_sha256: str | None = None,
    encoder_init: Literal["weights", "random"] = "weights",
    mean: str | None = None,
    std: str | None = None,
    input_px: int | None = None,
    encoder_args: str | None = None,
    mpp: float | None = None,
    tile: int | None = None,
    overlap: int = 0,
    slide_mpp: float | None = None,
    min_tissue: float = 0.25,
    tissue: TissueSettings = TissueSettings(),  # noqa: B008 (frozen)
    root: str | None = None,
    path: str = "path",
    id: str | None = None,
    slide_mpp_column: str = "mpp",
    on_error: Literal["error", "skip"] = "error",
    max_unreadable: float = 0.01,
    dtype: Literal["float16", "float32"] = "float16",
    batch: int = 64,
    workers: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "32", "16", "bf16"] = "auto",
    scheduler: str = "local",
    jobs: int | None = None,
    cluster: ClusterSettings = ClusterSettings(),  # noqa: B008 (frozen)
) -> int:
    """Turn the tiles of slides into features, one file a slide; slides that are done already are left as they are.

    Tissue and tiles are found first where they are not in the folder already, or were made with other settings.

    Args:
        slides: Files, folders or globs, or one table (.csv, .parquet) with one row a slide.
        encoder: A recipe (docs/encoders.md), the folder of a run of medsoft fit on tiles, or a model of timm.
        out: The folder for features/, slides.csv, tiles/, overviews/ and, where slides failed, errors.csv.
        weights: Local file with the encoder's weights, .safetensors or a state dict; or its name in MEDSOFT_WEIGHTS.
        weights_sha256: What the SHA-256 of that file must be.
        encoder_init: random takes seeded random weights, to try things out; the feature files say so.
        mean: Of a timm model without a recipe, the mean that it was trained with, as R,G,B for values from 0 to 1.
        std: Of a timm model without a recipe, the standard deviation that it was trained with, as R,G,B.
        input_px: Of a timm model without a recipe, the side of its input in pixels; by default the tile's.
        encoder_args: Of a timm model without a recipe, its keyword arguments as JSON, such as {"init_values":1e-5}.
        mpp: Resolution of the tiles in µm per pixel; by default the recipe's.
        tile: Side of a tile in pixels of that resolution; by default the recipe's.
        overlap: How far neighbouring tiles overlap, in pixels of that resolution.
        slide_mpp: Resolution of the slides' finest level in µm per pixel, in place of what the files say.
        min_tissue: Tiles with a smaller fraction of tissue are left out.
        tissue: How tissue is found.
        root: Folder that relative paths of a table start from; the table's own folder if not given.
        path: Column of the table with the files.
        id: Column of the table with unique names; made from the files' names if not given.
        slide_mpp_column: Column of the table with the resolution of each slide's finest level, used where it is there.
        on_error: skip goes on without slides of the table whose files are missing, and lists them in errors.csv.
        max_unreadable: A slide with a larger fraction of unreadable tiles fails.
        dtype: Of the stored features.
        batch: Tiles that are encoded together.
        workers: Threads that read tiles; by default as many as there are processors, 8 at most.
        device: Where to compute, auto, cpu, cuda or cuda:1.
        precision: Of the encoder; auto is 16 on a GPU, else 32.
        scheduler: Who works; local is this machine, slurm submits jobs, tcp://HOST:PORT is a Dask scheduler that runs.
        jobs: Processes that share the slides, or of slurm jobs at once; by default this process does all.
        cluster: What jobs of slurm ask for.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the call or the table is wrong, or the encoder cannot be built.
    """
    from medsoft.deploy.weights_said import check_said, weights_file
    from medsoft.slides.folder import SlidesFolder
    from medsoft.slides.progress import slides_progress
    from medsoft.slides.sources import find_slides
    from medsoft.slides.tile_slides import check_names

    processes = Workers(scheduler, jobs, cluster)
    check_range("workers", 1 if workers is None else workers, 1)
    check_range("batch", batch, 1)
    check_range("max_unreadable", max_unreadable, 0, 1)
    sources = find_slides(
        slides, slide_mpp=slide_mpp, root=root, path=path, id=id, slide_mpp_column=slide_mpp_column, on_error=on_error
    )
    folder = SlidesFolder(out)
    check_names(sources, folder)
    if encoder_init == "weights":
        check_said(encoder, weights)
    file = None if weights is None else weights_file(weights)

    # torch and timm wait until what needs neither is found to be right.
    from medsoft.deploy.cohort import ELSEWHERE, encode_with
    from medsoft.deploy.slide_tasks import EncodeOrder
    from medsoft.slides.disk_space import check_space

    build = _build(encoder, file, weights_sha256, encoder_init, mean, std, input_px, encoder_args, tile, precision)
    here = {"device": device} if processes.scheduler == "local" else ELSEWHERE
    chosen = build(**here)
    settings = _tile_settings(chosen, mpp, tile, overlap, min_tissue, tissue)
    check_space(sources, folder, settings, chosen.num_features, dtype)
    order = EncodeOrder(
        out=folder.path.absolute(),
        device=device,
        on_one_machine=processes.on_one_machine,
        build=build,
        sha256=chosen.sha256,
        settings=settings,
        dtype=dtype,
        batch=batch,
        workers=workers,
        max_unreadable=max_unreadable,
    )
    with Cluster(processes, folder) as group, slides_progress(len(sources), "encoding") as progress:
        encode_with(group, sources, folder, order, chosen, progress)
    kept = progress.kept_in_words()
    print(f"{progress.slides} slides{kept}, {progress.tiles} tiles encoded in this run: {folder.slides_csv}")
    if progress.failed:
        print(f"{progress.failed} failed: {folder.errors_csv}")
    return 3 if progress.failed else 0


def _build(
    name: str,
    file: Path | None,
    sha256: str | None,
    init: Literal["weights", "random"],
    mean: str | None,
    std: str | None,
    input_px: int | None,
    arguments: str | None,
    tile_px: int | None,
    precision: Literal["auto", "32", "16", "bf16"],
) -> Callable[..., Encoder]:
    from medsoft.deploy.encoders import Stated, build_encoder, is_plain, parse_three

    stated = Stated(
        None if mean is None else parse_three("--mean", mean),
        None if std is None else parse_three("--std", std),
        tile_px if input_px is None and is_plain(name) else input_px,
        _json(arguments),
    )
    # Other processes may run in other folders.
    if not is_plain(name) and Path(name).exists():
        name = str(Path(name).absolute())
    return partial(build_encoder, name, file, init, sha256, stated=stated, precision=precision)


def _json(arguments: str | None) -> dict[str, object] | None:
    if arguments is None:
        return None
    try:
        values = json.loads(arguments)
    except json.JSONDecodeError as error:
        raise InputError(f"--encoder-args {arguments}: no JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"--encoder-args {arguments}: must be names with values in braces")
    return values


def _tile_settings(
    encoder: Encoder, mpp: float | None, tile: int | None, overlap: int, min_tissue: float, tissue: TissueSettings
) -> TileSettings:
    """What was asked for, or else what the recipe says."""
    recipe = encoder.recipe
    mpp = recipe.tile_mpp if mpp is None else mpp
    if mpp is None:
        raise InputError(
            f"--encoder {recipe.name} has no resolution of its own: say that of the tiles, such as --mpp 0.5"
        )
    settings = TileSettings(mpp, recipe.tile_px if tile is None else tile, overlap, min_tissue, tissue)
    recipe.check_tile(settings.tile_px)
    print(
        f"Encoder {encoder.name}: {encoder.num_features} features from tiles of {settings.tile_px} px, {mpp:g} µm/px; "
        + (f"weights {encoder.sha256[:12]}…" if encoder.sha256 else "RANDOM weights, of no use but to try things out")
    )
    if recipe.tile_mpp is not None and abs(mpp / recipe.tile_mpp - 1) > MPP_MARGIN:
        print(f"It was trained on tiles at {recipe.tile_mpp:g} µm/px.")
    return settings
