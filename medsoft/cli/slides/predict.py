"""The verb ``slides predict``: from slides to probabilities, heatmaps and a report."""

from __future__ import annotations

from pathlib import Path

from medsoft.cluster.options import Workers
from medsoft.encoders.requirements import weights_file
from medsoft.inference.slides.options import ModelSource, PatientColumns, ReportSettings, TruthColumns
from medsoft.runs.checkpoint_paths import check_holds_no_run
from medsoft.slides.annotations.settings import NO_REGIONS, RegionOptions
from medsoft.slides.find import find_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.source import SlideInput
from medsoft.slides.tiling.settings import EncodingSettings, HeatmapSettings, TrainedTiles


def predict_table(
    which: SlideInput,
    out: str,
    source: ModelSource,
    who: PatientColumns,
    columns: TruthColumns,
    heatmaps: HeatmapSettings,
    reported: ReportSettings,
    encoding: EncodingSettings,
    where: Workers,
    tiles: TrainedTiles,
    encoder: str | None = None,
    weights: str | None = None,
    drawn: RegionOptions = NO_REGIONS,
) -> int:
    """Predict slides with a trained slide classifier: tissue, tiles, features, probabilities, heatmaps and a report.

    Tiles and encoder are those of the training, as the checkpoint records them. What is there already is used again.

    Args:
        which: the slides.
        out: Folder for predictions.csv, slides.csv, tiles/, features/, heatmaps/, report.html and errors.csv.
        source: of the model.
        who: whose the slides are.
        columns: of the table.
        heatmaps: to draw.
        reported: what is made of the predictions.
        encoding: how tiles are read and encoded.
        where: the work runs.
        tiles: of the training, to check.
        encoder: Name of the encoder, to be checked against the checkpoint's; the folder of its run if medsoft trained
            it.
        weights: Local file with the encoder's weights, or its name in MEDSOFT_WEIGHTS; its SHA-256 must match that of
            the training.
        drawn: regions that decide which tiles are kept, as they did in the training.

    Returns:
        0, or 3 if slides failed.

    Raises:
        InputError: the call is wrong, or does not fit the checkpoint.
    """
    folder = SlidesFolder(out)
    check_holds_no_run(out)
    source.check()
    file = weights_file(weights) if weights else None
    sources = find_slides(which)
    if who.clinical is not None:
        from medsoft.inference.slides.cases import with_clinical

        sources = with_clinical(sources, who)

    # torch and timm wait until what needs neither is found to be right.
    from medsoft.encoders.from_checkpoint import NamedEncoder
    from medsoft.workflows.slides_predict import SlidesJob, predict_slides

    # Other processes may run in other folders.
    encoder = str(Path(encoder).absolute()) if encoder and Path(encoder).exists() else encoder
    named = NamedEncoder(encoder, file)
    return predict_slides(
        SlidesJob(sources, folder, source, who, columns, heatmaps, reported, encoding, where, tiles, named, drawn)
    )
