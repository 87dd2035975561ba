"""A bundle without medsoft: preparing is described in full, and the script in it gives the same probabilities."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.classifiers.image import Classifier
from medsoft.data.images.read import read_image
from medsoft.data.transforms import ChestXray, Dermoscopy, Fundus, Histology, Plain
from medsoft.data.transforms.base import Transforms
from medsoft.inference.export.portable import preprocessing as portable
from medsoft.inference.export.portable import steps
from medsoft.specs import DataSpec
from medsoft.task import Task

RECIPES = {
    "plain": Plain(32),
    "plain, cropped, grey, windowed": Plain((32, 24), channels=1, fit="crop", window=(1, 99)),
    "fundus": Fundus(32),
    "dermoscopy": Dermoscopy(32, colour_constancy=True),
    "chest, grey, no window": ChestXray(32, window=None),
    "chest": ChestXray(32, channels=3),
    "histology": Histology(32),
}
GREY_LEVEL = 1 / 255
BINARY = Task.of("binary", ("no", "yes"))


def prepared(transforms: Transforms, image: np.ndarray) -> np.ndarray:
    """By the steps as ``bundle.json`` says them, (1, C, H, W)."""
    found = json.loads(json.dumps(portable.describe_preprocessing(transforms)))  # what a reader of the file gets
    for step in found["steps"]:
        image = getattr(steps, step["step"])(image, **step["options"])
    return image


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A lit disc with structure on black, and a bright speck beside it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot((y - height / 2) / height, (x - width / 2.2) / width) < 0.4
    colour = np.array([180, 110, 70]) * (0.7 + 0.3 * np.sin(x / 9))[..., None] + rng.normal(0, 8, (height, width, 3))
    image = np.where(inside[..., None], colour, 3)
    image[1:4, 1:4] = 200
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    height=st.integers(8, 330),
    width=st.integers(8, 330),
    kind=st.sampled_from(["colour", "grey", "16 bits"]),
    seed=st.integers(0, 9),
)
def test_the_steps_of_every_recipe_are_what_it_does(name, height, width, kind, seed):
    transforms = RECIPES[name]
    image = photograph(height, width, seed)
    if kind == "grey":
        image = image[..., :1]
    if kind == "16 bits":
        image = image[..., :1].astype(np.uint16) * 251 + seed
    wanted, found = transforms.finish(transforms.prepare(image)), prepared(transforms, image)
    # Up to a grey level, or two where the colour of the light is divided out of rounded values.
    allowed = (2.01 if getattr(transforms, "colour_constancy", False) else 1.01) * GREY_LEVEL / min(transforms.std)
    assert found.shape == (1, *wanted.shape)
    assert found.dtype == np.float32
    assert np.abs(found[0] - wanted).max() <= allowed
    assert (np.abs(found[0] - wanted) > 1e-5).mean() < 0.1


def test_every_recipe_says_its_steps_and_nothing_random():
    shipped = {cls for cls in Transforms.__subclasses__() if cls.__module__.startswith("medsoft.")}
    assert shipped == {type(one) for one in RECIPES.values()}, "a new recipe joins this test"
    for transforms in RECIPES.values():
        said = portable.describe_preprocessing(transforms)
        text = json.dumps(said)
        for word in ("augmentation", "rotation", "zoom", "jitter", "flip"):
            assert word not in text
        assert said["result"]["size"] == dict(zip(("height", "width"), transforms.size, strict=True))
        assert portable.without_script(said, ["image"]) == ""
        assert all(step["what"] for step in said["steps"])


def test_what_a_script_cannot_do_is_said():
    said = portable.describe_preprocessing(Fundus(32, clahe=2.0))
    assert "CLAHE of OpenCV (clip limit 2" in portable.without_script(said, ["image"])
    assert "also takes covariates" in portable.without_script(said, ["image", "covariates"])

    class Own(Plain):
        def steps(self):
            return Transforms.steps(self)

    assert "the recipe Own, which does not say its steps" in portable.without_script(
        portable.describe_preprocessing(Own(32)), ["image"]
    )


def pictures(folder: Path) -> list[Path]:
    """One file of every kind that the script reads."""
    folder.mkdir()
    colour = Image.fromarray(photograph(90, 120))
    turned = Image.Exif()
    turned[0x0112] = 6
    grey16 = photograph(70, 60)[..., 0].astype(np.uint16) * 251
    alpha = colour.copy()
    alpha.putalpha(Image.fromarray(photograph(90, 120, seed=1)[..., 0]))
    kinds = {
        "photo.jpg": (colour, {"quality": 90, "exif": turned}),
        "grey.png": (colour.convert("L"), {}),
        "grey16.png": (Image.fromarray(grey16), {}),
        "palette.png": (colour.quantize(32), {}),
        "alpha.png": (alpha, {}),
        "bitmap.bmp": (colour, {}),
        "bilevel.png": (colour.convert("1"), {}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "web.webp": (colour, {"lossless": True}),
    }
    for name, (picture, options) in kinds.items():
        picture.save(folder / name, **options)
    return sorted(folder.iterdir())


def test_the_script_reads_pictures_as_medsoft_does(tmp_path):
    for file in pictures(tmp_path / "figures"):
        wanted, found = read_image(file), steps.read(str(file))
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), file
        np.testing.assert_array_equal(found, wanted, err_msg=file.name)
    rgb16 = tmp_path / "rgb16.png"
    import imagecodecs

    rgb16.write_bytes(imagecodecs.png_encode(photograph(20, 30).astype(np.uint16) * 257))
    frames = [Image.fromarray(photograph(20, 30, seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:])
    for file in (rgb16, tmp_path / "two.webp"):
        with pytest.raises(SystemExit, match="are not read here"):
            steps.read(str(file))


BACKBONE = {"patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 2}


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> tuple[Path, Classifier]:
    """A small network that answers differently to different pictures, and its ONNX file."""
    pytest.importorskip("onnxruntime", reason="the optional packages for ONNX are missing")
    from medsoft.inference.export import network

    torch.manual_seed(0)
    model = Classifier(DataSpec(BINARY, 3, (32, 32), np.ones(2)), "vit_seqnorm_tiny_patch16_224", BACKBONE)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    network._export(path, "onnx", model.eval(), network.fixed_network(model))
    return path, model


@pytest.mark.parametrize("name", [name for name, one in RECIPES.items() if one.channels == 3])
def test_the_script_gives_the_probabilities_of_the_model(tmp_path, onnx_file, name):
    transforms = RECIPES[name]
    path, model = onnx_file
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(path.read_bytes())
    about = {"preprocessing": portable.describe_preprocessing(transforms), "outputs": BINARY.outputs()}
    about["networks"] = [{"format": "onnx", "inputs": {"image": []}}]
    assert portable.write_script(folder, about) == ""
    (folder / "bundle.json").write_text(json.dumps(about))
    files = pictures(tmp_path / "figures")
    done = subprocess.run(
        [sys.executable, "-I", folder / "run_onnx.py", *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert list(rows[0]) == ["file", "p_no", "p_yes"]
    shown = np.stack([transforms.finish(transforms.prepare(read_image(file))) for file in files])
    with torch.no_grad():
        wanted = model.objective.probabilities(model(torch.from_numpy(shown)))[:, 1].numpy()
    found = np.array([float(row["p_yes"]) for row in rows])
    assert wanted.std() > 0.01, "the network tells these pictures apart"
    np.testing.assert_allclose(found, wanted, atol=5e-3)  # random weights are touchy: a grey level is much to them
    text = (folder / "run_onnx.py").read_text()
    for library in ("medsoft.", "cv2", "torch", "scipy"):
        assert f"import {library}" not in text
        assert f"from {library}" not in text


def test_outputs_are_named_for_every_task():
    expected = {
        "binary": ["p_a", "p_b"],
        "multiclass": ["p_a", "p_b"],
        "multilabel": ["p_a", "p_b"],
        "ordinal": ["p_a", "p_b"],
        "regression": ["prediction"],
    }
    for kind, columns in expected.items():
        task = Task.of(kind, () if kind == "regression" else ("a", "b"))
        outputs = task.outputs()
        assert outputs[-1]["columns"] == columns
        assert outputs[0]["name"] == "logits"
        spec = DataSpec(task, 1, (16, 16), np.ones((2, 2) if kind == "multilabel" else 2), (0.0, 1.0))
        model = Classifier(spec, "vit_seqnorm_tiny_patch16_224", BACKBONE)
        assert len(outputs[0]["columns"]) == model.objective.outputs
