"""DICOM whole slides: frames decoded directly give what OpenSlide gives; what is arranged otherwise is left to it."""

import shutil

import numpy as np
import openslide
import pydicom
import pytest

from medsoft.slides.reading.direct import dicom
from medsoft.slides.reading.direct.levels import DirectLevels
from medsoft.slides.reading.slide import open_slide
from tests.builders.dicom_slides import FRAME_PX, SYNTAXES, picture, write_dicom_slide

SIZE = (300, 230)


def bare(path, level, x_px0, y_px0, width, height):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((x_px0, y_px0), level, (width, height)).convert("RGB"))


@pytest.mark.parametrize(
    ("syntax", "offsets"), [*((syntax, "basic") for syntax in SYNTAXES), ("jpeg", "extended"), ("jpeg", "none")]
)
def test_every_pixel_is_openslides(tmp_path, syntax, offsets):
    path = write_dicom_slide(tmp_path, picture(SIZE), syntax, offsets=offsets)
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp, slide.notes) == ("dicom frames", pytest.approx(0.5), ())
        assert slide.levels.sizes_px == (SIZE, (150, 115))
        assert np.array_equal(slide.levels.read(0, 0, 0, *SIZE), bare(path, 0, 0, 0, *SIZE))
        assert np.array_equal(slide.levels.read(1, 0, 0, 150, 115), bare(path, 1, 0, 0, 150, 115))
        direct = [slide.levels.decode_tile(0, index) for index in range(20)]
        assert all(tile is not None for tile in direct)  # none was left to OpenSlide


def test_any_file_of_the_series_stands_for_all(tmp_path):
    write_dicom_slide(tmp_path, picture(SIZE))
    write_dicom_slide(tmp_path / "other", picture(SIZE, 1))
    shutil.copy(tmp_path / "other/level0.dcm", tmp_path / "another_series.dcm")
    (tmp_path / "notes.txt").write_text("not DICOM")
    with open_slide(tmp_path / "level1.dcm") as slide:
        assert slide.reader == "dicom frames"
        assert np.array_equal(slide.levels.read(0, 10, 20, 99, 88), bare(tmp_path / "level0.dcm", 0, 10, 20, 99, 88))


def test_a_damaged_frame_is_openslides_to_judge(tmp_path):
    path = write_dicom_slide(tmp_path, picture(SIZE), levels=1)
    with open_slide(path) as slide:
        level = slide.levels.tiled[0]
        place = int(level.offsets[6]) + int(level.byte_counts[6]) // 2  # not one that is compared at opening
    data = bytearray(path.read_bytes())
    data[place : place + 2] = b"\xff\xd9"
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.reader == "dicom frames"
        assert slide.levels.decode_tile(0, 6) is None
        assert slide.levels.decode_tile(0, 7) is not None


@pytest.mark.parametrize(
    "elements",
    [
        {"DimensionOrganizationType": "3D"},
        {"ConcatenationUID": "1.2.3"},
        {"TotalPixelMatrixFocalPlanes": 2},
        {"NumberOfOpticalPaths": 3},
    ],
)
def test_frames_arranged_otherwise_are_not_decoded_here(tmp_path, elements):
    path = write_dicom_slide(tmp_path, picture(SIZE), levels=1, **elements)
    with pytest.raises(dicom.NotDirectError):
        dicom._tiled_level(path, pydicom.dcmread(path, stop_before_pixels=True), SIZE)


def test_a_frame_of_several_fragments_is_not_decoded_here(tmp_path):
    path = write_dicom_slide(tmp_path, picture(SIZE), levels=1)
    dataset = pydicom.dcmread(path)
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=20))
    dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=2, has_bot=False)
    dataset.save_as(path)
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert slide.notes == ()


def test_frames_of_another_colour_leave_the_slide_to_openslide(tmp_path, monkeypatch):
    path = write_dicom_slide(tmp_path, picture(SIZE))
    right = dicom._decoder
    monkeypatch.setattr(dicom, "_decoder", lambda *facts: lambda data: right(*facts)(data)[..., ::-1].copy())
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert "differ from what OpenSlide reads" in slide.notes[0]


def test_groups_of_each_frame_are_walked_over(tmp_path):
    """A level of 100,000 frames describes each: parsing that would take longer than reading the slide."""
    path = write_dicom_slide(
        tmp_path, picture(SIZE), levels=1, PerFrameFunctionalGroupsSequence=[pydicom.Dataset()] * 20
    )
    with open_slide(path) as slide:
        assert isinstance(slide.levels, DirectLevels)
        assert np.array_equal(slide.levels.read(0, 0, 0, FRAME_PX, 70), bare(path, 0, 0, 0, FRAME_PX, 70))
