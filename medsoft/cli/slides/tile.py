"""The verb ``slides tile``: tissue, tiles and a picture of every slide; a failed slide does not stop the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from medsoft.errors import InputError, check_range
from medsoft.slides.annotations.settings import NO_REGIONS, RegionOptions
from medsoft.slides.find import find_slides
from medsoft.slides.source import SlideInput, SlideSource
from medsoft.slides.tiling.settings import TilingOptions
from medsoft.system.cores import usable_cores

if TYPE_CHECKING:
    from medsoft.slides.folder import SlideStatus

MOST_WORKERS = 4


def tile_slides(
    which: SlideInput,
    out: str,
    tiling: TilingOptions,
    workers: int | None = None,
    drawn: RegionOptions = NO_REGIONS,
    save_tiles: Literal["png", "jpeg", "hdf5", "table"] | None = None,
    region_other: str | None = None,
    device: str = "auto",
) -> int:
    """Find the tissue of slides and cover it with tiles; slides that are already done are skipped.

    Args:
        which: the slides.
        out: Folder for slides.csv, tiles/, overviews/, saved tiles and, if slides failed, errors.csv.
        tiling: which tiles; resolution and size must be given.
        workers: Number of slides processed at the same time; one per processor by default, 4 at most.
        drawn: regions that decide which tiles are kept.
        save_tiles: Save the tiles too, as PNG, JPEG or one HDF5 file per slide in tile_images/, and list them with
            their labels in tiles.csv; table only lists them, to be read from the slides.
        region_other: Label in tiles.csv of tiles of which more than half lies in no region; by default they are not
            listed.
        device: Device of models that find tissue or artefacts, such as auto, cpu, cuda or cuda:1.

    Returns:
        0, or 3 if slides failed or most of them have no tissue.

    Raises:
        InputError: the call or the table is wrong.
    """
    settings = tiling.settings(regions=drawn.settings())
    workers = min(MOST_WORKERS, usable_cores()) if workers is None else workers
    check_range("workers", workers, 1)
    if region_other is not None and (save_tiles is None or drawn.regions is None):
        raise InputError("--region_other labels tiles in tiles.csv: it needs --save-tiles and --regions")
    sources = find_slides(which)
    if save_tiles == "table" and any(source.url for source in sources):
        raise InputError(
            "--save-tiles table lists tiles that are read from their slides later, and some slides are not on this "
            "machine: take --save-tiles png, jpeg or hdf5"
        )

    # OpenCV, shapely and the readers of slides wait until the call is found to be right.
    from medsoft.slides.annotations.match import with_annotations
    from medsoft.slides.encoding.prefetch import each_in_threads
    from medsoft.slides.folder import SlidesFolder
    from medsoft.slides.progress import conclude, slides_progress
    from medsoft.slides.tiling.run import check_names, tile_one
    from medsoft.slides.tiling.tiles_out import TilesOut

    folder = SlidesFolder(out)
    if settings.names_models:
        from medsoft.inference.segmentation.tile_models import with_models  # torch, which others do without

        folder.path.mkdir(parents=True, exist_ok=True)
        settings = with_models(settings, device, folder.path)
    check_names(sources, folder)
    sources = with_annotations(sources, drawn, (*drawn.classes, *drawn.excluded))
    folder.tidy()
    tiles = TilesOut(folder, save_tiles, drawn, region_other) if save_tiles else None

    def one(source: SlideSource) -> SlideStatus:
        slide_status = tile_one(source, folder, settings)
        return tiles.take(source, slide_status) if tiles else slide_status

    with slides_progress(len(sources), "tiling") as progress, folder.recording():
        for source, slide_status in each_in_threads(one, sources, workers, progress.look):
            progress.advance(slide_status.tiles or 0)
            progress.done(source, slide_status)
    print(f"{progress.slides} slides, {progress.tiles} tiles{progress.kept_in_words()}: {folder.slides_csv}")
    if tiles:
        print(tiles.write(sources))
    return conclude(progress, folder)
