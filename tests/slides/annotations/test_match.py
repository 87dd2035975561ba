"""Which annotation file is whose."""

from pathlib import Path

import pytest

from medsoft.errors import InputError
from medsoft.slides.annotations.match import with_annotations
from medsoft.slides.annotations.settings import RegionOptions
from medsoft.slides.source import SlideSource
from tests.builders.annotations import SQUARE, asap, feature, geojson


def slides(*paths):
    return [SlideSource(Path(path).stem.replace(".ome", ""), Path("/scans") / path) for path in paths]


ONE = geojson(feature(SQUARE))


@pytest.fixture
def folder(tmp_path):
    def write(*names, text=ONE):
        for name in names:
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def found(sources, folder, **options):
    matched = with_annotations(sources, RegionOptions(str(folder), **options))
    return [source.annotations and source.annotations.path and source.annotations.path.name for source in matched]


def test_files_are_found_by_exact_name_with_or_without_the_slide_s_suffix(folder):
    there = folder("a.geojson", "b.svs.json", "c.1.xml", "d.annotations", "ab.geojson", "notes.txt", "x.csv")
    names = ["a.geojson", "b.svs.json", "c.1.xml", "d.annotations", None]
    assert found(slides("a.svs", "b.svs", "c.1.tiff", "d.ome.tif", "c.svs"), there) == names


def test_a_slide_without_a_file_may_count_as_one_without_regions(folder):
    there = folder("a.geojson")
    sources = with_annotations(slides("a.svs", "b.svs"), RegionOptions(str(there), region_missing="none"))
    assert [source.annotations.path is None for source in sources] == [False, True]
    assert with_annotations(sources[1:], RegionOptions()) == sources[1:]


def test_one_file_is_that_of_one_slide(folder):
    file = folder("other_name.geojson") / "other_name.geojson"
    assert found(slides("a.svs"), file) == ["other_name.geojson"]
    with pytest.raises(InputError, match="one file cannot be that of 2 slides: name the folder"):
        found(slides("a.svs", "b.svs"), file)
    with pytest.raises(InputError, match="no such file or folder"):
        found(slides("a.svs"), file.with_name("nowhere"))


def test_two_files_of_a_slide_and_two_slides_of_a_file_are_refused(folder):
    there = folder("a.geojson", "a.xml")
    with pytest.raises(InputError, match=r"not clear which file is whose\na: two files, a\.geojson and a\.xml"):
        found(slides("a.svs"), there)
    (there / "a.xml").unlink()
    twins = [SlideSource("x-a", Path("/x/a.svs")), SlideSource("y-a", Path("/y/a.svs"))]
    with pytest.raises(InputError, match=r"x-a: a \.geojson file bears its name and that of y-a"):
        found(twins, there)
    folder("x-a.geojson", "y-a.geojson")
    assert found(twins, there) == ["x-a.geojson", "y-a.geojson"]


def test_a_folder_in_which_nothing_fits_is_refused(folder):
    with pytest.raises(InputError, match=r"no file is named after a slide \(z.geojson, .json.*such as a.geojson"):
        found(slides("z.svs"), folder("a.geojson"))


def test_a_class_that_no_file_has_is_refused_with_those_that_there_are(folder):
    there = folder("a.geojson")
    folder("b.xml", text=asap((SQUARE, "Polygon", "stroma"), (SQUARE, "Polygon", "None")))
    folder("c.xml", text="damaged")  # fails with its slide
    sources = slides("a.svs", "b.svs", "c.svs")
    with_annotations(sources, RegionOptions(str(there)), ["Tumour", "stroma"])
    message = r"no region has the class 'tumour'; classes in 3 annotation files: no class \(1\), Tumour \(1\), stroma"
    with pytest.raises(InputError, match=message):
        with_annotations(sources, RegionOptions(str(there)), ["tumour", "stroma"])
