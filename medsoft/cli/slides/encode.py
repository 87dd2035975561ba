"""The verb ``slides encode``: from slides to one feature file per slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import Workers
from medsoft.encoders.requirements import EncoderOptions
from medsoft.errors import InputError
from medsoft.slides.annotations.settings import NO_REGIONS, RegionOptions, RegionSettings
from medsoft.slides.find import find_slides
from medsoft.slides.source import SlideInput
from medsoft.slides.tiling.settings import EncodingSettings, TileSettings, TilingOptions

if TYPE_CHECKING:
    from medsoft.encoders.encoder import Encoder

MPP_MARGIN = 0.01
"""Resolutions that differ by less are the same."""


def encode_tiles(
    which: SlideInput,
    encoder: EncoderOptions,
    out: str,
    tiling: TilingOptions,
    encoding: EncodingSettings,
    where: Workers,
    dtype: Literal["float16", "float32"] = "float16",
    drawn: RegionOptions = NO_REGIONS,
) -> int:
    """Turn the tiles of slides into features, one file per slide; slides that are already done are skipped.

    Tissue and tiles are found first where they are not in the folder already, or were made with other settings.

    Args:
        which: the slides.
        encoder: from tiles to features.
        out: Folder for features/, slides.csv, tiles/, overviews/ and, if slides failed, errors.csv.
        tiling: which tiles.
        encoding: how they are read and encoded.
        where: the work runs.
        dtype: Data type of the stored features.
        drawn: regions that decide which tiles are kept.

    Returns:
        0, or 3 if slides failed or most of them have no tissue.

    Raises:
        InputError: the call or the table is wrong, or the encoder cannot be built.
    """
    from medsoft.slides.annotations.match import with_annotations
    from medsoft.slides.folder import SlidesFolder
    from medsoft.slides.progress import conclude, slides_progress
    from medsoft.slides.tiling.run import check_names

    regions = drawn.settings()
    sources = find_slides(which)
    folder = SlidesFolder(out)
    check_names(sources, folder)
    sources = with_annotations(sources, drawn, (*drawn.classes, *drawn.excluded))
    file = encoder.file()

    # torch and timm wait until what needs neither is found to be right.
    from medsoft.encoders.build import builder_of
    from medsoft.inference.slides.encode_cohort import EncodeJob, encode_slides
    from medsoft.slides.disk_space import check_space

    build = builder_of(encoder, file, tiling.tile, encoding.precision, encoding.engine)
    here = build(device=where.device_here, precision=where.precision_here(encoding.precision))
    tiles = _tiles(here, tiling, regions)
    if tiles.names_models:
        from medsoft.inference.segmentation.tile_models import with_models

        folder.path.mkdir(parents=True, exist_ok=True)
        tiles = with_models(tiles, where.device_here, folder.path.absolute())
    check_space(sources, folder, tiles, here.num_features, dtype)
    job = EncodeJob(
        out=folder.path.absolute(),
        where=where,
        build=build,
        sha256=here.sha256,
        tiles=tiles,
        encoding=encoding,
        dtype=dtype,
    )
    with Cluster(where, folder) as cluster, slides_progress(len(sources), "encoding") as progress:
        encode_slides(sources, folder, job, here, cluster, progress)
    kept = progress.kept_in_words()
    print(f"{progress.slides} slides{kept}, {progress.tiles} tiles encoded in this run: {folder.slides_csv}")
    return conclude(progress, folder)


def _tiles(encoder: Encoder, tiling: TilingOptions, regions: RegionSettings | None) -> TileSettings:
    """What was asked for, or else what the recipe says."""
    recipe = encoder.recipe
    if tiling.quality == "measure":
        raise InputError("--quality measure changes no tile: take it with slides tile, or --quality filter here")
    if tiling.mpp is None and recipe.tile_mpp is None:
        raise InputError(
            f"--encoder {recipe.name} has no resolution of its own: say that of the tiles, such as --mpp 0.5"
        )
    tiles = tiling.settings(recipe.tile_mpp, recipe.tile_px, regions)
    recipe.check_tile(tiles.tile_px)
    print(
        f"Encoder {encoder.name}: {encoder.num_features} features from tiles of {tiles.tile_px} px, "
        f"{tiles.mpp:g} µm/px; "
        + (f"weights {encoder.sha256[:12]}…" if encoder.sha256 else "RANDOM weights, only for trying things out")
    )
    if encoder.note:
        print(encoder.note)
    if recipe.tile_mpp is not None and abs(tiles.mpp / recipe.tile_mpp - 1) > MPP_MARGIN:
        print(f"It was trained on tiles at {recipe.tile_mpp:g} µm/px.")
    return tiles
