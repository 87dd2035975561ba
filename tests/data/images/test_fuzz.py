"""A small seeded run of scripts/fuzz: damaged files are refused or read as before, where a checksum covers them."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "fuzz"


@pytest.fixture(scope="module")
def fuzz():
    loader = SourceFileLoader("fuzz_script", str(SCRIPT))
    spec = spec_from_loader("fuzz_script", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["fuzz_script"] = module
    loader.exec_module(module)
    yield module
    del sys.modules["fuzz_script"]


ONLY = (
    "PNG",
    "JPEG",
    "NPZ",
    "TIFF deflate",
    "NIfTI gzip",
    "NRRD gzip",
    "NRRD raw",
    "DICOM Explicit VR Little",
    "slide",
)


def test_no_damaged_file_is_silent_under_a_checksum_or_ends_in_a_traceback_or_hangs(fuzz, tmp_path):
    found = fuzz.samples(tmp_path, ONLY)
    assert {sample.reader for sample in found} == {"image", "volume", "slide"}
    outcomes = list(fuzz.fuzz(found, 4 * len(found), seed=1, seconds=30, folder=tmp_path))
    bad = [
        f"{sample.name}: {said}: {what}"
        for sample, said, inside, what in outcomes
        if said in ("traceback", "hang") or (said == "silent" and inside)
    ]
    assert not bad, "\n".join(bad)
    assert sum(said == "refused" for _, said, _, _ in outcomes) > len(outcomes) // 3


def test_every_damage_changes_what_it_says(fuzz):
    data = bytes(range(200))
    kinds = set()
    for seed in range(60):
        other, kind, start, end = fuzz.damaged(data, np.random.default_rng(seed))
        kinds.add(kind)
        assert other[:start] == data[:start]
        if kind in ("bit", "byte", "exchange", "zero"):
            assert len(other) == len(data)
            assert other[end:] == data[end:]
    assert kinds == set(fuzz.DAMAGES)
