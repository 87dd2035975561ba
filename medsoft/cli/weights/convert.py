"""The verb ``weights convert``: turns a pretrained softmax vision transformer into one without softmax."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medsoft.errors import InputError, ReadError
from medsoft.storage.files import replacing
from medsoft.storage.hashing import sha256
from medsoft.storage.walk import passed_in_words, walk
from medsoft.storage.weights_folder import find_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medsoft.data.transforms.plain import Plain
    from medsoft.models.convert import BranchScale
    from medsoft.models.vit import VisionTransformer

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif", ".ppm", ".avif")
TABLES = (".csv", ".parquet", ".npz")


def convert_weights(
    model: str,
    weights: str,
    to: Literal["seqnorm", "sima"],
    out: str,
    images: str,
    path: str = "path",
    number: int = 32,
    model_args: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Convert the weights of a softmax vision transformer, and calibrate its attention on some images.

    Args:
        model: Name of the timm model that the weights belong to, such as vit_base_patch16_224 (or a vit_softmax_* one).
        weights: Local file with the weights (.safetensors, a state dict or a medsoft checkpoint), or a name in
            MEDSOFT_WEIGHTS.
        to: Attention mechanism of the result.
        out: File to write, .safetensors; give it to fit as model.pretrained.
        images: Calibration images, like those to be trained on: a folder of images or a sample table.
        path: Column of the table with the image files.
        number: Number of images to calibrate on, spread evenly over the folder or table.
        model_args: Keyword arguments the model was made with, such as {depth: 6, in_chans: 1}.
        overwrite: Replace the file if it exists.

    Raises:
        InputError: the weights, the model or the images cannot be used, or the file to write is there already.
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        raise InputError(f"{out}: name a file .safetensors")
    if target.exists() and not overwrite:
        raise InputError(f"{out}: already exists; --overwrite true replaces it")
    if number < 1:
        raise InputError(f"number {number} must be 1 or more")
    files = find_images(Path(images), path, number)
    file = find_weights(weights)

    from safetensors.torch import save

    from medsoft.models.convert import backbone_of, calibrate, rebuild
    from medsoft.models.convert import convert as carry_over

    source = load_source_model(model, file, model_args or {})
    softmax = rebuild(source)
    converted = carry_over(softmax, to)
    recipe = image_recipe(source)
    scales = calibrate(softmax, converted, prepare_images(files, recipe))
    backbone, keywords = backbone_of(converted)
    metadata = {
        "backbone": backbone,
        "backbone_args": json.dumps(keywords),
        "source_model": model,
        "source_file": file.name,
        "source_sha256": sha256(file),
        "mean": json.dumps(recipe.mean),
        "std": json.dumps(recipe.std),
        "calibration_images": str(len(files)),
        "calibration": json.dumps([vars(scale) for scale in scales]),
    }
    with replacing(target) as temporary:
        # save_file would make a file that its owner alone may read.
        tensors = {key: value.contiguous() for key, value in converted.state_dict().items()}
        temporary.write_bytes(save(tensors, metadata))
    _report(softmax, converted, scales, len(files))
    _print_use(out, backbone, keywords)


def find_images(images: Path, column: str, number: int) -> list[str]:
    """Some pictures of a folder (searched through, by name) or of a table, evenly spread.

    Raises:
        InputError: there are none.
    """
    if images.is_dir():
        walked = walk(images)
        if walked.problems:
            raise InputError("\n".join(f"{path}: {reason}" for path, reason in walked.problems))
        walked.keep(lambda file: file.suffix.lower() in PICTURES)
        if line := passed_in_words(walked.passed):
            print(line)
        found = [str(file) for file in walked.files]
        if not found:
            raise InputError(f"{images}: no pictures in this folder ({', '.join(PICTURES)})")
    elif images.suffix.lower() in TABLES:
        from medsoft.data.tables.reading import load_source, require_columns

        table = load_source(images)
        require_columns(images, table.columns, {"path": [column]})
        found = [str(images.parent / str(value)) for value in table[column]]
    else:
        raise InputError(f"{images}: give a folder with pictures, or a sample table ({', '.join(TABLES)})")
    number = min(number, len(found))
    return [found[(2 * index + 1) * len(found) // (2 * number)] for index in range(number)]


def load_source_model(name: str, weights: Path, arguments: dict[str, Any]) -> nn.Module:
    """A timm model without a head, with weights from a file and the size of the file's position table.

    Raises:
        InputError: no such model, or the weights are not of it.
    """
    import timm

    import medsoft.models  # noqa: F401 (registers our backbones with timm)
    from medsoft.models.weights import load_pretrained, read_weights, refuse_fetching

    refuse_fetching("model_args", arguments, "--weights")
    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models("vit_*"), n=3)
        raise InputError(f"model: no model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    try:
        model: Any = timm.create_model(name, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"model_args: {name} cannot be built with {arguments}: {error}") from None
    table = read_weights(weights).get("pos_embed")
    if table is not None and getattr(model, "pos_embed", None) is not None and table.shape != model.pos_embed.shape:
        places = table.shape[1] - (0 if model.no_embed_class else model.num_prefix_tokens)
        side = math.isqrt(max(places, 0))
        if side == 0 or side**2 != places:
            raise InputError(
                f"{weights}: the position embedding has {places} places, which is no square: "
                "say the height and width that it is for with --model_args.img_size"
            )
        model.set_input_size(tuple(side * patch for patch in model.patch_embed.patch_size))
    load_pretrained(model, str(weights))
    network: nn.Module = model
    return network


def image_recipe(model: Any) -> Plain:
    """What prepares pictures for a model: its size and channels, and the mean and deviation it was trained with.

    Those of a medsoft model are what its recipe took; here the ones that all recipes start from are used.

    Raises:
        InputError: the model takes other than pictures.
    """
    from medsoft.data.transforms.plain import Plain
    from medsoft.models.vit import VisionTransformer

    size = model.patch_embed.img_size
    if len(size) != 2:
        raise InputError(
            "a model for volumes cannot be calibrated on 2D images: use medsoft.models.convert from Python"
        )
    channels = model.patch_embed.proj.in_channels
    mean, std = None, None
    if not isinstance(model, VisionTransformer) and channels == 3:
        mean, std = list(model.pretrained_cfg["mean"]), list(model.pretrained_cfg["std"])
    return Plain(size=size, channels=channels, augmentation=False, mean=mean, std=std)


def prepare_images(files: Sequence[str], recipe: Plain) -> Tensor:
    """Pictures (B, C, H, W) as a recipe prepares them.

    Raises:
        InputError: some cannot be read; all of them are listed.
    """
    import numpy as np
    import torch

    from medsoft.data.images.read import read_image

    prepared, problems = [], []
    for file in files:
        try:
            prepared.append(recipe.finish(recipe.prepare(read_image(file))))
        except (ReadError, ValueError) as error:
            problems.append(f"  {file}: {error}")
    if problems:
        raise InputError("\n".join(["calibration images that cannot be read:", *problems]))
    return torch.from_numpy(np.stack(prepared))


def _report(
    softmax: VisionTransformer, converted: VisionTransformer, scales: Sequence[BranchScale], images: int
) -> None:
    from rich.table import Table

    from medsoft.system.terminal import plain_console

    old, new = softmax.state_dict(), converted.state_dict()
    same = [key for key in new if key in old and old[key].equal(new[key])]
    groups = {
        "carried over as they are": same,
        "carried over and changed": [key for key in new if key in old and key not in same],
        "new": [key for key in new if key not in old],
        "dropped": [key for key in old if key not in new],
    }
    console = plain_console()
    weights = Table("weights", "tensors", "values", "which")
    for what, keys in groups.items():
        state = old if what == "dropped" else new
        kinds = sorted({key.partition("blocks.")[2].partition(".")[2] or key for key in keys})
        which = ", ".join(kinds) if what != "carried over as they are" else ""
        weights.add_row(what, str(len(keys)), f"{sum(state[key].numel() for key in keys):,}", which)
    console.print(weights)
    table = Table(
        "block", "softmax", "carried over", "calibrated", title=f"scale of attention's output, {images} images"
    )
    for index, scale in enumerate(scales):
        table.add_row(str(index), f"{scale.softmax:.4g}", f"{scale.carried:.4g}", f"{scale.calibrated:.4g}")
    console.print(table)


def _print_use(out: str, backbone: str, keywords: dict[str, Any]) -> None:
    from medsoft.system.terminal import plain_console

    words = [f"--model.backbone {backbone}"]
    for key, value in keywords.items():
        words.append(
            f"--model.backbone_args.{key} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        )
    line = " ".join([*words, f"--model.pretrained {out}"])
    console = plain_console()
    console.print(f"Wrote {out}. To fine-tune it: medsoft fit … {line}", soft_wrap=True)
