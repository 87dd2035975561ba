"""Every way that a file of weights comes in, given one whose unpickling would run a program: it never runs."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.builders.bags import write_bag
from tests.builders.images import TINY, write_images


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A state dict that makes the folder ``trap`` when it is unpickled."""

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    torch.save({"state_dict": {"head.weight": torch.zeros(2, 2)}, "medsoft": Hostile()}, tmp_path / "hostile.ckpt")
    return tmp_path / "hostile.ckpt"


def test_the_trap_works(hostile, tmp_path):
    torch.load(hostile, weights_only=False)
    assert (tmp_path / "trap").is_dir()


def words_for(way: str, hostile: Path, tmp_path: Path) -> list[object]:
    table = write_images(tmp_path / "set", 12)
    data = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY]
    slides = tmp_path / "slides"
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        shutil.copy(hostile, run / "checkpoints" / f"{name}.ckpt")
    if way == "resume":
        # A configuration that parses, so that the checkpoint is reached.
        lines = ["use:", "  transforms: medsoft.data.transforms.plain.Plain", "transforms: {size: 32}"]
        lines += [f"data: {{table: {table}, classes: [dark, light]}}", "model:"]
        lines += ["  backbone_args: {patch_size: 8, depth: 2, embed_dim: 32, num_heads: 2}"]
        (run / "config.yaml").write_text("\n".join(lines))
        return ["fit", "--resume", run, "--trainer.accelerator=cpu"]
    if way.startswith("slides"):
        (slides / "features").mkdir(parents=True)
        write_bag(slides / "features" / "a.h5", torch.randn(4, 6).numpy())
        (run / "config.yaml").write_text("transforms: {size: 32}\nmodel: {backbone: resnet10t}\n")
    return {
        "pretrained": ["fit", *data, f"--model.pretrained={hostile}"],
        "checkpoint": ["predict", *data, f"--checkpoint={hostile}"],
        "slides checkpoint": ["slides", "predict", slides / "features/a.h5", "--checkpoint", hostile, "--out", "o"],
        "slides heatmap": ["slides", "heatmap", slides / "features/a.h5", "--checkpoint", hostile, "--out", "o"],
        "slides encoder": [
            *("slides", "encode", slides / "features/a.h5", "--encoder", "resnet10t", "--weights", hostile),
            *("--mean", "0,0,0", "--std", "1,1,1", "--mpp", 1, "--tile", 32, "--out", "o"),
        ],
        "slides run": [
            *("slides", "encode", slides / "features/a.h5", "--encoder", run, "--mpp", 1, "--tile", 32, "--out", "o")
        ],
        "convert": [
            *("weights", "convert", "--model", "vit_tiny_patch16_224", "--weights", hostile, "--to", "seqnorm"),
            *("--out", "c.safetensors", "--images", table),
        ],
        "add": [
            *("weights", "add", hostile, "--name", "x", "--licence", "CC0", "--source", "mail", "--folder", "weights")
        ],
    }[way]


WAYS = ["pretrained", "checkpoint", "resume", "slides checkpoint", "slides heatmap", "slides encoder", "slides run"]


@pytest.mark.parametrize("way", [*WAYS, "convert", "add"])
def test_a_hostile_file_is_refused_and_does_not_run(medsoft, hostile, tmp_path, way):
    code, out, err = medsoft(*words_for(way, hostile, tmp_path))
    assert code == 2, (out, err)
    assert hostile.name in err or "best.ckpt" in err or "last.ckpt" in err, err
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "weights").exists()
