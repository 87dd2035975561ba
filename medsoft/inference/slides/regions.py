"""Compares the heatmaps of a folder with regions that somebody drew on the slides."""

from __future__ import annotations

from collections.abc import Sequence

from medsoft.data.features.open import open_bag
from medsoft.errors import BagError, SlideError
from medsoft.inference.slides.existing_features import features_of
from medsoft.slides.annotations.settings import RegionOptions
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.heatmaps.compare import TABLE, InRegions, compare_heatmap, write_comparison
from medsoft.slides.source import SlideSource


def compare_with_regions(
    sources: Sequence[SlideSource], folder: SlidesFolder, drawn: RegionOptions, names: Sequence[str]
) -> str:
    """Write ``heatmaps_in_regions.csv`` of the slides that have heatmaps and regions.

    Args:
        sources: the slides, with their annotations.
        folder: of the heatmaps.
        drawn: which regions count.
        names: folders of the heatmaps below heatmaps/; "" for the default ones.

    Returns:
        The result in words, with what could not be compared.

    Raises:
        OSError: the table cannot be written.
    """
    rows: list[InRegions] = []
    problems = []
    for source in sources:
        if source.annotations is None:
            continue
        try:
            with open_bag(features_of(source, folder)) as bag:
                facts = bag.slide_facts
            for name in names:
                table = folder.heatmap(f"{name}/{source.id}" if name else source.id, ".csv")
                if facts is None or not table.is_file():
                    continue  # it has no heatmap, which was said
                where = (facts, facts.tile_px0, source.annotations, drawn.classes, drawn.excluded)
                rows.append(compare_heatmap(table, source.id, name, *where))
        except (BagError, SlideError) as error:
            problems.append(f"{source.id}: {error.reason}")
    return "\n".join([*problems, write_comparison(folder.path / TABLE, rows)])
