"""The joined map of a slide: right areas, no seams, bounded memory, and the files that it becomes."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from shapely.geometry import shape

from medsoft.errors import SlideError, TileError
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.reading.slide import Slide, open_slide
from medsoft.slides.segmentation import segment
from medsoft.slides.segmentation.mask_model import TileModels
from medsoft.slides.segmentation.run import segment_one, write_areas
from medsoft.slides.segmentation.segment import WindowSettings, segment_slide, window_starts
from medsoft.slides.segmentation.settings import SegmentSettings
from medsoft.slides.segmentation.write import without_small
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.settings import TissueSettings
from tests.builders.mask_models import COLOURS, Colours, painted

WINDOWS = WindowSettings(mpp=1.0, overlap_px=32, batch_size=5)
SETTINGS = SegmentSettings(1.0, 32, TissueSettings(method="everything"), 0.0)


def phantom() -> np.ndarray:
    """300 x 210 px: a pink square of 100 px with a hole of 40 px, in which a blue square of 20 px lies."""
    picture = painted(300, 210)
    picture[50:150, 90:190] = COLOURS["pink"]
    picture[80:120, 120:160] = painted(40, 40)
    picture[90:110, 130:150] = COLOURS["blue"]
    return picture


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "phantom.png"
    Image.fromarray(phantom()).save(path)
    return path


def segmented(path: Path, model, windows: WindowSettings = WINDOWS, slide_mpp: float = 1.0, **options):
    with open_slide(path, slide_mpp) as slide, segment_slide(slide, model, windows, **options).labels_kept() as found:
        return found, found.labels.block(0, 0, *found.labels.size_px)


@pytest.mark.parametrize(("slide_mpp", "mpp"), [(1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (0.499, 1.0)])
def test_areas_are_those_of_the_slide_at_any_resolution(slide_file, slide_mpp, mpp):
    found, _ = segmented(slide_file, Colours(), WindowSettings(mpp, 32), slide_mpp)
    pixel_mm2 = (slide_mpp / 1000) ** 2
    assert found.mm2["pink"] == pytest.approx((100**2 - 40**2) * pixel_mm2, rel=0.01)
    assert found.mm2["blue"] == pytest.approx(20**2 * pixel_mm2, rel=0.05)


def test_the_map_is_that_of_one_pass_where_a_pixel_decides_alone(slide_file):
    _, joined = segmented(slide_file, Colours())
    whole = phantom()
    assert np.array_equal(joined == 1, (whole == COLOURS["pink"]).all(-1))
    assert np.array_equal(joined == 2, (whole == COLOURS["blue"]).all(-1))


def test_seams_do_not_show_where_windows_overlap_by_more_than_what_a_pixel_sees(tmp_path):
    rng = np.random.default_rng(0)
    noise = np.array(Image.fromarray(rng.integers(0, 255, (21, 30, 3), np.uint8)).resize((300, 210), Image.BICUBIC))
    Image.fromarray(noise).save(tmp_path / "noise.png")
    _, joined = segmented(tmp_path / "noise.png", Colours(reach=4))
    whole = Colours(side=300, reach=4)(np.pad(noise, ((0, 90), (0, 0), (0, 0)), mode="edge")[None])[0].argmax(0)[:210]
    inside = slice(8, -8), slice(8, -8)  # at the edge of the slide a window has no neighbour
    assert len(np.unique(joined)) == 3
    assert (joined[inside] == whole[inside]).mean() > 0.998  # but for pixels between two classes


def test_windows_and_weights_are_those_of_the_sliding_window_over_images(slide_file):
    from monai.inferers import sliding_window_inference

    class Network:
        name, classes, identity, side = "network", ("a", "b"), {}, 64
        values_K = np.array([0, 1, 2], np.uint8)
        weights_hw = Colours().weights_hw

        def __init__(self):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                self.layers = torch.nn.Sequential(
                    torch.nn.Conv2d(3, 4, 9, padding=4), torch.nn.Conv2d(4, 3, 9, padding=4)
                )

        def __call__(self, images_BHWC):
            with torch.inference_mode():
                scores: np.ndarray = self.layers(torch.from_numpy(images_BHWC).permute(0, 3, 1, 2) / 255).numpy()
            return scores

    network = Network()
    _, joined = segmented(slide_file, network)
    image = torch.from_numpy(phantom()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        wanted = sliding_window_inference(image, (64, 64), 2, network.layers, overlap=0.5, mode="gaussian")
    assert (joined == wanted[0].argmax(0).numpy()).mean() > 0.9999  # but for rounding
    assert len(np.unique(joined)) > 1


def test_a_wide_slide_is_done_in_strips_with_the_same_map(slide_file, monkeypatch):
    _, whole = segmented(slide_file, Colours(reach=3))
    monkeypatch.setattr(segment, "MOST_BYTES", 4 * 3 * 64 * 130)
    assert len(segment.strips(300, 64, 3)) == 3
    found, in_strips = segmented(slide_file, Colours(reach=3))
    assert np.array_equal(in_strips, whole)
    assert found.pixels_C.sum() == 300 * 210


@pytest.mark.parametrize(("length", "side", "overlap"), [(10, 64, 32), (64, 64, 32), (65, 64, 32), (300, 64, 0)])
def test_windows_cover_an_axis_and_end_at_its_end(length, side, overlap):
    starts = window_starts(length, side, overlap)
    covered = np.zeros(max(length, side), bool)
    for start in starts:
        covered[start : start + side] = True
    assert covered[:length].all()
    assert starts[-1] == max(0, length - side)


def test_only_chosen_windows_are_shown_and_the_rest_is_background(slide_file):
    model = Colours()
    found, joined = segmented(slide_file, model, select=lambda corners, side: corners[:, 0] < 60)
    assert found.shown == model.windows < found.windows
    assert (joined[:, 96 + 64 :] == 0).all()
    assert (joined[60:140, 92] == 1).all()


def test_a_slide_is_too_coarse_or_cannot_be_read(slide_file, monkeypatch):
    with pytest.raises(SlideError, match="too coarse"):
        segmented(slide_file, Colours(), WindowSettings(0.4, 32))
    read = Slide.read_tile

    def broken(self, x, y, *rest):
        if x >= 100:
            raise TileError("its data are damaged")
        return read(self, x, y, *rest)

    monkeypatch.setattr(Slide, "read_tile", broken)
    with pytest.raises(SlideError, match="windows cannot be read, the last as: its data are damaged"):
        segmented(slide_file, Colours())
    found, joined = segmented(slide_file, Colours(), WindowSettings(1.0, 32, max_unreadable=1))
    assert found.unreadable > 0
    assert (joined[:, 170:] == 0).all()


def test_files_of_a_slide_agree_with_each_other_and_are_kept(slide_file, tmp_path):
    folder, source = SlidesFolder(tmp_path), SlideSource("p", slide_file, 0.5, "option", {"patient": "A"})
    tmp_path.mkdir(exist_ok=True)
    one = segment_one(source, folder, Colours(), SETTINGS, WINDOWS, TileModels())
    assert (one.status, one.kept) == ("segmented", False)
    about = json.loads(folder.segmentation("p", ".json").read_text())
    with tifffile.TiffFile(folder.segmentation("p", ".ome.tif")) as tiff:
        values = tiff.series[0].asarray()
        assert tiff.is_ome
        assert 'PhysicalSizeX="1.0"' in tiff.ome_metadata
    assert values.shape == (105, 150)
    assert {name: int((values == value).sum()) for value, name in enumerate(("pink", "blue"), 1)} == about["area_px"]
    features = json.loads(folder.segmentation("p", ".geojson").read_text())["features"]
    assert [feature["properties"]["classification"]["name"] for feature in features] == ["pink", "blue"]
    pink = shape(features[0]["geometry"])  # in pixels of level 0, of 0.5 µm
    assert pink.area == 4 * about["area_px"]["pink"]
    assert (pink.bounds, len(pink.interiors)) == ((90, 50, 190, 150), 1)
    assert features[0]["properties"]["measurements"]["area mm2"] == pytest.approx(about["area_mm2"]["pink"])
    assert Image.open(folder.segmentation("p", ".jpg")).size[0] >= 800
    write_areas(folder, [source], ("pink", "blue"))
    header, row = (tmp_path / "areas.csv").read_text().splitlines()
    assert header == "id,path,map_mpp,mm2_pink,mm2_blue,pieces_pink,pieces_blue,patient"
    assert row.endswith(",0.0021,0.0001,1,1,A")

    model = Colours()
    assert segment_one(source, folder, model, SETTINGS, WINDOWS, TileModels()).kept
    assert model.windows == 0
    other = SlideSource("p", slide_file, 1.0, "option")
    assert not segment_one(other, folder, model, SETTINGS, WINDOWS, TileModels()).kept  # at another resolution
    assert not segment_one(other, folder, Colours(reach=1), SETTINGS, WINDOWS, TileModels()).kept
    folder.segmentation("p", ".geojson").unlink()
    assert not segment_one(other, folder, Colours(reach=1), SETTINGS, WINDOWS, TileModels()).kept
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_in_the_picture_small_holes_and_pieces_have_no_outline():
    labels = np.zeros((200, 300), np.uint8)
    labels[20:180, 20:180] = 1
    labels[30:170:10, 30:100:10] = 0  # loose tissue: holes of a pixel
    labels[40:60, 120:140] = 0
    labels[100:120, 120:140] = 2  # a class within the other
    labels[50:55, 250:260] = 2
    large = without_small(labels, 2, 0)
    expected = labels.copy()
    expected[30:170:10, 30:100:10], expected[50:55, 250:260] = 1, 0
    assert np.array_equal(large, expected)
    assert set(np.unique(without_small(labels, 2, 401)[30:130, 30:150])) == {1}, "what the outlines leave out as well"


def test_a_slide_without_resolution_or_tissue_says_so(slide_file, tmp_path):
    folder = SlidesFolder(tmp_path)
    source = SlideSource("p", slide_file)
    said = segment_one(source, folder, Colours(), SETTINGS, WINDOWS, TileModels())
    assert (said.status, said.stage) == ("failed", "open")
    Image.fromarray(painted(300, 210)).save(tmp_path / "glass.png")
    glass = SlideSource("g", tmp_path / "glass.png", 1.0, "option")
    settings = SegmentSettings(1.0, 32, TissueSettings(), 0.0)
    model = Colours()
    said = segment_one(glass, folder, model, settings, WINDOWS, TileModels())
    assert (said.status, model.windows) == ("no tissue", 0)
    assert said.is_without_tiles
    assert segment_one(glass, folder, model, settings, WINDOWS, TileModels()).kept
