"""Volumes: where voxels lie through every step, scales of values, tables of files, and training on them."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.datasets.sampling import SampleKey
from medsoft.data.datasets.volume_dataset import DiskCache
from medsoft.data.datasets.volume_module import VolumeDataModule
from medsoft.data.volumes.transforms import geometry
from medsoft.data.volumes.transforms.augment import Augmentation
from medsoft.data.volumes.transforms.geometry import located
from medsoft.data.volumes.transforms.intensity import scaled, with_subtractions
from medsoft.data.volumes.transforms.recipe import VolumeTransforms
from medsoft.errors import InputError, RunError
from tests.builders.volumes import TINY_VOLUME, oblique, save, varied, write_volumes

pytestmark = pytest.mark.long

AXES = ["RAS", "LPS", "SAR", "PIL", "IRA"]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """16 volumes of 8 patients."""
    return write_volumes(tmp_path_factory.mktemp("volumes"), 16)


@pytest.fixture(scope="module")
def phases(tmp_path_factory):
    """12 dynamic series of three phases, each a file of its own."""
    return write_volumes(tmp_path_factory.mktemp("phases"), 12, phases=3)


def ramp(shape=(24, 20, 16), spacing=(1.0, 1.5, 2.0), degrees=20.0):
    """Three channels that hold each voxel's own x, y and z in mm."""
    affine = oblique(spacing, degrees)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    world = np.einsum("ij,jxyz->ixyz", affine[:3, :3], index) + affine[:3, 3][:, None, None, None]
    return located(world.astype(np.float32), affine)


def worst_mm(volume, edge: int = 0) -> float:
    """How far the values of a ramp are from the places that the affine gives to their voxels."""
    inner = volume.as_tensor().numpy()
    index = np.stack(np.meshgrid(*map(np.arange, inner.shape[1:]), indexing="ij"))
    affine = np.asarray(volume.affine)
    error = np.abs(np.einsum("ij,jxyz->ixyz", affine[:3, :3], index) + affine[:3, 3][:, None, None, None] - inner)
    cut = slice(edge, -edge or None)
    return float(error[:, cut, cut, cut].max())


class TestWhereVoxelsLie:
    @pytest.mark.parametrize("axes", AXES)
    def test_orientation_moves_voxels_and_affine_together(self, axes):
        turned = geometry.oriented(ramp(), axes)
        assert worst_mm(turned) < 1e-4
        # along each axis, the coordinate that its letter names rises
        for axis, code in enumerate(axes):
            along = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
            step = np.asarray(turned.affine)[along, axis]
            assert (step > 0) == (code in "RAS")

    @settings(max_examples=20, deadline=None)
    @given(
        st.tuples(*[st.integers(3, 20)] * 3), st.tuples(*[st.floats(0.6, 3)] * 3), st.sampled_from(["pad", "resample"])
    )
    def test_size_and_spacing_keep_every_place(self, size, spacing, step):
        volume = geometry.oriented(ramp(), "RAS")
        if step == "resample":
            resampled = geometry.to_spacing(volume, spacing)
            assert geometry.spacing_of(resampled) == pytest.approx(spacing, rel=1e-3)
            edge = 1 + math.ceil(max(4 * (max(spacing) - 1) / 2 / min(spacing), 1))
            if min(resampled.shape[1:]) > 2 * edge:  # smoothing and clamping bend the ramp near the faces alone
                assert worst_mm(resampled, edge) < 1e-3
            return
        shown = geometry.padded(volume, size, volume.as_tensor().flatten(1).amin(dim=1))
        assert tuple(shown.shape[1:]) == size
        inside = shown.as_tensor() != volume.as_tensor().flatten(1).amin(dim=1)[:, None, None, None]
        index = np.argwhere(inside.all(dim=0).numpy())
        affine = np.asarray(shown.affine)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        assert np.abs(world - shown.as_tensor()[:, *index.T].numpy().T).max(initial=0) < 1e-4

    def test_stretching_keeps_places_too(self):
        shown = geometry.stretched(ramp(degrees=0), (24, 30, 16))
        assert worst_mm(shown, edge=1) < 0.05

    def test_mirroring_moves_the_affine_along(self):
        volume = geometry.oriented(ramp(), "RAS")
        mirrored = geometry.mirrored(volume, "RAS")
        assert torch.equal(mirrored.as_tensor(), volume.as_tensor().flip(1))
        assert worst_mm(mirrored) < 1e-4

    @pytest.mark.parametrize("axes", AXES)
    def test_each_half_is_of_its_side(self, axes):
        volume = geometry.oriented(ramp(degrees=0), axes)
        right, left = (geometry.half(volume, axes, side).as_tensor()[0] for side in ("right", "left"))
        assert right.min() > left.max()  # the first channel is mm to the right
        assert right.numel() == left.numel()
        assert worst_mm(geometry.half(volume, axes, "right")) < 1e-4

    def test_a_box_is_cut_with_its_margin_and_no_further_than_the_volume(self):
        volume = ramp(spacing=(1.0, 2.0, 4.0))
        cut = geometry.crop_box(volume, (4, 4, 4, 6, 6, 6), margin_mm=4)
        assert tuple(cut.shape[1:]) == (10, 6, 4)
        assert worst_mm(cut) < 1e-4
        assert tuple(geometry.crop_box(volume, (0, 0, 0, 99, 3, 3), 0).shape[1:]) == (24, 3, 3)
        with pytest.raises(ValueError, match="outside of the volume's 24 x 20 x 16"):
            geometry.crop_box(volume, (30, 0, 0, 32, 3, 3), 0)

    def test_foreground_is_what_is_bright(self):
        values = np.random.default_rng(0).normal(0, 1, (1, 20, 20, 20)).astype(np.float32)
        values[0, 5:12, 6:10, 3:18] += 50
        cut = geometry.crop_foreground(located(values, np.eye(4)), None, margin_mm=1)
        assert tuple(cut.shape[1:]) == (9, 6, 17)
        with pytest.raises(ValueError, match="no voxel is above 100"):
            geometry.crop_foreground(located(values, np.eye(4)), 100.0, 0)

    def test_another_volume_is_brought_to_the_same_grid(self):
        reference = ramp(shape=(10, 10, 10), spacing=(1.5, 1.5, 1.5))
        other = ramp(shape=(30, 30, 30), spacing=(1.0, 1.0, 1.0), degrees=5.0)
        moved = geometry.on_grid_of(other, reference)
        assert moved.shape == reference.shape
        there = (moved.as_tensor() != 0).all(dim=0)
        assert there.float().mean() > 0.5
        assert (moved.as_tensor() - reference.as_tensor())[:, there].abs().median() < 1e-3


class TestScales:
    def test_phases_keep_their_ratios_and_others_do_not(self):
        x = torch.rand(2, 4, 4, 4)
        x[1] = x[0] + 5
        volume = located(x.numpy(), np.eye(4))
        alike = scaled(volume, "zscore", (0, 1), (1, 99), by_first=True).as_tensor()
        assert (alike[1] - alike[0]).std() < 1e-4
        assert (alike[1] - alike[0]).mean() > 5
        alone = scaled(volume, "zscore", (0, 1), (1, 99), by_first=False).as_tensor()
        assert torch.allclose(alone[1], alone[0], atol=1e-4)
        subtracted = with_subtractions(located(alike.numpy(), np.eye(4)), "both").as_tensor()
        assert torch.equal(subtracted[2], alike[1] - alike[0])

    def test_windows_and_percentiles(self):
        x = np.linspace(-1000, 1000, 1000, dtype=np.float32).reshape(1, 10, 10, 10)
        volume = located(x, np.eye(4))
        hu = scaled(volume, "window", (-160.0, 240.0), (1, 99), by_first=False).as_tensor().flatten()
        assert (hu[0], hu[-1]) == (0, 1)
        assert hu[x.flatten().searchsorted(40)] == pytest.approx(0.5, abs=0.01)
        share = scaled(volume, "percentiles", (0, 1), (10, 90), by_first=False).as_tensor()
        assert (share == 0).float().mean() == pytest.approx(0.1, abs=0.01)
        assert (share == 1).float().mean() == pytest.approx(0.1, abs=0.01)

    def test_a_constant_volume_becomes_zero(self):
        volume = located(np.full((1, 3, 3, 3), 7.0), np.eye(4))
        for scaling in ("zscore", "percentiles"):
            assert not scaled(volume, scaling, (0, 1), (1, 99), by_first=False).as_tensor().any()

    def test_the_scale_of_an_unknown_modality_is_asked_for(self):
        recipe = VolumeTransforms()
        assert (recipe.scaling("MR"), recipe.scaling("CT")) == ("zscore", "window")
        with pytest.raises(ValueError, match=r"set transforms\.intensity"):
            recipe.scaling("")


class TestAugmentation:
    def test_is_a_function_of_the_seed(self):
        steps = Augmentation((0,), 10, 0.1, 0.05, 0.1, 0.05, 0.2)
        volume = torch.rand(2, 12, 12, 12)
        before = volume.clone()
        first, again, other = steps(volume, 1), steps(volume, 1), steps(volume, 2)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(volume, before)
        assert type(first) is torch.Tensor
        assert (first.shape, first.dtype) == (volume.shape, torch.float32)

    def test_a_bias_field_leaves_no_signal_as_it_is(self):
        field = Augmentation((), 0, 0, 0, 0, 0, 0.5, "both")
        volume = torch.full((3, 8, 8, 8), -2.0)  # two phases and a subtraction
        volume[:, 2:6] = torch.tensor([3.0, 4.0, 1.0])[:, None, None, None]
        volume[2, :2] = 0.0
        changed = field(volume, 1)
        assert torch.allclose(changed[:2, :2], volume[:2, :2])  # the lowest value is no signal
        assert torch.equal(changed[2, :2], volume[2, :2])  # in a subtraction 0 is
        ratio = (changed[1, 2:6] + 2) / (volume[1, 2:6] + 2)
        assert ratio.std() > 0.01
        assert torch.allclose(changed[2, 2:6] / volume[2, 2:6], ratio, atol=1e-5)

    def test_sides_are_kept_unless_they_do_not_matter(self):
        still = {"rotation": 0, "zoom": 0, "shift": 0, "jitter": 0, "noise": 0}
        volume = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 8, 8)
        for sides in ("keep", "mirror", "flip"):
            recipe = VolumeTransforms(size=8, sides=sides, **still)
            turned = [torch.equal(recipe.augment(volume, seed), volume.flip(1)) for seed in range(20)]
            assert any(turned) == (sides == "flip")


class TestModule:
    def test_sixteen_volumes_train(self, medsoft, volumes, tmp_path):
        code, out, err = medsoft(
            "fit", "--config=volume", f"--data.table={volumes}", "--data.positive=large", "--data.patient=patient",
            *TINY_VOLUME, "--trainer.max_epochs=25", "--model.lr=3e-3", "--out=run", "--transforms.spacing_mm=1.5",
            "--transforms.augmentation=false", "--monitor=loss",
        )  # fmt: skip
        assert code == 0, err
        assert "kept in memory" in out
        assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["overall"]["auroc"] == 1.0
        again = medsoft("test", "--checkpoint=run", "--out=again", "--figures=false")
        assert again[0] == 0
        tables = [pd.read_csv(f"{name}/predictions.csv").query("split == 'test'") for name in ("run", "again")]
        assert tables[0]["p_large"].to_numpy() == pytest.approx(tables[1]["p_large"].to_numpy(), abs=1e-6)

    @pytest.mark.parametrize("dynamic", ["phases", "subtractions", "both"])
    def test_columns_become_channels(self, phases, dynamic):
        recipe = VolumeTransforms(size=16, intensity="zscore", dynamic=dynamic)
        data = VolumeDataModule(recipe, str(phases), positive="large", val_fraction=0.2)
        data.load(["train"])
        channels = {"phases": 3, "subtractions": 2, "both": 5}[dynamic]
        assert data.spec.channels == channels
        sample = next(iter(data.train_dataloader()))
        assert sample["image"].shape == (4, channels, 16, 16, 16)

    def test_memory_disk_and_neither_give_the_same(self, volumes, tmp_path):
        seen = []
        for cache in ("memory", "disk", "none", "disk"):
            data = VolumeDataModule(
                VolumeTransforms(size=16, intensity="zscore", spacing_mm=1.5), str(volumes), positive="large",
                cache=cache, cache_dir=str(tmp_path / "cache"),
            )  # fmt: skip
            data.load(["train"])
            dataset = data._parts["train"][1]
            seen.append((dataset[3]["image"], dataset[SampleKey(1, 3)]["image"]))
        for other in seen[1:]:
            assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))
        files = list((tmp_path / "cache").glob("*.pt"))
        assert len(files) == len(data.part("train"))
        assert not any("case" in file.name for file in files)

    def test_a_changed_file_or_option_is_not_taken_from_the_cache(self, tmp_path):
        table = write_volumes(tmp_path / "set", 4)
        folder = tmp_path / "cache"

        def first(**options):
            recipe = VolumeTransforms(size=8, intensity="none", **options)
            data = VolumeDataModule(recipe, str(table), positive="large", stage="test")
            cache = DiskCache([data.files.of(1)], data.reader, folder)
            return cache[0].image

        before = first()
        assert torch.equal(first(), before)
        assert not torch.equal(first(spacing_mm=2.0), before)
        path = next((tmp_path / "set/volumes").glob("case00*"))
        save(np.random.default_rng(1).random((18, 20, 16)), np.eye(4), path)
        assert not torch.equal(first(), before)
        assert torch.equal(first(augmentation=False), first())

    @pytest.mark.parametrize("cache", ["memory", "disk", "none"])
    def test_what_the_size_cuts_off_is_said(self, tmp_path, cache):
        save(varied((10, 40, 20)), np.eye(4), tmp_path / "long.nii.gz")
        save(varied((10, 20, 20)), np.eye(4), tmp_path / "short.nii.gz")
        table = tmp_path / "table.csv"
        table.write_text("path,label,split\nlong.nii.gz,a,train\nshort.nii.gz,b,train\n")

        def said(**options):
            recipe = VolumeTransforms(intensity="none", **options)
            data = VolumeDataModule(
                recipe, str(table), positive="a", stage="test", cache=cache, cache_dir=str(tmp_path / "cache")
            )
            for _ in range(2):  # from a cache on disk the second time
                data.load(["train"])
            return [note for note in data.notes if note.startswith("cut")]

        found = said(size=(16, 30, 20))
        assert len(set(found)) == 1
        assert "16 x 30 x 20 voxels: 1 of 2 volumes, which lose up to 25% of an axis" in found[0]
        assert said(size=40) == said(size=8, fit="stretch") == []

    def test_a_cache_larger_than_its_limit_is_refused_or_left(self, volumes, tmp_path):
        def load(**options):
            data = VolumeDataModule(
                VolumeTransforms(size=16, intensity="zscore"), str(volumes), positive="large", **options
            )
            data.load(["train"])
            return data

        assert any("read anew" in note for note in load(cache_gib=1e-4).notes)
        with pytest.raises(InputError, match=r"exceed data\.cache_gib 0\.0001"):
            load(cache="disk", cache_dir=str(tmp_path), cache_gib=1e-4)

    def test_a_missing_volume_is_refused_or_zeros(self, phases, tmp_path):
        frame = pd.read_csv(phases)
        for column in ("path_0", "path_1", "path_2"):
            frame[column] = [str(phases.parent / name) for name in frame[column]]
        frame.loc[0, "path_1"] = None
        frame.loc[1, "path_0"] = None
        frame.to_csv(tmp_path / "t.csv", index=False)
        recipe = VolumeTransforms(size=16, intensity="zscore")
        with pytest.raises(InputError, match=r"missing volume \(2\).*\n.*row 1: path_1 is empty"):
            VolumeDataModule(recipe, str(tmp_path / "t.csv"), positive="large")
        data = VolumeDataModule(recipe, str(tmp_path / "t.csv"), positive="large", missing="zeros", stage="test")
        data.load(["test"])
        images = [data._parts["test"][1][index]["image"] for index in (0, 1)]
        assert [bool(image.abs().sum()) for image in images[0]] == [True, False, True]
        assert [bool(image.abs().sum()) for image in images[1]] == [False, True, True]
        with pytest.raises(InputError, match="needs all of its phases"):
            VolumeDataModule(
                VolumeTransforms(dynamic="both"), str(tmp_path / "t.csv"), positive="large", missing="zeros"
            )

    def test_two_breasts_of_one_volume_are_two_samples(self, volumes, tmp_path):
        path = str(next((volumes.parent / "volumes").glob("case00*")))
        rows = [{"path": path, "laterality": side, "label": side} for side in ("L", "Right")]
        table = tmp_path / "t.csv"
        pd.DataFrame(rows).to_csv(table, index=False)
        still = VolumeTransforms(size=(12, 20, 16), intensity="none", half=True)
        mirror = VolumeTransforms(size=(12, 20, 16), intensity="none", half=True, sides="mirror")
        shown = {}
        for name, recipe in (("keep", still), ("mirror", mirror)):
            data = VolumeDataModule(recipe, str(table), positive="Right", laterality="laterality", stage="test")
            data.load(["test"])
            shown[name] = [data._parts["test"][1][index]["image"] for index in (0, 1)]
        assert torch.equal(shown["keep"][0], shown["mirror"][0])  # the left one stays
        assert not torch.equal(shown["keep"][1], shown["mirror"][1])
        with pytest.raises(InputError, match=r"data\.laterality"):
            VolumeDataModule(still, str(table), positive="Right")
        with pytest.raises(InputError, match=r"duplicate \(1\)"):
            VolumeDataModule(VolumeTransforms(), str(table), positive="Right")

    def test_a_box_is_read_from_its_columns(self, volumes, tmp_path):
        frame = pd.read_csv(volumes)
        frame["path"] = [str(volumes.parent / name) for name in frame["path"]]
        box = ["x0", "y0", "z0", "x1", "y1", "z1"]
        frame[box] = [4, 5, 3, 14, 15, 13]
        frame.loc[2, "x1"] = 3
        frame.to_csv(tmp_path / "t.csv", index=False)
        recipe = VolumeTransforms(size=10, intensity="none", orientation="RAS", crop="box")
        with pytest.raises(InputError, match=r"no box \(1\)"):
            VolumeDataModule(recipe, str(tmp_path / "t.csv"), positive="large", box=box)
        data = VolumeDataModule(
            recipe, str(tmp_path / "t.csv"), positive="large", box=box, on_error="skip", stage="test"
        )
        data.load(["test"])
        image = data._parts["test"][1][0]["image"][0]
        import nibabel

        whole = nibabel.load(frame["path"][0]).get_fdata()
        assert torch.allclose(image, torch.from_numpy(whole[4:14, 5:15, 3:13]).float(), atol=1e-5)

    def test_arrays_of_medmnist_are_volumes(self, medsoft, tmp_path):
        rng = np.random.default_rng(0)
        arrays = {}
        for split, n in (("train", 12), ("val", 6)):
            labels = np.arange(n) % 2
            arrays[f"{split}_images"] = (
                rng.random((n, 12, 12, 12)) * (100 + 155 * labels[:, None, None, None])
            ).astype(np.uint8)
            arrays[f"{split}_labels"] = labels[:, None]
        np.savez(tmp_path / "set.npz", **arrays)
        code, _, err = medsoft(
            "fit", "--config=volume", "--data.table=set.npz", "--data.task=binary", "--data.rename_splits={val: test}",
            *TINY_VOLUME, "--transforms.intensity=none", "--transforms.size=12", "--trainer.max_epochs=1", "--out=run",
        )  # fmt: skip
        assert code == 0, err
        assert len(pd.read_csv("run/predictions.csv").query("split == 'test'")) == 6

    @pytest.mark.parametrize("backbone", ["vit_softmax_tiny_patch8_224", "vit_soft_tiny_patch8_224", "resnet18_3d"])
    def test_other_backbones_train_one_step(self, medsoft, volumes, backbone):
        arguments = ["--model.backbone_args={widen_factor: 0.1}"] if "resnet" in backbone else []
        code, _, err = medsoft(
            "fit", "--config=volume", f"--data.table={volumes}", "--data.positive=large", *TINY_VOLUME,
            f"--model.backbone={backbone}", *arguments, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1",
            "--out=run",
        )  # fmt: skip
        assert code == 0, err

    def test_the_shipped_configuration_for_breasts_runs_one_step(self, medsoft, phases):
        code, _, err = medsoft(
            "fit", "--config=breast_mri", f"--data.table={phases}", "--data.positive=large",
            "--transforms.size=[16,16,16]", "--model.backbone_args={depth: 1, embed_dim: 32, num_heads: 2}",
            "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1",
            "--figures=false", "--out=run",
        )  # fmt: skip
        assert code == 0, err

    def test_a_regression_of_volumes(self, medsoft, volumes, tmp_path):
        code, out, err = medsoft(
            "fit", "--config=volume", f"--data.table={volumes}", "--data.label=ball_mm3", "--data.task=regression",
            *TINY_VOLUME, "--trainer.max_epochs=1", "--out=run",
        )  # fmt: skip
        assert code == 0, err
        assert "mae" in out


class TestPhantoms:
    def test_a_larger_set_begins_with_the_smaller_one_and_trains(self, medsoft, tmp_path):
        import nibabel

        for n in (4, 12):
            assert medsoft("data", "phantom", "volumes", "--out", f"p{n}", "--n", n, "--seed", 3)[0] == 0
        few, more = (pd.read_csv(f"p{n}/labels.csv", dtype={"age": float}) for n in (4, 12))
        pd.testing.assert_frame_equal(few, more.head(4))
        same = [nibabel.load(f"p{n}/{few['path_post1'][2]}").get_fdata() for n in (4, 12)]
        assert np.array_equal(*same)
        ill = more.groupby("patient")["label"].apply(lambda labels: (labels == "lesion").any())
        assert ill.to_numpy().reshape(-1, 2).sum(axis=1).tolist() == [1, 1, 1]  # one of every two patients
        assert ((more["lesion_mm3"] > 0) == (more["label"] == "lesion")).all()

        code, out, err = medsoft(
            "fit", "--config=breast_mri", "--data.table=p12/labels.csv", "--data.positive=lesion",
            "--data.patient=patient", "--transforms.size=[24,32,24]", "--transforms.spacing_mm=6",
            "--model.backbone_args={depth: 1, embed_dim: 32, num_heads: 2}", "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--out=run",
        )  # fmt: skip
        assert code == 0, err
        assert "12 volumes of 5 x 24 x 32 x 24" in out
        ids = pd.read_csv("run/predictions.csv")["id"]
        assert ids.str.fullmatch(r"phantom_\d{4}_pre-(left|right)").all()

    def test_lesions_lie_on_the_side_that_the_table_says(self):
        from medsoft.data.phantoms.volumes import affine_of, draw_breasts

        for site in ("A", "B"):
            affine = affine_of(site)
            for side in (0, 1):
                phases, lesions_mm3 = draw_breasts(0, 1, site, affine, (side == 0, side == 1))
                assert lesions_mm3[side] > 0 == lesions_mm3[1 - side]
                uptake = located((phases[1] - phases[0])[None], affine)
                right, left = (
                    geometry.half(geometry.oriented(uptake, "RAS"), "RAS", name).as_tensor()
                    for name in ("right", "left")
                )
                assert (right.max() > left.max()) == (side == 1)

    @pytest.mark.parametrize(("words", "message"), [(["--n=3"], "two breasts"), (["--seed=-1"], "0 or more")])
    def test_bad_options(self, medsoft, words, message):
        code, _, err = medsoft("data", "phantom", "volumes", "--out=p", *words)
        assert (code, message in err) == (2, True)

    def test_data_show_draws_volumes(self, medsoft, volumes, tmp_path):
        code, _, err = medsoft(
            "data", "show", volumes, "--config=volume", "--data.positive=large", "--transforms.intensity=zscore",
            "--transforms.size=16", "--transforms.orientation=LPS", "--n=2", "--out=sheet.png",
        )  # fmt: skip
        assert code == 0, err
        assert (tmp_path / "sheet.png").stat().st_size > 10_000
        code, _, err = medsoft("data", "show", volumes, "--config=volume", "--data.positive=large", "--out=other.png")
        assert (code, "set transforms.intensity" in err) == (2, True)
        assert not (tmp_path / "other.png").exists()

    def test_data_show_names_the_row_that_it_cannot_draw(self, medsoft, tmp_path):
        table = write_volumes(tmp_path / "mixed", 2)
        save(varied((18, 20, 16, 2)), np.eye(4), tmp_path / "mixed" / "volumes" / "case01_0.nii.gz")
        code, _, err = medsoft(
            "data", "show", table, "--config=volume", "--data.positive=large", "--transforms.intensity=zscore",
            "--transforms.size=16",
        )  # fmt: skip
        assert (code, err.count("\n")) == (2, 1), err
        assert "volumes.csv: row 2 cannot be drawn: holds 2 volumes" in err
        assert "case01" not in err

    @pytest.mark.parametrize("axes", AXES)
    def test_drawings_are_turned_the_same_way_for_every_orientation(self, axes):
        from medsoft.data.datasets.volume_dataset import VolumeReader
        from medsoft.data.datasets.volume_sheet import _turned

        reader = VolumeReader(VolumeTransforms(orientation=axes), (3,), 10**6)
        straight = geometry.oriented(ramp(), "RAS").as_tensor().numpy()
        turned = _turned(geometry.oriented(ramp(), axes).as_tensor().numpy(), reader)
        assert np.array_equal(turned, straight)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--transforms.size=0"], "transforms.size 0 must be 1 or more"),
            (["--transforms.spacing_mm=-1"], "spacing_mm"),
            (["--transforms.orientation=RAL"], "three letters"),
            (["--transforms.orientation=XYZ"], "three letters"),
            (["--transforms.window=[3,1]"], "must rise"),
            (["--transforms.crop=box"], "data.box go together"),
            (["--transforms.dynamic=both"], "two phases or more"),
            (["--transforms.half=true"], "data.laterality"),
            (["--data.box=[a,b]"], "go together"),
            (["--data.cache=disk"], "data.cache_dir"),
            (["--data.laterality=side"], "no column 'side'"),
            (["--data.path=file"], "no column 'file'"),
            (["--model.backbone=resnet18", "--model.backbone_args={}"], "takes no volumes of 16 x 16 x 16 voxels"),
            (["--use.transforms=medsoft.data.transforms.fundus.Fundus"], "is no VolumeTransforms"),
        ],
    )
    def test_is_refused_in_one_line_before_work_starts(self, medsoft, volumes, options, message, tmp_path):
        code, _, err = medsoft(
            "fit", "--config=volume", f"--data.table={volumes}", "--data.positive=large", *TINY_VOLUME, *options
        )
        assert code == 2, err
        assert message in err
        assert not (tmp_path / "runs").exists()

    def test_images_take_no_recipe_of_volumes(self, medsoft, table):
        recipe = "medsoft.data.volumes.transforms.recipe.VolumeTransforms"
        code, _, err = medsoft("fit", f"--data.table={table}", f"--use.transforms={recipe}")
        assert (code, "is no Transforms" in err) == (2, True)

    def test_unreadable_volumes_are_listed_or_skipped(self, medsoft, tmp_path):
        table = write_volumes(tmp_path / "set", 10)
        files = sorted((tmp_path / "set/volumes").iterdir())
        files[0].write_bytes(b"no volume at all")
        nan = varied((4, 4, 4))
        nan[0, 0, 0] = np.nan
        save(nan, np.eye(4), files[1])
        save(varied((4, 4, 4, 3)), np.eye(4), files[2])
        words = ["fit", "--config=volume", f"--data.table={table}", "--data.positive=large", *TINY_VOLUME]
        words += ["--trainer.max_epochs=1", "--data.val_fraction=0.3", "--data.test_fraction=0"]
        code, _, err = medsoft(*words)
        assert code == 2
        assert "unreadable volume (3)" in err
        assert "NaN" in err
        assert "3 volumes, one after the other" in err
        code, _, err = medsoft(*words, "--data.on_error=skip", "--out=run")
        assert code == 3, err
        assert len(pd.read_csv("run/errors.csv")) == 3

    @pytest.mark.parametrize("cache", ["memory", "disk", "none"])
    def test_the_reason_is_the_same_from_every_cache(self, cache, tmp_path):
        table = write_volumes(tmp_path / "set", 6)
        files = sorted((tmp_path / "set/volumes").iterdir())
        files[1].write_bytes(b"no volume at all")
        recipe = VolumeTransforms(size=8, intensity="none", crop="foreground", foreground_above=11.0)
        save(varied((9, 9, 9)), np.eye(4), files[2])  # without a foreground
        options = {"positive": "large", "cache": cache, "cache_dir": str(tmp_path / "cache"), "stage": "test"}
        with pytest.raises(InputError) as caught:
            VolumeDataModule(recipe, str(table), **options).load(["test"])
        message = str(caught.value)
        assert "is a damaged NIfTI file" in message
        assert "no foreground: no voxel is above 11" in message
        assert "unreadable volume (2)" in message

    def test_a_volume_that_vanishes_during_the_training_is_said_in_one_line(self, tmp_path):
        table = write_volumes(tmp_path / "set", 4)
        data = VolumeDataModule(
            VolumeTransforms(size=8, intensity="none"), str(table), positive="large", cache="none", stage="test",
            check_files=False,
        )  # fmt: skip
        data.load(["test"])
        sorted((tmp_path / "set/volumes").iterdir())[2].unlink()
        with pytest.raises(RunError, match="can no longer be read: it cannot be opened"):
            data.dataset("test")[2]

    def test_a_nifti_without_a_stated_scale_says_what_to_do(self, medsoft, volumes):
        words = [word for word in TINY_VOLUME if "intensity" not in word]
        code, _, err = medsoft("fit", "--config=volume", f"--data.table={volumes}", "--data.positive=large", *words)
        assert code == 2
        assert "set transforms.intensity to zscore" in err
