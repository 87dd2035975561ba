"""The verb ``slides segment``: the class of every pixel of slides, as maps, outlines and areas."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import Workers
from medsoft.errors import InputError
from medsoft.parsing.options import Settings
from medsoft.runs.checkpoint_paths import check_holds_no_run
from medsoft.slides.find import find_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.segmentation.settings import SegmentOptions
from medsoft.slides.source import SlideInput
from medsoft.system.cores import usable_cores

MOST_READERS = 4


@dataclass(frozen=True)
class MaskSource(Settings):
    """The segmentation model.

    Attributes:
        checkpoint: Run of medsoft fit --config segmentation, a checkpoint in it, or a bundle; for an ensemble, repeat
            it for each member or name the folder of a cross-validation.
        recipe: Name of a published model, such as grandqc-artefacts-mpp1.5, in place of checkpoint.
        weights: For a recipe, the file of its weights, or its name in MEDSOFT_WEIGHTS.

    Raises:
        InputError: neither or both are given.
    """

    checkpoint: str | list[str] | None = None
    recipe: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if (self.recipe is None) != (self.weights is None):
            raise InputError("--recipe and --weights belong together: the name of a published model, and its file")
        if (self.checkpoint is None) == (self.recipe is None):
            raise InputError(
                "name the model with --checkpoint (a run of medsoft fit --config segmentation, or a bundle), or with "
                "--recipe and --weights; one of the two"
            )


def segment_table(
    which: SlideInput,
    out: str,
    source: MaskSource,
    segmenting: SegmentOptions,
    where: Workers,
) -> int:
    """Say the class of every pixel of slides with a segmentation model; slides that are already done are skipped.

    Args:
        which: the slides.
        out: Folder for segmentation/ (maps, outlines, pictures), areas.csv, slides.csv and, if slides failed,
            errors.csv.
        source: of the model.
        segmenting: how slides are shown to it.
        where: the work runs.

    Returns:
        0, or 3 if slides failed or most of them have no tissue.

    Raises:
        InputError: the call or the table is wrong, or the model is none that segments slides.
    """
    folder = SlidesFolder(out)
    check_holds_no_run(out)
    sources = find_slides(which)

    # torch and the readers wait until what needs neither is found to be right.
    from functools import partial

    from medsoft.inference.segmentation.cohort import SegmentJob, segment_slides
    from medsoft.inference.segmentation.model import Named, SlideMasks, names_of
    from medsoft.inference.segmentation.tile_models import resolved_tissue
    from medsoft.slides.progress import conclude, slides_progress
    from medsoft.slides.segmentation.mask_model import TileModels
    from medsoft.slides.segmentation.run import TABLE, write_areas
    from medsoft.slides.segmentation.segment import WindowSettings

    given = source.weights if source.checkpoint is None else source.checkpoint
    assert given is not None, "checked by MaskSource"
    option = "--weights" if source.recipe else "--checkpoint"
    named = Named(option, names_of(given), source.recipe or "", segmenting.tile)
    build = partial(SlideMasks, named, precision=segmenting.precision)
    model = build(device=where.device_here)
    settings = segmenting.resolved(model.side, model.built.mpp)
    tissue, of_tissue = resolved_tissue(segmenting.tissue, where.device_here)
    settings = replace(settings, tissue=tissue)
    workers = min(MOST_READERS, usable_cores()) if segmenting.workers is None else segmenting.workers
    windows = WindowSettings(
        settings.mpp, settings.overlap_px, segmenting.batch_size, workers, segmenting.max_unreadable
    )
    print(
        f"Model {model.name}: {', '.join(model.classes)}; windows of {model.side} px at {settings.mpp:g} µm/px, "
        f"{settings.overlap_px} px overlap"
    )
    folder.path.mkdir(parents=True, exist_ok=True)
    job = SegmentJob(
        out=folder.path.absolute(),
        where=where,
        build=build,
        settings=settings,
        windows=windows,
        models=TileModels(tissue=of_tissue, scratch=folder.path.absolute()),
    )
    with (
        Cluster(where, folder) as cluster,
        slides_progress(len(sources), "segmenting", words=("slides", "windows")) as progress,
    ):
        segment_slides(sources, folder, job, model, cluster, progress)
    write_areas(folder, sources, model.classes)
    print(f"{progress.slides} slides{progress.kept_in_words()}: {folder.path / TABLE}")
    return conclude(progress, folder)
