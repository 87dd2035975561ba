"""Features of one's own: the same numbers in every layout are the same bag; what a layout hides is refused."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.data.features import hdf5_child
from medsoft.data.features.open import open_bag
from medsoft.errors import BagError, InputError
from tests.builders.images import SHARED_DATA
from tests.builders.waiting import wait_until

HANGING = SHARED_DATA.parent / "faults" / "hostile" / "hdf5_hang"


def as_h5(path: Path, array: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = array
    return path


def as_pt(path: Path, array: np.ndarray) -> Path:
    torch.save(torch.from_numpy(array), path)
    return path


def as_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def as_npz(path: Path, array: np.ndarray) -> Path:
    np.savez_compressed(path, features=array)
    return path


def as_parquet(path: Path, array: np.ndarray) -> Path:
    pd.DataFrame(array, columns=[f"f{i}" for i in range(array.shape[1])]).to_parquet(path)
    return path


LAYOUTS = {"h5": as_h5, "pt": as_pt, "npy": as_npy, "npz": as_npz, "parquet": as_parquet}


def read(path: Path) -> np.ndarray:
    with open_bag(path) as bag:
        return bag.read()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_numbers_in_every_layout_are_the_same_bag(tmp_path, layout):
    array = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    path = LAYOUTS[layout](tmp_path / f"a.{layout}", array)
    assert np.array_equal(read(path), array)
    with open_bag(path) as bag:
        assert np.array_equal(bag.read(2, 4), array[2:4])
        assert bag.coords_N2_um is None
        assert bag.good_N.all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 5), np.float32), "empty"),
        (np.full((3, 5), np.nan, np.float32), "NaN or infinite"),
        (np.zeros((3, 5), bool), "bool"),
    ],
)
def test_what_is_no_bag_is_refused_in_every_layout(tmp_path, layout, array, reason):
    path = LAYOUTS[layout](tmp_path / f"a.{layout}", array)
    with pytest.raises(BagError, match=rf"{reason}|values that are not numbers"):
        read(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_short_empty_or_other_bytes_are_a_line_in_every_layout(tmp_path, layout):
    good = LAYOUTS[layout](tmp_path / f"good.{layout}", np.random.default_rng(0).normal(size=(300, 40)))
    bad = tmp_path / f"a.{layout}"
    content = good.read_bytes()
    for spoilt in (b"", content[: len(content) // 2], b"no such file\n" * 100, content[:10]):
        bad.write_bytes(spoilt)
        with pytest.raises(BagError) as raised:
            read(bad)
        assert "\n" not in raised.value.reason
    bad.unlink()
    os.mkfifo(bad)
    with pytest.raises(BagError, match="pipe"):
        read(bad)
    bad.unlink()
    bad.mkdir()
    with pytest.raises(BagError, match=r"[Dd]irectory"):
        read(bad)


def test_a_changed_byte_of_an_npz_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, features=np.random.default_rng(0).normal(size=(50, 40)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BagError, match="damaged"):
        read(path)


def test_declared_sizes_are_not_believed(tmp_path):
    """Nothing of 40 GB is allocated to find out that it is not there."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (100_000_000, 100)})
    (tmp_path / "a.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", header.getvalue())
    with zipfile.ZipFile(tmp_path / "zeros.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", header.getvalue() + bytes(80 * 2**20))
    torch.save(torch.zeros(1).expand(90_000_000, 100), tmp_path / "a.pt")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (30_000, 1_000), "f4", chunks=(30_000, 1_000), compression="gzip")[:] = 0
    for name in ("a.npy", "a.npz", "zeros.npz", "a.pt", "a.h5"):
        with pytest.raises(BagError, match=r"cut short|declares|more than 200 times"):
            open_bag(tmp_path / name)


def test_links_to_other_files_are_refused_wherever_they_are(tmp_path):
    as_h5(tmp_path / "other.h5", np.ones((3, 2), np.float32))
    for name in ("features", "coords", "more"):
        path = as_h5(tmp_path / f"{name}.h5", np.ones((3, 2), np.float32))
        with h5py.File(path, "a") as file:
            if name in file:
                del file[name]
            file[name] = h5py.ExternalLink("other.h5", "/features")
        with pytest.raises(BagError, match=f"'{name}' refers to another file"):
            open_bag(path)


@pytest.mark.skipif(not HANGING.is_dir(), reason="files that hang HDF5 are not on this machine (../shared/faults)")
def test_a_file_that_keeps_hdf5_in_a_circle_is_refused():
    with pytest.raises(BagError, match="comes to no end"):
        open_bag(min(HANGING.glob("*.h5")))


@pytest.mark.parametrize(("does", "reason"), [("while True: pass", "comes to no end"), ("os.abort()", "crashes on it")])
def test_a_lost_process_is_a_refusal_and_the_next_file_is_read(tmp_path, monkeypatch, does, reason):
    """Whatever the library does there, this process lives."""
    from medsoft.data.features import hdf5_guard

    program = Path(hdf5_child.__file__).read_text()
    spoilt = program.replace(
        "def touch(path: str) -> None:\n", f"def touch(path: str) -> None:\n    import os\n    {does}\n"
    )
    (tmp_path / "child.py").write_text(spoilt)
    guard = hdf5_guard._Guard()
    monkeypatch.setattr(hdf5_guard, "_guard", guard)
    monkeypatch.setattr(hdf5_guard, "CHILD", tmp_path / "child.py")
    path = as_h5(tmp_path / "a.h5", np.ones((3, 2), np.float32))
    with pytest.raises(BagError, match=reason):
        open_bag(path)
    monkeypatch.setattr(hdf5_guard, "CHILD", Path(hdf5_child.__file__))
    assert read(as_h5(tmp_path / "b.h5", np.ones((3, 2), np.float32))).shape == (3, 2)
    guard.close()


def test_the_process_that_touches_files_ends_with_its_parent(tmp_path):
    path = as_h5(tmp_path / "a.h5", np.ones((3, 2), np.float32))
    words = (
        "import os, sys\nfrom medsoft.data.features import hdf5_guard\n"
        "from medsoft.data.features.open import open_bag\n"
        f"open_bag({str(path)!r}).close()\nprint(hdf5_guard._guard._child.pid, flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    process = Path("/proc") / done.stdout.strip()
    wait_until(lambda: not process.exists())


# ---- tables of bags


def bags(folder: Path, layout: str = "npy", n: int = 12) -> Path:
    rng = np.random.default_rng(1)
    (folder / "features").mkdir(parents=True)
    rows = []
    for i in range(n):
        LAYOUTS[layout](folder / "features" / f"bag{i}.{layout}", rng.normal(size=(i + 2, 4)) + 3 * (i % 2))
        rows.append({"path": f"bag{i}", "label": ("no", "yes")[i % 2]})
    pd.DataFrame(rows).to_csv(folder / "bags.csv", index=False)
    return folder / "bags.csv"


def test_a_folder_may_hold_any_of_the_layouts(tmp_path):
    table = bags(tmp_path)
    one, other = (tmp_path / "features" / name for name in ("bag3.npy", "bag3.parquet"))
    as_parquet(other, np.load(one))
    one.unlink()
    data = BagDataModule(str(table), features=str(tmp_path / "features"), positive="yes")
    assert data.samples.frame["path"].map(lambda path: Path(path).name)[3] == "bag3.parquet"
    assert data.spec.num_features == 4
    assert not data.spec.has_coordinates


def test_a_table_of_instances_is_its_bags(tmp_path):
    table = bags(tmp_path)
    arrays = {f"bag{i}": np.load(tmp_path / "features" / f"bag{i}.npy") for i in range(12)}
    frame = pd.concat([pd.DataFrame(array).add_prefix("f").assign(bag=name) for name, array in arrays.items()])
    frame = frame.sample(frac=1, random_state=0)
    frame.to_csv(tmp_path / "instances.csv", index=False)
    frame.to_parquet(tmp_path / "instances.parquet")
    for name in ("instances.csv", "instances.parquet"):
        data = BagDataModule(str(table), features=str(tmp_path / name), positive="yes")
        data.load(["train"])
        part, dataset = data.part("train"), data.dataset("train")
        for index, id in enumerate(part.frame["id"]):
            found = dataset.read(index)[0]
            expected = frame[frame["bag"] == id].drop(columns="bag").to_numpy(np.float32)
            assert np.array_equal(found, expected), id
    pd.DataFrame({"path": ["bag1", "bag99"], "label": ["no", "yes"]}).to_csv(table, index=False)
    with pytest.raises(InputError, match="row 2: has no rows of this bag"):
        BagDataModule(str(table), features=str(tmp_path / "instances.csv"), positive="yes")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": 1}, "the column 'label' would become a feature"),
        ({"colour": "red"}, "the column 'colour' holds values that are not numbers"),
        ({"bag": ""}, "row 1 belongs to no bag"),
    ],
)
def test_columns_that_are_no_features_are_refused(tmp_path, columns, message):
    table = bags(tmp_path, n=2)
    pd.DataFrame({"bag": ["bag0", "bag1"], "f": [1.0, 2.0]}).assign(**columns).to_csv(tmp_path / "i.csv", index=False)
    with pytest.raises(InputError, match=message):
        BagDataModule(str(table), features=str(tmp_path / "i.csv"), positive="yes")


def test_places_in_um_are_read_where_they_are(tmp_path):
    coords = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "a.npz", features=np.ones((3, 4)), coords_um=coords)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords_um"] = np.ones((3, 4)), coords
    frame = pd.DataFrame(np.ones((3, 4))).add_prefix("f").assign(x_um=coords[:, 0], y_um=coords[:, 1])
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.npz", "a.h5", "a.parquet"):
        with open_bag(tmp_path / name) as bag:
            assert np.array_equal(bag.coords_N2_um, coords)
            assert bag.num_features == 4
