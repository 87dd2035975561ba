"""The verb ``slides heatmap``: what each tile contributes to a class, for slides with existing features."""

from __future__ import annotations

from functools import partial

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import Workers
from medsoft.errors import InputError
from medsoft.inference.slides.options import NO_MAPS, ModelSource, PatientColumns
from medsoft.slides.annotations.settings import NO_REGIONS, RegionOptions
from medsoft.slides.find import find_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.progress import conclude, slides_progress
from medsoft.slides.source import SlideInput


def draw_heatmaps(
    which: SlideInput,
    out: str,
    source: ModelSource,
    who: PatientColumns,
    classes: str | list[str] | None = None,
    device: str = "auto",
    drawn: RegionOptions = NO_REGIONS,
) -> int:
    """Draw heatmaps of slides whose features are already in the folder.

    Args:
        which: the slides.
        out: Folder in which slides encode or slides predict wrote features/; heatmaps/ is written there too.
        source: of the model.
        who: whose the slides are.
        classes: Class, or several classes, to draw maps of in heatmaps/CLASS; by default one map, of the positive or
            predicted class.
        device: Device to compute on, such as auto, cpu, cuda or cuda:1.
        drawn: regions to compare the heatmaps with, in heatmaps_in_regions.csv.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the call is wrong.
    """
    folder = SlidesFolder(out)
    source.check()
    if drawn.region_keep is not None or drawn.region_min is not None:
        raise InputError("--region_keep and --region_min choose tiles: here regions are only compared with heatmaps")
    sources = find_slides(which)

    # torch waits until the slides are found.
    from medsoft.inference.slides.cases import find_cases, with_clinical
    from medsoft.inference.slides.existing_features import find_features
    from medsoft.inference.slides.model import SlideModel
    from medsoft.inference.slides.predict import HeatmapRequest
    from medsoft.inference.slides.predict_cohort import PredictJob, predict_slides
    from medsoft.inference.slides.regions import compare_with_regions
    from medsoft.slides.annotations.match import with_annotations

    with_regions = with_annotations(sources, drawn, (*drawn.classes, *drawn.excluded))
    models = source.find()
    if len(models) > 1:
        raise InputError(NO_MAPS)
    model = SlideModel(models, device)
    sources = with_clinical(sources, who)
    cases, other = find_cases(sources, model, who)
    if other:
        print(other)
    job = PredictJob(
        out=folder.path.absolute(),
        where=Workers(device=device),
        build=partial(SlideModel, models),
        heatmaps=HeatmapRequest.of(model.task, classes),
    )
    slide_statuses = find_features(sources, folder, model.identity)
    with Cluster(job.where, folder) as cluster, slides_progress(len(sources), "drawing") as progress:
        predict_slides(cases, slide_statuses, folder, job, model, cluster, progress)
    print(f"Heatmaps: {folder.path / 'heatmaps'}")
    if drawn.regions is not None:
        assert job.heatmaps is not None
        print(compare_with_regions(with_regions, folder, drawn, tuple(job.heatmaps.logit_targets) or ("",)))
    return conclude(progress, folder)
