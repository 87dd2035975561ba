"""A bundle's description of inputs and outputs, and a script that runs its ONNX file without medsoft."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medsoft.data.transforms.base import Step, Transforms
from medsoft.inference.export.portable import steps
from medsoft.registry import DEFAULTS, REGISTER, short_names
from medsoft.task import Task

SCRIPT = "run_onnx.py"

RESIZING = (steps.areas, steps.neighbours, steps.enlarge, steps.resize)
STEPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "to_uint8": (steps.to_uint8,),
    "to_float": (steps.to_float,),
    "to_channels": (steps.to_channels,),
    "resize": RESIZING,
    "window": (steps.window,),
    "shades_of_grey": (steps.shades_of_grey,),
    "crop_to_disc": (*RESIZING, steps.largest_part, steps.crop_to_disc),
    "centre": (steps.centre,),
    "standardise": (steps.standardise,),
}
"""What each step of a recipe is made of; a recipe with a step that is not here has no script."""

READING = {
    "orientation": "as EXIF (or the TIFF tag) says, applied before anything else",
    "colour": "palettes, CMYK and YCbCr become RGB; grey has one channel",
    "transparency": "shown on white",
}

HEAD = '''\
"""Runs model.onnx on pictures: python run_onnx.py PICTURE [PICTURE ...]; prints CSV. Needs numpy, Pillow, onnxruntime.

It prepares pictures as bundle.json says and as medsoft does, up to one grey level in rounding. Read are PNG, JPEG, BMP,
PPM and WebP. Research software, not a medical device.
"""

import csv
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
'''

MAIN = '''\
def main(files):
    """One line per picture; a picture that cannot be read is named on standard error."""
    if not files or files[0] in ("-h", "--help"):
        print("usage: python run_onnx.py PICTURE...")
        print("Prints a table. Unlike medsoft predict, it does not test whether a picture is unlike the training data.")
        return 0 if files else 2
    failed = 0
    folder = Path(__file__).parent
    about = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    answer = about["outputs"][-1]
    table = csv.writer(sys.stdout)
    table.writerow(["file", *answer["columns"]])
    for file in files:
        try:
            image = read(file)
        except (OSError, ValueError, SyntaxError, struct.error) as error:
            print(f"{file}: cannot be read: {error}", file=sys.stderr)
            failed += 1
            continue
        for step in about["preprocessing"]["steps"]:
            image = STEPS[step["step"]](image, **step["options"])
        values = session.run([answer["name"]], {"image": image})[0][0]
        table.writerow([file, *(f"{value:.9g}" for value in values)])
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''


def describe_preprocessing(transforms: Transforms) -> dict[str, Any]:
    """How an image becomes the input ``image`` of the network, in the order in which it is done.

    Random changes of the training are no part of it.
    """
    height, width = transforms.size
    return {
        "recipe": type(transforms).__name__,
        "reading": READING,
        "steps": [*transforms.steps(), standardising(transforms)],
        "result": {
            "name": "image",
            "layout": "batch, channel, row, column",
            "dtype": "float32",
            "channels": ["red", "green", "blue"] if transforms.channels == 3 else ["grey"],
            "size": {"height": height, "width": width},
            "values_before_mean_and_std": [0.0, 1.0],
            "mean": list(transforms.mean),
            "std": list(transforms.std),
        },
    }


def described(config: dict[str, Any], model: dict[str, Any], task: Task) -> dict[str, Any]:
    """What ``bundle.json`` says beside the network: ``preprocessing`` (None for bags of features) and ``outputs``.

    Args:
        config: the run's.
        model: what its checkpoint says of the network.
        task: the question.
    """
    from medsoft.parsing.lightning_cli import classes_of

    found: dict[str, Any] | None = None
    use = DEFAULTS | short_names(config.get("use") or {}, "the run's configuration")
    if any(name not in REGISTER[role] for role, name in use.items()):
        what = "a class of the run's author, which is no part of the bundle"
        steps_ = [{"step": "own", "options": {}, "what": what}]
        found = {"recipe": use["transforms"], "options": plain(config.get("transforms", {})), "steps": steps_}
    elif "aggregator" not in model:
        classes = classes_of(use, trusted=False)
        transforms: Any = classes["transforms"](**config.get("transforms", {}))
        if isinstance(transforms, Transforms):
            found = describe_preprocessing(transforms)
            by = "the file's own window (VOI LUT)" if config.get("data", {}).get("voi") else "their modality's values"
            found["reading"] = READING | {"dicom": f"grey images by {by}; see docs/reference/dicom.md"}
        else:
            found = {
                "recipe": type(transforms).__name__,
                "reading": {"orientation": "axes to right, anterior, superior (RAS)"},
                "options": plain(transforms.recipe()),
                "steps": [
                    {"step": "own", "options": {}, "what": "volumes: docs/guide/volumes.md says what each option does"}
                ],
                "result": {
                    "name": "image",
                    "layout": "batch, channel, x, y, z",
                    "dtype": "float32",
                    "channels": model.get("channels"),
                    "size": dict(zip("xyz", model.get("image_size", ()), strict=False)),
                },
            }
    return {"preprocessing": found, "outputs": task.outputs()}


def plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def write_script(folder: Path, about: dict[str, Any]) -> str:
    """Write ``run_onnx.py`` beside a bundle's ONNX file, where one can run it.

    Args:
        folder: the bundle.
        about: its ``bundle.json``.

    Returns:
        Why there is none, in words; "" where it was written, or where no ONNX file asks for one.
    """
    network = next((one for one in about["networks"] if one["format"] == "onnx"), None)
    if network is None:
        return ""
    preprocessing = about["preprocessing"]
    reason = "bags of features" if preprocessing is None else without_script(preprocessing, list(network["inputs"]))
    network["script"] = None if reason else SCRIPT
    if reason:
        network["no_script"] = reason
    else:
        (folder / SCRIPT).write_text(script(preprocessing), encoding="utf-8")
    return reason


def standardising(transforms: Transforms) -> Step:
    """The last step: numbers for the network."""
    return {
        "step": "standardise",
        "options": {"mean": list(transforms.mean), "std": list(transforms.std)},
        "what": "values / 255, minus the mean, divided by the standard deviation of each channel; channels first",
    }


def without_script(preprocessing: dict[str, Any], inputs: Sequence[str]) -> str:
    """Why no script can run a bundle, in words; "" where one can."""
    if more := [name for name in inputs if name != "image"]:
        return f"the network also takes {', '.join(more)}, beside the picture"
    unknown = [step for step in preprocessing["steps"] if step["step"] not in STEPS]
    return f"{unknown[0]['what']}: this step is not written with NumPy and Pillow" if unknown else ""


def script(preprocessing: dict[str, Any]) -> str:
    """The text of ``run_onnx.py``: the functions that this recipe needs, and nothing else.

    Args:
        preprocessing: of ``describe_preprocessing``, of which ``without_script`` says nothing.
    """
    names = list(dict.fromkeys(step["step"] for step in preprocessing["steps"]))
    functions = dict.fromkeys([steps.read, *(function for name in names for function in STEPS[name])])
    table = "STEPS = {" + ", ".join(f'"{name}": {name}' for name in names) + "}\n"
    return "\n\n".join([HEAD, *(inspect.getsource(function) for function in functions), table, MAIN])
