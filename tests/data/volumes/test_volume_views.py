"""Averaging over mirrored volumes: only left-right, and only where the recipe says that the side does not matter."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.data.transforms.views import AS_IT_IS, Mirrored
from medsoft.data.volumes.transforms.recipe import VolumeTransforms
from medsoft.evaluation.tables.predictions import read_predictions
from tests.builders.volumes import TINY_VOLUME, save, write_volumes

P = ["p_small", "p_large"]


@pytest.mark.parametrize(("orientation", "axis"), [("RAS", 0), ("PIL", 2), ("SAR", 2), ("ALS", 1)])
def test_the_axis_is_the_one_that_runs_from_side_to_side(orientation, axis):
    still = {"rotation": 0, "zoom": 0, "shift": 0, "jitter": 0, "noise": 0}
    recipe = VolumeTransforms(size=(3, 4, 5), orientation=orientation, sides="flip", **still)
    assert recipe.views == (AS_IT_IS, Mirrored("left-right", axis))
    volume = torch.arange(2 * 60.0).reshape(2, 3, 4, 5)
    shown = {tuple(view(volume).flatten().tolist()) for view in recipe.views}
    augmented = {tuple(recipe.augment(volume, seed).flatten().tolist()) for seed in range(20)}
    assert shown == augmented
    batch = volume[None]
    assert torch.equal(recipe.views[1](batch)[0], recipe.views[1](volume))


def test_a_recipe_that_knows_sides_allows_no_mirror():
    for sides in ("keep", "mirror"):
        assert VolumeTransforms(sides=sides).views == (AS_IT_IS,)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("run")
    table = write_volumes(folder / "set", 12)
    words = [f"--data.table={table}", "--data.positive=large", "--data.patient=patient", *TINY_VOLUME]
    words += ["--transforms.sides=flip", "--trainer.max_epochs=1", "--report=false", f"--out={folder / 'run'}"]
    assert main(["fit", "--config=volume", *words]) == 0
    return folder


def predicted(folder: Path) -> pd.DataFrame:
    return read_predictions(folder / "predictions.csv")[0].set_index("id").sort_index()


def test_the_mean_of_a_volume_and_its_mirror_image(medsoft, run, tmp_path):
    mirrored = tmp_path / "mirrored"
    for path in sorted((run / "set" / "volumes").iterdir()):
        image = nibabel.load(path)
        save(np.flip(image.get_fdata(), axis=0), image.affine, mirrored / "volumes" / path.name)
    (mirrored / "volumes.csv").write_bytes((run / "set" / "volumes.csv").read_bytes())
    found = {}
    for name, table, n in (("plain", run / "set", 1), ("turned", mirrored, 1), ("two", run / "set", 2)):
        words = [f"--data.table={table / 'volumes.csv'}", f"--tta={n}", "--data.splits_from=null", "--report=false"]
        code, _, err = medsoft("predict", "--checkpoint", run / "run", *words, f"--out={tmp_path / name}")
        assert code == 0, err
        found[name] = predicted(tmp_path / name)
    np.testing.assert_allclose(found["two"][P], (found["plain"][P] + found["turned"][P]) / 2, atol=2e-6)
    assert np.abs(found["plain"][P] - found["turned"][P]).to_numpy().max() > 1e-5
    assert (found["two"]["views"] == "2").all()
    np.testing.assert_allclose(
        found["two"]["ood_score"].astype(float), found["plain"]["ood_score"].astype(float), rtol=1e-4
    )


def test_more_views_than_there_are_and_maps_of_a_mean_are_refused(medsoft, run, tmp_path):
    words = ["predict", "--checkpoint", run / "run", f"--out={tmp_path / 'out'}"]
    for more, says in (
        (["--tta=3"], "allows 1 to 2 views (as it is, left-right)"),
        (["--tta=2", "--transforms.sides=keep"], "allows 1 to 1 views (as it is); no mirrored or rotated view"),
        (["--tta=2", "--maps=1"], "--maps with --tta 2: maps are of the volume as it is"),
    ):
        code, _, err = medsoft(*words, *more)
        assert code == 2
        assert says in err
        assert not (tmp_path / "out").exists()
