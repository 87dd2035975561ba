"""``slides segment`` and models of tissue and artefacts, from the command line, with models that ``fit`` trained."""

from __future__ import annotations

import builtins
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from medsoft.cli.main import main
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.tiling.tiling_file import read_tiling
from tests.builders.masks import disc_and_cup, write_masks

smp = pytest.importorskip("segmentation_models_pytorch", reason="the extra segmentation is not installed")

FIT = ["--config=segmentation", "--data.path=file", "--data.mask=mask", "--data.patient=patient"]
FIT += ["--data.classes=[disc, cup]", "--data.patches=true", "--transforms.size=32", "--model.backbone=test_resnet"]
FIT += ["--model.decoder=unet", "--model.encoder=none", "--model.warmup_epochs=0", "--data.batch_size=4"]
FIT += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--figures=false", "--report=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    table = write_masks(folder / "set", 8)
    assert main(["fit", f"--data.table={table}", *FIT, f"--out={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "disc.png"
    Image.fromarray(disc_and_cup(3, 150, 170)[0]).save(path)
    return path


def call(*words: object) -> int:
    return main([str(word) for word in words])


def segment(slide: Path, out: Path, *words: object) -> int:
    every = ("--tissue.method", "everything", "--slide-mpp", 1, "--device", "cpu")
    return call("slides", "segment", slide, "--out", out, *every, *words)


def values_of(out: Path, id: str = "disc") -> np.ndarray:
    return tifffile.imread(SlidesFolder(out).segmentation(id, ".ome.tif"))


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert call(*words) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_slide_and_an_image_of_the_same_pixels_get_the_same_mask(run, slide_file, tmp_path, capsys):
    assert segment(slide_file, tmp_path / "slides", "--checkpoint", run, "--mpp", 1) == 0
    (tmp_path / "new.csv").write_text(f"file,id\n{slide_file},disc\n")
    images = ("--data.table", tmp_path / "new.csv", "--out", tmp_path / "images", "--figures=false", "--report=false")
    assert call("predict", "--checkpoint", run, *images) == 0
    (mask,) = (tmp_path / "images" / "masks").glob("*.png")
    values, wanted = values_of(tmp_path / "slides"), np.asarray(Image.open(mask))
    assert values.shape == wanted.shape == (150, 170)
    assert (values == wanted).mean() > 0.9999  # but for rounding
    capsys.readouterr()
    assert segment(slide_file, tmp_path / "slides", "--checkpoint", run, "--mpp", 1) == 0
    assert "1 kept from earlier runs" in capsys.readouterr().out
    with (tmp_path / "slides" / "areas.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["mm2_disc"]) == pytest.approx(np.count_nonzero(wanted == 1) * 1e-6, rel=1e-4, abs=1e-9)

    assert call("export", run, "--out", tmp_path / "bundle", "--licence", "none") == 0
    assert segment(slide_file, tmp_path / "other", "--checkpoint", tmp_path / "bundle", "--mpp", 1) == 0
    assert np.array_equal(values_of(tmp_path / "other"), values)


def test_slides_that_fail_are_listed_and_the_rest_goes_on(run, slide_file, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.open(slide_file).save(tmp_path / "none.png")
    rows = ["path,id,mpp", f"{slide_file},disc,1", f"{tmp_path / 'broken.png'},bad,1", f"{tmp_path / 'none.png'},none,"]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    words = ("--tissue.method", "everything", "--checkpoint", run, "--mpp", 1, "--device", "cpu", "--jobs", 1)
    assert call("slides", "segment", tmp_path / "table.csv", "--id", "id", "--out", tmp_path / "out", *words) == 3
    errors = (tmp_path / "out" / "errors.csv").read_text()
    assert "bad" in errors
    assert "none" in errors
    assert set(SlidesFolder(tmp_path / "out").slide_statuses()) == {"disc", "bad", "none"}
    assert values_of(tmp_path / "out").shape == (150, 170)


def test_models_that_segment_no_slides_are_refused(run, slide_file, tmp_path, capsys, monkeypatch):
    ask = ("slides", "segment", slide_file, "--slide-mpp", 1, "--out", tmp_path / "out")
    assert "missing: --mpp" in refused(capsys, *ask, "--checkpoint", run)
    assert "name the model with --checkpoint" in refused(capsys, *ask, "--mpp", 1)
    assert "belong together" in refused(capsys, *ask, "--mpp", 1, "--recipe", "grandqc-tissue")
    assert "must be a multiple of 32" in refused(capsys, *ask, "--checkpoint", run, "--mpp", 1, "--tile", 50)
    config = (run / "config.yaml").read_text()
    for old, new, said in (
        ("channels: 3", "channels: 1", "of 1 channel(s)"),
        ("data: masks", "data: image", "says no class of every pixel"),
        ("window: null", "window: [1, 99]", "prepares whole images"),
    ):
        assert old in config
        other = tmp_path / new.split(":")[0]
        (other / "checkpoints").mkdir(parents=True)
        (other / "checkpoints" / "best.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
        (other / "config.yaml").write_text(config.replace(old, new))
        mean = ("mean: null",) if "channels" in new else ()
        assert all(words in config for words in mean)
        assert said in refused(capsys, *ask, "--checkpoint", other, "--mpp", 1)
    assert not (tmp_path / "out").exists()

    imported = builtins.__import__

    def without(name, *rest):
        if name == "segmentation_models_pytorch":
            raise ImportError
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'medsoft[segmentation]'" in refused(capsys, *ask, "--checkpoint", run, "--mpp", 1)


def test_options_reach_the_map_and_its_outlines(run, slide_file, tmp_path):
    few = ("--tile", 64, "--overlap", 16, "--batch_size", 3, "--workers", 1, "--precision", 32, "--max_unreadable", 0)
    assert segment(slide_file, tmp_path / "all", "--checkpoint", run, "--mpp", 1, *few) == 0
    about = json.loads(SlidesFolder(tmp_path / "all").segmentation("disc", ".json").read_text())
    settings = about["made_from"]["settings"]
    assert (about["made_from"]["model"]["side"], settings["mpp"], settings["overlap_px"]) == (64, 1, 16)
    assert about["windows"]["all"] == 4 * 3  # of 64 px, 48 px apart, over 170 x 150 px
    assert segment(slide_file, tmp_path / "large", "--checkpoint", run, "--mpp", 1, *few, "--min_area_um2", 1e6) == 0
    large = json.loads(SlidesFolder(tmp_path / "large").segmentation("disc", ".json").read_text())
    assert large["pieces"] == {"disc": 0, "cup": 0}
    assert large["area_px"] == about["area_px"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Weights in the layout of the published models of artefacts, which call everything out of focus."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = smp.Unet("timm-efficientnet-b0", encoder_weights=None, in_channels=3, classes=8)
    torch.nn.init.zeros_(network.segmentation_head[0].weight)
    network.segmentation_head[0].bias.data = torch.eye(8)[6]
    file = tmp_path_factory.mktemp("weights") / "artefacts.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def stained(tmp_path_factory) -> Path:
    """Glass with a stained rectangle of 200 x 120 px."""
    picture = np.full((200, 300, 3), 243, np.uint8)
    noise = np.random.default_rng(0).integers(-20, 20, (120, 200, 3))
    picture[40:160, 50:250] = np.clip(np.array([190, 100, 170]) + noise, 0, 255)
    path = tmp_path_factory.mktemp("stained") / "stained.png"
    Image.fromarray(picture).save(path)
    return path


TILE = ("--slide-mpp", 4, "--mpp", 4, "--tile", 20, "--device", "cpu")


def test_tiles_lie_on_what_a_model_takes_for_tissue(run, slide_file, tmp_path, capsys):
    out, words = tmp_path / "out", ("--tissue.method", "model", "--tissue.weights", run, "--tissue.mpp", 4)
    clean = ("--tissue.min_area_um2", 0, "--tissue.max_hole_um2", 0, "--min-tissue", 0.5)
    assert call("slides", "tile", slide_file, *TILE, *words, *clean, "--out", out) in (0, 3)  # it may find none
    tiling = read_tiling(SlidesFolder(out).tiles("disc"))
    assert tiling.settings.tissue.weights.startswith("sha256:")  # wherever the run lies
    assert call("slides", "segment", slide_file, "--slide-mpp", 4, "--mpp", 4, "--tissue.method", "everything",
                "--checkpoint", run, "--device", "cpu", "--out", tmp_path / "map") == 0  # fmt: skip
    is_tissue = values_of(tmp_path / "map") > 0
    assert tiling.tissue_mm2 == pytest.approx(is_tissue.sum() * 16e-6)
    corners = [
        (x, y) for y in range(0, 131, 20) for x in range(0, 151, 20) if is_tissue[y : y + 20, x : x + 20].mean() >= 0.5
    ]
    assert list(map(tuple, tiling.coords_N2_px0.tolist())) == corners
    capsys.readouterr()
    assert call("slides", "tile", slide_file, *TILE, *words, *clean, "--out", out) in (0, 3)
    assert "1 kept" in capsys.readouterr().out
    chosen = (*words, *clean, "--tissue.classes", "cup")
    assert call("slides", "tile", slide_file, *TILE, *chosen, "--out", tmp_path / "cup") in (0, 3)
    cup = read_tiling(SlidesFolder(tmp_path / "cup").tiles("disc"))
    assert cup.tissue_mm2 == pytest.approx((values_of(tmp_path / "map") == 2).sum() * 16e-6)
    assert "the classes of" in refused(
        capsys, "slides", "tile", slide_file, *TILE, *words, "--tissue.classes", "fat", "--out", tmp_path / "no"
    )
    assert "belong together" in refused(
        capsys, "slides", "tile", slide_file, *TILE, "--tissue.method", "model", "--out", tmp_path / "no"
    )


def test_a_published_model_measures_artefacts_and_leaves_tiles_out(published, stained, tmp_path, capsys):
    model = ("--artefact_model.weights", published, "--artefact_model.recipe", "grandqc-artefacts-mpp2.0")
    ask = ("slides", "tile", stained, *TILE, *model, "--save-tiles", "table")
    assert call(*ask, "--quality", "measure", "--out", tmp_path / "measured") == 0
    with (tmp_path / "measured" / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["artefact_out_of_focus"] for row in rows} == {"1"}
    assert {row[f"artefact_{name}"] for row in rows for name in ("fold", "dark_spot", "pen", "bubble")} == {"0"}
    assert "sharpness" not in rows[0]
    capsys.readouterr()
    assert call(*ask[:-2], "--quality", "measure", "--out", tmp_path / "measured") == 0
    assert "1 kept" in capsys.readouterr().out

    def left(*words: object) -> tuple[int, str]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        call(*ask, "--quality", "filter", *words, "--out", out)
        row = SlidesFolder(out).rows()["stained"]
        return int(row["tiles"]), row["reason"]

    assert left() == (0, "every tile with enough tissue has artefacts")
    assert left("--artefact_model.max_artefact", 1) == (len(rows), "")
    assert left("--artefact_model.classes", "fold,pen") == (len(rows), "")
    no = ("--out", tmp_path / "no")
    assert "needs --quality" in refused(capsys, *ask, *no)
    assert "leave them out" in refused(capsys, *ask, "--quality", "filter", "--artefacts.max_pen", 0.3, *no)
    assert "0 and 1" in refused(capsys, *ask, "--quality", "filter", "--artefact_model.max_artefact", 2, *no)


def test_weights_of_another_network_or_with_code_in_them_are_refused(published, stained, tmp_path, capsys):
    ask = ("slides", "segment", stained, "--slide-mpp", 4, "--out", tmp_path / "out", "--recipe")
    assert "these are not weights of grandqc-tissue" in refused(capsys, *ask, "grandqc-tissue", "--weights", published)
    assert "the recipes are grandqc-tissue" in refused(capsys, *ask, "histoqc", "--weights", published)
    torch.save(torch.nn.Conv2d(3, 8, 1), tmp_path / "module.pth")
    said = refused(capsys, *ask, "grandqc-artefacts-mpp1.0", "--weights", tmp_path / "module.pth")
    assert "never read" in said
    assert "state_dict()" in said
    assert "no such" in refused(capsys, *ask, "grandqc-tissue", "--weights", tmp_path / "none.pth")


def test_a_published_model_segments_slides_at_its_own_resolution(published, stained, tmp_path):
    words = ("--recipe", "grandqc-artefacts-mpp2.0", "--weights", published)
    every = ("--tissue.method", "everything", "--slide-mpp", 2, "--device", "cpu", "--out", tmp_path)
    assert call("slides", "segment", stained, *every, *words) == 0
    about = json.loads(SlidesFolder(tmp_path).segmentation("stained", ".json").read_text())
    assert about["map"]["mpp"] == 2
    assert about["area_px"]["out_of_focus"] == 200 * 300
    assert about["made_from"]["model"]["recipe"] == "grandqc-artefacts-mpp2.0"
    assert (values_of(tmp_path, "stained") == 1 + about["classes"].index("out_of_focus")).all()
