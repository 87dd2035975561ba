"""Which feature file is a row's: by exact names, and never that of another slide."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.data.features.names import SCANNED, locate_features, without_slide_suffix
from medsoft.data.tables.sample_table import TableError
from medsoft.errors import InputError
from medsoft.slides.source import make_ids
from medsoft.storage.hashing import quick_hash
from tests.builders.bags import FACTS, write_bag, write_table


def located(folder: Path, *values: str, ids: tuple[str, ...] = ()) -> list[str]:
    found = locate_features(folder, values, ids or [""] * len(values))
    return [Path(one.path).name if Path(one.path).is_file() and not one.rivals else "" for one in found]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("files", "value"),
    [
        (["P1.h5"], "P1.2"),
        (["s1.h5"], "s1.2019.svs"),
        (["a.h5"], "a.b"),
        (["a.h5"], "A.svs"),
        (["z-a.h5"], "x/a.svs"),
        (["a.h5.partial"], "a.svs"),
    ],
)
def test_a_name_that_is_another_is_not_taken(tmp_path, files, value):
    assert located(touch(tmp_path, *files), value) == [""]


@pytest.mark.parametrize("suffix", [*SCANNED, ".SVS", ".ome.tif", ".png"])
def test_only_the_suffix_of_a_slide_is_stripped(tmp_path, suffix):
    assert without_slide_suffix(f"P1.2{suffix}") == "P1.2"
    assert located(touch(tmp_path, "P1.2.h5", "P1.h5"), f"x/P1.2{suffix}") == ["P1.2.h5"]


def test_slides_of_one_name_do_not_share_a_file(tmp_path):
    touch(tmp_path, "a.h5", "b.h5")
    assert located(tmp_path, "x/a.svs", "y/a.svs", "b.svs") == ["", "", "b.h5"]
    assert located(tmp_path, "a.svs", "a.ndpi", "b.svs") == ["", "", "b.h5"]
    touch(tmp_path, "x-a.h5")
    assert located(tmp_path, "x/a.svs", "y/a.svs") == ["x-a.h5", ""]
    assert located(tmp_path, "x/a.svs", "x-a.svs") == ["a.h5", "x-a.h5"]
    assert located(tmp_path, "x/a.svs", "y/a.svs", ids=("a", "b")) == ["a.h5", "b.h5"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x", "y", "x/y"]),
            st.sampled_from(["a", "b", "x-a", "a.b"]),
            st.sampled_from([".svs", ".tif"]),
        ),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_names_that_encoding_gives_are_found_again_each_by_its_slide(tmp_path_factory, slides):
    """``slides encode`` names feature files by ``make_ids``; the rule of reading undoes it, or refuses."""
    folder = tmp_path_factory.mktemp("names")
    paths = [Path("/", *place.split("/"), name + suffix) for place, name, suffix in slides]
    try:
        ids = make_ids(paths)
    except InputError:
        return  # ``slides encode`` asks for names
    touch(folder, *(f"{id}.h5" for id in ids))
    for id, found in zip(ids, located(folder, *map(str, paths)), strict=True):
        assert found in ("", f"{id}.h5")
    assert located(folder, *map(str, paths), ids=tuple(ids)) == [f"{id}.h5" for id in ids]


# ---- what a file says of itself


def slide_table(folder: Path, **paths: str) -> tuple[Path, dict[str, str]]:
    """Feature files named by the keywords, and a table that names the slides of their values."""
    rng = np.random.default_rng(0)
    for name in paths:
        write_bag(folder / "features" / f"{name}.h5", rng.normal(size=(5, 4)))
    rows = [{"path": path, "label": ("no", "yes")[i % 2]} for i, path in enumerate(paths.values())]
    return write_table(folder / "t.csv", rows), {"features": str(folder / "features"), "positive": "yes"}


def refusal(table: Path, **options: str) -> str:
    with pytest.raises(TableError) as raised:
        BagDataModule(str(table), **options)
    return str(raised.value)


def test_a_file_of_another_slide_is_refused_by_the_name_in_it(tmp_path):
    table, options = slide_table(tmp_path, s0="s0.svs", s1="s1.svs", s2="s2.ndpi", s3="s3")
    said = refusal(table, **options)
    assert "features of another slide (1)" in said
    assert "row 3: the file says that it was made from another slide" in said
    (tmp_path / "features" / "s3.h5").write_bytes((tmp_path / "features" / "s1.h5").read_bytes())
    assert "row 4: the file says that it was made from another slide" in refusal(table, **options)


def test_a_slide_that_is_there_is_compared_with_what_was_encoded(tmp_path):
    table, options = slide_table(tmp_path, s0="raw/s0.svs", s1="raw/s1.svs", s2="raw/s2.svs", s3="raw/s3.svs")
    (tmp_path / "raw").mkdir()
    for number in (0, 1):
        slide = tmp_path / "raw" / f"s{number}.svs"
        slide.write_bytes(bytes([number] * 100))
        features = np.random.default_rng(number).normal(size=(5, 4))
        write_bag(tmp_path / "features" / f"s{number}.h5", features, replace(FACTS, quick_hash=quick_hash(slide)))
    assert len(BagDataModule(str(table), stage="crossval", **options).samples) == 4
    (tmp_path / "raw" / "s1.svs").write_bytes(b"scanned again")
    said = refusal(table, **options)
    assert "row 2: the slide's file has another content" in said
    assert "row 1" not in said.replace("(row 1 is", "")


def test_a_file_is_meant_for_two_rows_only_where_both_name_it(tmp_path):
    table, options = slide_table(tmp_path, s0="x/s0.svs", s1="y/s1.svs", s2="s2.svs", s3="s3.svs")
    frame = pd.read_csv(table)
    frame.loc[2, "path"] = "s0.h5"
    frame.to_csv(table, index=False)
    assert "rows 1, 3: two slides with one feature file" in refusal(table, **options)
    frame.loc[0, "path"] = "./s0.h5"
    frame.to_csv(table, index=False)
    assert "duplicate (1)" in refusal(table, **options)


def test_copies_under_two_names_are_told_though_the_files_say_nothing(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(5, 4)) for _ in range(3)]
    (tmp_path / "f").mkdir()
    for i, array in enumerate([*arrays, arrays[0]]):
        np.save(tmp_path / "f" / f"s{i}.npy", array)
    table = write_table(tmp_path / "t.csv", [{"path": f"s{i}.svs", "label": "ab"[i % 2]} for i in range(4)])
    assert "the same features under two labels" in refusal(table, features=str(tmp_path / "f"), positive="b")


def test_how_many_files_say_nothing_of_their_slide_is_one_line(tmp_path):
    (tmp_path / "f").mkdir()
    for i in range(12):
        np.save(tmp_path / "f" / f"s{i}.npy", np.random.default_rng(i).normal(size=(3, 2)))
    table = write_table(tmp_path / "t.csv", [{"path": f"x/s{i}.svs", "label": "ab"[i % 2]} for i in range(12)])
    notes = BagDataModule(str(table), features=str(tmp_path / "f"), positive="b").notes
    assert any("12 of 12 feature files do not say from which slide" in note for note in notes)


def test_any_file_that_names_its_slide_is_compared(tmp_path):
    import h5py

    from medsoft.data.features.open import open_bag

    for name, with_coords in (("a", True), ("b", False)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = np.random.default_rng(0).random((9, 8), np.float32)
            if with_coords:
                file["coords"] = np.arange(18).reshape(9, 2)
            file.attrs["slide"] = "s1.svs"
        with open_bag(tmp_path / f"{name}.h5") as bag:
            assert bag.slide == "s1.svs"
