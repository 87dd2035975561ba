"""Maps of contributions in the space of the volume as read; and volumes as bags of slices."""

import nibabel
import numpy as np
import pandas as pd
import pytest
import timm
import torch

from medsoft.classifiers.slices import SliceClassifier
from medsoft.data.volumes.transforms.geometry import located
from medsoft.data.volumes.transforms.recipe import VolumeTransforms
from medsoft.errors import InputError
from medsoft.inference.attribution.resample import into_space, write_nifti
from medsoft.models.attribution.patches import patch_contributions
from medsoft.specs import DataSpec
from medsoft.task import Task
from tests.builders.dicom import write_series
from tests.builders.images import without_knowledge
from tests.builders.volumes import TINY_VOLUME, oblique, write_volumes

pytestmark = pytest.mark.long

BINARY = Task.of("binary", ("small", "large"))
RECIPES = {
    "spacing and padding": {"spacing_mm": 1.3, "size": (40, 40, 48)},
    "cut": {"size": (16, 16, 16)},
    "stretched": {"fit": "stretch", "size": (24, 16, 32)},
    "other axes": {"orientation": "SAR", "spacing_mm": (1.0, 1.5, 2.0), "size": (32, 24, 24)},
    "half, mirrored": {"half": True, "sides": "mirror", "size": 32},
    "box": {"crop": "box", "margin_mm": 2.0, "size": 24},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_map_goes_back_through_every_transform_of_an_oblique_volume(name):
    affine, shape = oblique((1.0, 1.4, 2.0), degrees=25), (26, 22, 18)
    hot = np.array([15, 9, 8])
    array = np.zeros((1, *shape), np.float32)
    array[0, 13:18, 7:12, 6:11] = 1
    recipe = VolumeTransforms(intensity="none", **RECIPES[name])
    box = (10, 4, 3, 22, 16, 14) if name == "box" else None
    # The half that holds the ball: its place in mm against the middle of the volume.
    to_the_right = (affine @ [*hot, 1])[0] - (affine @ [*(np.array(shape) - 1) / 2, 1])[0]
    prepared = recipe.prepare([located(array, affine)], [""], box, "right" if to_the_right > 0 else "left")
    cell = (4.0, 4.0, 4.0)
    grid = prepared.image[0].unfold(0, 4, 4).unfold(1, 4, 4).unfold(2, 4, 4).sum(dim=(3, 4, 5))
    placed = into_space(grid.double().numpy(), cell, recipe.size, prepared.affine.numpy(), affine, shape)
    mass = placed[placed > 0.2 * placed.max()]
    centre = np.argwhere(placed > 0.2 * placed.max()).T @ mass / mass.sum()
    apart_mm = np.linalg.norm(affine[:3, :3] @ (centre - hot))
    assert apart_mm < 2.0, (centre, hot)  # a cell is 4 to 8 mm wide


def test_between_the_middles_of_cells_shares_are_interpolated_and_outside_they_are_0():
    affine = oblique((1.0, 1.0, 1.0), degrees=15)
    start = np.eye(4)
    start[:3, 3] = (4, 4, 4)  # the prepared volume is voxels 4 to 15 of the volume as read
    contributions = np.arange(27.0).reshape(3, 3, 3) + 1
    placed = into_space(contributions, (4.0, 4.0, 4.0), (12, 12, 12), affine @ start, affine, (20, 20, 20))
    inside = np.zeros((20, 20, 20), bool)
    inside[4:16, 4:16, 4:16] = True
    assert (placed[~inside] == 0).all()
    assert (placed[inside] > 0).all()
    assert placed[9, 9, 9] == pytest.approx(np.mean([14, 14]), abs=2.0)
    middle = placed[9:11, 9:11, 9:11].mean()  # about the middle of the middle cell
    assert middle == pytest.approx(contributions[1, 1, 1], abs=1e-5)
    assert placed[4, 4, 4] == contributions[0, 0, 0]


def test_a_nifti_keeps_its_affine(tmp_path):
    affine = oblique((0.7, 1.1, 3.0), degrees=33)
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    write_nifti(array, affine, tmp_path / "m.nii.gz")
    back = nibabel.load(tmp_path / "m.nii.gz")
    assert np.allclose(back.affine, affine, atol=1e-5)
    assert np.array_equal(back.get_fdata(dtype=np.float32), array)
    assert [path.name for path in tmp_path.iterdir()] == ["m.nii.gz"]


@pytest.mark.parametrize("attention", ["softmax", "seqnorm", "sima", "relu_linear", "soft", "soft_norm"])
def test_shares_are_what_a_little_less_of_the_patches_would_change(attention):
    torch.manual_seed(0)
    model = timm.create_model(
        f"vit_{attention}_tiny_patch8_224", spatial_dims=3, img_size=(16, 24, 16), in_chans=1, num_classes=0,
        patch_size=8, depth=2, embed_dim=32, num_heads=2,
    ).eval().double()  # fmt: skip
    with torch.no_grad():
        model.blocks[-1].mlp.fc2.weight.zero_()
        model.norm.weight.zero_()  # the features are then the norm's bias: no contribution
        volume = torch.randn(1, 1, 16, 24, 16).double()
        direction = torch.randn(32).double()
        assert patch_contributions(model, volume, lambda x: x @ direction).abs().max() == 0
        model.norm.weight.fill_(1.0)
    contributions = patch_contributions(model, volume, lambda x: x @ direction)
    assert contributions.shape == (1, 2, 3, 2)
    with torch.no_grad():  # numerically: the logit's change where all patches' parts of the branch shrink a little
        x, grid = model.embed_tokens(volume)
        x = model.blocks[0](x, None, grid)
        last = model.blocks[-1]
        tokens = last.norm1(x)
        weights, values = last.attn.contributions(tokens, 0, None, grid)
        heads = (weights[..., 1:, None] * values[:, :, 1:]).sum(dim=2).flatten(1)
        patches = heads @ last.attn.proj.weight.T
        branch = last.attn(tokens, None, grid)[:, 0]

        def logit(scale):
            y = x[:, 0] + branch - scale * patches
            return (model.norm(y + last.mlp(last.norm2(y))) @ direction).item()

        slope = (logit(-1e-4) - logit(1e-4)) / 2e-4
    assert contributions.sum().item() == pytest.approx(slope, rel=1e-4)


class TestSlices:
    def model(self, **options):
        spec = DataSpec(BINARY, 2, (16, 24, 8), np.array([4, 4]))
        arguments = {"patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
        settings = {"encoder_args": arguments, "aggregator_args": {"dim": 32, "num_heads": 2, "depth": 1}} | options
        return SliceClassifier(spec, **settings).eval()

    @pytest.mark.parametrize(("axis", "shape"), [("x", (16, 24, 8)), ("y", (24, 16, 8)), ("z", (8, 16, 24))])
    def test_slices_lie_across_their_axis_with_their_neighbours(self, axis, shape):
        volume = torch.randn(1, 2, 16, 24, 8)
        slices = self.model(axis=axis, neighbours=1, step=2).slices(volume)
        n, height, width = shape
        assert slices.shape == (1, n // 2, 6, height, width)
        along = volume.movedim(2 + "xyz".index(axis), 1)
        assert torch.equal(slices[0, 1], along[0, 1:4].flatten(0, 1))
        assert torch.equal(slices[0, 0], along[0, [0, 0, 1]].flatten(0, 1))  # beyond the end the last one again

    def test_a_frozen_encoder_gets_no_gradient_and_the_other_does(self):
        for freeze in (True, False):
            model = self.model(freeze=freeze).train()
            batch = {"image": torch.randn(2, 2, 16, 24, 8), "target": torch.tensor([0, 1])}
            model.objective.loss(model.logits(batch), batch["target"]).backward()
            assert any(p.grad is not None for p in model.encoder.parameters()) == (not freeze)
            assert all(p.grad is not None for p in model.aggregator.parameters())
            params = {id(p) for group in model.parameter_groups() for p in group["params"]}
            assert params == {id(p) for p in model.parameters() if p.requires_grad}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"step": 9}, "model.step 9"),
            ({"aggregator": "mode"}, "model.aggregator mode"),
            ({"aggregator": "torchmil:ABMIL"}, "for bags of encoded tiles"),
            ({"aggregator_args": {"coordinates": True}}, "no places"),
            ({"encoder": "vit_seqnorm"}, "model.encoder: no model"),
            ({"encoder_args": {"depths": 3}}, "model.encoder_args"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(InputError, match=message):
            self.model(**options)


@pytest.fixture(scope="module")
def module_monkeypatch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def runs(tmp_path_factory, module_monkeypatch):
    """A vision transformer, a bag of slices and a network without contributions, trained on the same volumes."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("maps")
    table = write_volumes(folder / "set", 12)
    module_monkeypatch.chdir(folder)
    common = [f"--data.table={table}", "--data.positive=large", "--data.patient=patient", "--trainer.max_epochs=1"]
    tiny = [word for word in TINY_VOLUME if "backbone" not in word]
    encoder = "--model.encoder_args={patch_size: 8, depth: 1, embed_dim: 32, num_heads: 2}"
    models = {
        "vit": ["--config=volume", *TINY_VOLUME, "--transforms.spacing_mm=1.5"],
        "slices": ["--config=volume_slices", *tiny, encoder, "--model.aggregator_args={dim: 32, num_heads: 2}"],
        "resnet": [
            "--config=volume", *tiny, "--model.backbone=resnet18_3d", "--model.backbone_args={widen_factor: 0.1}",
        ],
    }  # fmt: skip
    for name, words in models.items():
        assert main(["fit", *words, *common, f"--out={name}"]) == 0
    module_monkeypatch.undo()
    return folder


@pytest.mark.parametrize("name", ["vit", "slices"])
def test_predict_writes_maps_in_the_space_of_the_volumes(medsoft, runs, name, tmp_path):
    code, out, err = medsoft("test", f"--checkpoint={runs / name}", "--maps=2", "--out=run", "--figures=false")
    assert code == 0, err
    table = pd.read_csv("run/maps/maps.csv")
    assert len(table) == 2
    rows = pd.read_csv(runs / "set/volumes.csv")
    rows["id"] = [path.split("/")[1].removesuffix(".nii.gz") for path in rows["path"]]
    answers = pd.read_csv("run/predictions.csv").set_index("id")
    for row in table.itertuples():
        made = nibabel.load(tmp_path / "run/maps" / row.nifti)
        given = nibabel.load(runs / "set" / rows.set_index("id").loc[row.id, "path"])
        assert made.shape == given.shape
        assert np.allclose(made.affine, given.affine, atol=1e-6)
        assert np.isfinite(made.get_fdata()).all()
        assert made.get_fdata().any()
        assert (tmp_path / "run/maps" / row.picture).stat().st_size > 10_000
        p = answers.loc[row.id, "p_large"]
        assert row.logit == pytest.approx(np.log(p / (1 - p)), abs=1e-4)
    assert "Maps: 2" in out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("resnet", [], "contributions need"), ("vit", ["--maps=-1"], "maps -1 must be 0 or more")],
)
def test_maps_that_cannot_be_made_are_refused_before_work(medsoft, runs, name, options, message, tmp_path):
    code, _, err = medsoft("test", f"--checkpoint={runs / name}", "--maps=1", "--out=run", *options)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "run").exists()


def test_maps_are_of_volumes(medsoft, fit):
    fit("--trainer.max_epochs=1", "--out=run")
    code, _, err = medsoft("test", "--checkpoint=run", "--maps=1", "--out=again")
    assert (code, "--maps is for volumes" in err) == (2, True)


def test_from_dynamic_dicom_series_to_maps_in_the_patients_space(medsoft, tmp_path):
    """As a user would type it: index, join labels, fit on phases and subtractions, maps of new series."""
    from medsoft.data.volumes.read import read_volume

    for i in range(10):
        voxels = np.random.default_rng(i).integers(0, 300, (18, 20, 8)).astype(np.int16)
        for phase in (1, 2):
            bright = voxels + 400 * (i % 2) * (phase == 2)
            write_series(
                tmp_path / "scans" / f"case{i}", bright, prefix=f"{phase}-", SeriesInstanceUID=f"1.2.3.{i}",
                StudyInstanceUID=f"1.2.4.{i}", PatientID=f"p{i}", Modality="MR", TemporalPositionIdentifier=phase,
                ImageOrientationPatient=[0.96, 0.28, 0, -0.28, 0.96, 0],
            )  # fmt: skip
    (tmp_path / "salt").write_text("5a" * 32)
    assert medsoft("data", "index", "scans", "--out=index.csv", "--salt=salt")[0] == 0
    index = pd.read_csv("index.csv", dtype=str)
    assert len(index) == 10
    index["label"] = [("plain", "uptake")[int(uid.split(".")[-1]) % 2] for uid in index["series_uid"]]
    index.to_csv("labelled.csv", index=False)
    words = [word for word in TINY_VOLUME if "intensity" not in word]  # of MR it is known
    code, out, err = medsoft(
        "fit", "--config=volume", "--data.table=labelled.csv", "--data.id=id", "--data.patient=patient",
        "--data.positive=uptake", "--transforms.dynamic=both", *words, "--trainer.max_epochs=1", "--out=run",
    )  # fmt: skip
    assert code == 0, err
    assert "10 volumes of 3 x 16 x 16 x 16" in out  # two phases and a subtraction
    code, _, err = medsoft("predict", "--checkpoint=run", "--maps=1", "--out=new", "--figures=false")
    assert code == 0, err
    row = pd.read_csv("new/maps/maps.csv").iloc[0]
    made = nibabel.load(tmp_path / "new/maps" / row["nifti"])
    volume = read_volume(index.set_index("id").loc[row["id"], "path"], time="phases")
    assert made.shape == volume.shape
    assert np.allclose(made.affine, volume.affine, atol=1e-5)


def test_maps_of_a_regression_speak_in_the_unit_of_its_column(medsoft, runs, tmp_path):
    words = [f"--data.table={runs / 'set' / 'volumes.csv'}", "--data.label=ball_mm3", "--data.task=regression"]
    options = [*TINY_VOLUME, "--data.patient=patient", "--trainer.max_epochs=1", "--report=false"]
    assert medsoft("fit", "--config=volume", *words, *options, "--out=run")[0] == 0
    assert medsoft("test", "--checkpoint=run", "--maps=2", "--out=new", "--figures=false", "--report=false")[0] == 0
    answers = pd.read_csv("new/predictions.csv").set_index("id")["prediction"]
    for row in pd.read_csv("new/maps/maps.csv").itertuples():
        assert row.logit == pytest.approx(answers[row.id], rel=1e-4)
        placed = nibabel.load(tmp_path / "new/maps" / row.nifti).get_fdata()
        assert np.abs(placed).max() > 0
    targets = pd.read_csv(runs / "set" / "volumes.csv")["ball_mm3"]
    assert answers.between(targets.min() - targets.std(), targets.max() + targets.std()).all()


def test_rounding_noise_is_no_map(medsoft, runs, tmp_path):
    without_knowledge(runs / "vit", tmp_path / "run")
    code, out, err = medsoft("test", "--checkpoint=run", "--maps=2", "--out=new", "--figures=false")
    assert code == 0, err
    assert "Maps: 0 in" in out
    assert "2 of 2: no map: what the parts add is rounding noise" in out
    table = pd.read_csv("new/maps/maps.csv", keep_default_na=False)
    assert table["note"].str.startswith("no map").all()
    assert (table["nifti"] + table["picture"] == "").all()
    assert [path.name for path in (tmp_path / "new/maps").iterdir()] == ["maps.csv"]
