"""Tissue and artefacts of tiles by a segmentation model: of any resolution, within the bounds of the slide."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsoft.errors import InputError, SlideError
from medsoft.slides.quality.settings import ArtefactModel, QualitySettings
from medsoft.slides.reading.levels import Cropped
from medsoft.slides.reading.resolution import Resolution
from medsoft.slides.reading.slide import Slide, open_slide
from medsoft.slides.segmentation.mask_model import TileModels
from medsoft.slides.segmentation.masks import parts_of_classes, tissue_mask
from medsoft.slides.tiling.settings import TileSettings, TilingOptions, TissueSettings
from medsoft.slides.tiling.tiling import tile_slide
from tests.builders.mask_models import COLOURS, Colours, painted

BY_MODEL = TissueSettings("model", mpp=4, min_area_um2=0, max_hole_um2=0, weights="sha256:0", classes="pink")


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory) -> Path:
    """400 x 240 px: pink to the left of x = 200, where a blue square of 40 px lies, and another on the glass."""
    picture = painted(400, 240)
    picture[40:200, 40:200] = COLOURS["pink"]
    picture[40:80, 40:80] = picture[40:80, 320:360] = COLOURS["blue"]
    path = tmp_path_factory.mktemp("slide") / "slide.png"
    Image.fromarray(picture).save(path)
    return path


def test_tiles_lie_where_the_model_finds_the_chosen_class(slide_file):
    settings = TileSettings(4, 40, min_tissue=1, tissue=BY_MODEL, models=TileModels(tissue=Colours()))
    with open_slide(slide_file, 4.0) as slide:
        tiling, mask_HW, _ = tile_slide(slide, settings)
    corners = [(x, y) for y in range(40, 200, 40) for x in range(40, 200, 40) if (x, y) != (40, 40)]
    assert list(map(tuple, tiling.coords_N2_px0.tolist())) == corners
    assert tiling.tissue_mm2 == pytest.approx((160**2 - 40**2) * 16e-6)
    assert mask_HW.shape == (240, 400)
    assert tiling.settings == TileSettings.from_dict(tiling.settings.as_dict())  # a model is no setting


@pytest.mark.parametrize("mpp", [4.0, 8.0, 6.4])
def test_a_mask_of_another_resolution_lies_where_the_slide_does(slide_file, mpp):
    with open_slide(slide_file, 4.0) as slide:
        mask = tissue_mask(slide, Colours(), mpp, ("blue",), (200, 120), None)
    wanted = np.zeros((120, 200), bool)
    wanted[20:40, 20:40] = wanted[20:40, 160:180] = True
    assert (mask != wanted).sum() <= (0 if mpp != 6.4 else 2 * 4 * 20)


def test_what_was_not_scanned_is_no_tissue_and_the_rest_is_in_its_place(slide_file):
    with open_slide(slide_file, 4.0) as whole:
        bounds = (30, 20, 300, 200)
        slide = Slide(slide_file, Cropped(whole.levels, (0, 0, 400, 240)), Resolution(4.0, "option"), "picture", bounds)
        mask = tissue_mask(slide, Colours(), 4.0, (), (400, 240), None)
        parts = parts_of_classes(slide, Colours(), 4.0, np.array([[40, 40], [80, 40], [60, 60], [250, 40]]), 40, None)
    assert mask[40:200, 40:200].all()
    assert not mask[:, 330:].any()  # the second square is not within the bounds, but for 10 px
    assert mask[40:80, 320:330].all()
    assert parts["blue"].tolist() == [1, 0, 0.25, 0]
    assert parts["pink"].tolist() == [0, 1, 0.75, 0]


def test_artefacts_of_tiles_are_measured_and_rule_tiles_out(slide_file):
    tissue = TissueSettings("everything")
    models = TileModels(artefacts=Colours())

    def tiled(quality: QualitySettings | None):
        with open_slide(slide_file, 4.0) as slide:
            return tile_slide(slide, TileSettings(4, 80, tissue=tissue, quality=quality, models=models))[0]

    model = ArtefactModel("sha256:0", mpp=4.0, classes="pink,blue", max_artefact=0.5)
    measured = tiled(QualitySettings(None, model))
    assert list(measured.quality.columns) == ["artefact_pink", "artefact_blue"]
    assert len(measured) == 15
    first = {name: values_N[0] for name, values_N in measured.quality.columns.items()}
    assert first == {"artefact_pink": 0, "artefact_blue": 0.25}
    kept = tiled(QualitySettings(None, model, filters_by_model=True))
    together_N = sum(measured.quality.columns.values())
    assert np.array_equal(kept.coords_N2_px0, measured.coords_N2_px0[together_N <= 0.5])
    assert 0 < kept.quality.tiles_left_out == 15 - len(kept)
    assert kept.quality.in_words == f"{15 - len(kept)} tiles left out: {15 - len(kept)} with artefacts"
    assert tiled(None).settings == TileSettings.from_dict(tiled(None).settings.as_dict())
    for one in (measured, kept):
        assert TileSettings.from_dict(one.settings.as_dict()) == one.settings
    assert measured.settings.gives(TileSettings(4, 80, tissue=tissue))
    assert not kept.settings.gives(TileSettings(4, 80, tissue=tissue))


def test_a_model_that_is_asked_for_must_be_there(slide_file):
    with open_slide(slide_file, 4.0) as slide:
        with pytest.raises(SlideError, match="which this command cannot name"):
            tile_slide(slide, TileSettings(4, 40, tissue=BY_MODEL))
        quality = QualitySettings(None, ArtefactModel("sha256:0", mpp=4.0))
        with pytest.raises(SlideError, match="which this command cannot name"):
            tile_slide(slide, TileSettings(4, 40, tissue=TissueSettings("everything"), quality=quality))
        with pytest.raises(InputError, match="fat: the classes of colours are pink, blue"):
            tissue_mask(slide, Colours(), 4.0, ("fat",), (400, 240), None)


def test_settings_without_a_model_are_those_of_earlier_versions():
    assert not {"weights", "recipe", "classes"} & TileSettings(1, 224).as_dict()["tissue"].keys()
    assert TileSettings(1, 224, quality=QualitySettings()).as_dict()["quality"] == {"measured": True}
    assert "models" not in TileSettings(1, 224).as_dict()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TissueSettings("model"), "belong together"),
        (lambda: TissueSettings(weights="runs/a"), "belong together"),
        (lambda: TissueSettings(classes="tissue"), "are of a model"),
        (lambda: ArtefactModel(mpp=2), "needs --artefact_model.weights"),
        (lambda: ArtefactModel("w", max_artefact=1.5), "max_artefact"),
        (lambda: TilingOptions(1, 224, artefact_model=ArtefactModel("w")), "needs --quality"),
    ],
)
def test_options_that_contradict_each_other_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
