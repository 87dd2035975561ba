"""A bundle's network for other runtimes: ONNX, or PyTorch's exported program, checked against the model itself.

One graph takes every size that it says is dynamic, so that nothing in it may be chosen by a size: ``seqnorm`` gets one
fixed form (reordered), and ``soft`` inverts by a fixed number of Newton steps (``medsoft.ops.inverse``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.load import load_classifier
from medsoft.encoders.engines.onnx_network import OPSET, onnx_session, require_onnx, write_onnx
from medsoft.errors import InputError, RunError
from medsoft.models.aggregators import Aggregator, TorchmilAggregator
from medsoft.models.fixed_form import with_fixed_form
from medsoft.runs.bundle import Bundle
from medsoft.specs import BagSpec, DataSpec

FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}
TOLERANCE = {"logits": 1e-3, "probabilities": 1e-4, "prediction": 1e-3}
"""Largest difference from the model that is let through: all but probabilities as a share of the largest (or of 1)."""
PIXELS = ("depth", "height", "width")
STRIDE = 32


def outputs_of(classifier: TableClassifier) -> tuple[str, str]:
    """Names of the outputs; the second is of classes, or the number of a regression."""
    logits, answers = classifier.spec.task.outputs()
    return logits["name"], answers["name"]


@dataclass(frozen=True)
class Input:
    """An input of the network.

    Attributes:
        name: of the input.
        shape: of the example that is traced.
        dynamic: names of the axes that may have other sizes, by axis; those of images are multiples of 32, the
            stride of most networks.
    """

    name: str
    shape: tuple[int, ...]
    dynamic: dict[int, str]

    @property
    def axes(self) -> list[int | str]:
        """The shape in words: a number, or the name of what may change."""
        names = {axis: f"32*{name}" if name in PIXELS else name for axis, name in self.dynamic.items()}
        return [names.get(axis, size) for axis, size in enumerate(self.shape)]

    def resized(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """The shape with other sizes of its dynamic axes."""
        return tuple(sizes.get(self.dynamic.get(axis, ""), size) for axis, size in enumerate(self.shape))


class Network(nn.Module):
    """A classifier as a function of tensors: logits (B, K), and probabilities (B, C) or numbers (B, 1); float32."""

    def __init__(self, classifier: TableClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, more: Tensor | None = None, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Prepared images (B, C, …), or features (B, N, F) of bags of one length and places; covariates (B, K) last."""
        if not isinstance(self.classifier.spec, BagSpec):
            logits_BK = self.classifier(x) if more is None else self.classifier(x, more)
        elif self.classifier.covariates is None:
            logits_BK = self.classifier(x, None, more)
        elif last is None:
            logits_BK = self.classifier(x, None, None, more)
        else:
            logits_BK = self.classifier(x, None, more, last)
        return logits_BK, self.classifier.objective.probabilities(logits_BK)


def export_networks(bundle: Bundle, formats: Sequence[str]) -> list[dict[str, Any]]:
    """Write the network of a bundle into its folder, and check each file's answers against the model's.

    Args:
        bundle: weights and configuration.
        formats: of ``onnx`` and ``torch-export``.

    Returns:
        What was written: format, file, inputs and outputs with their dynamic axes, tolerance, differences found.

    Raises:
        InputError: ONNX is not installed, or PyTorch cannot export this network.
        RunError: a file does not answer as the model does.
    """
    classifier = load_classifier(bundle)
    fixed = fixed_network(classifier)
    return [_export(bundle.path / FILES[format], format, classifier, fixed) for format in formats]


def fixed_network(classifier: TableClassifier) -> Network:
    """The network in one form for every size."""
    return cast(Network, with_fixed_form(Network(classifier)))


def inputs_of(classifier: TableClassifier, any_size: bool) -> list[Input]:
    """Inputs of a classifier's network.

    Args:
        classifier: of images, volumes or bags.
        any_size: whether images may have another size too.
    """
    spec = classifier.spec
    names = spec.covariates.names if spec.covariates is not None else ()
    covariates = [Input("covariates", (2, len(names)), {0: "batch"})] if names else []
    if isinstance(spec, BagSpec):
        sizes = {0: "batch", 1: "tiles"}
        found = [Input("features", (2, 96, spec.num_features), sizes)]
        aggregator = classifier.aggregator
        assert isinstance(aggregator, Aggregator)
        if isinstance(aggregator, TorchmilAggregator):
            raise InputError(
                f"{aggregator.name} cannot be exported as a network: it takes bags one at a time, each with its own "
                "graph or groups. Leave out --format: the bundle holds its weights"
            )
        if aggregator.frame is not None:
            frame = aggregator.frame
            found.append(Input("coords_um" if frame.unit == "µm" else "coords", (2, 96, frame.axes), sizes))
        return [*found, *covariates]
    assert isinstance(spec, DataSpec)
    if not any_size:
        return [Input("image", (2, spec.channels, *spec.image_size), {0: "batch"}), *covariates]
    axes = dict(enumerate(PIXELS[-len(spec.image_size) :], start=2))
    # A size that is a single stride in the example would be taken for a constant.
    shape = (2, spec.channels, *(max(size, 2 * STRIDE) for size in spec.image_size))
    return [Input("image", shape, {0: "batch"} | axes), *covariates]


def _export(path: Path, format: str, classifier: TableClassifier, network: Network) -> dict[str, Any]:
    """The file with as many dynamic sizes as the network allows: of images their size, where it is no fixed one."""
    failure = ""
    for any_size in (True, False) if _may_resize(classifier) else (False,):
        inputs = inputs_of(classifier, any_size)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _write(path, format, network, inputs)
            found = _differences(path, format, classifier, inputs)
        except (InputError, RunError):
            raise
        except Exception as error:  # PyTorch names what it cannot export by many kinds of exception
            failure = " ".join(str(error).split())[:300]
            continue
        if all(found[name] <= TOLERANCE[name] for name in found):
            return _about(path, format, inputs, found)
        failure = f"its outputs differ from the model's: {found}, allowed are {TOLERANCE}"
        if not any_size:
            raise RunError(f"{path.name}: {failure}")
    raise InputError(f"--format {format}: this network cannot be exported by torch {torch.__version__}: {failure}")


def _may_resize(classifier: TableClassifier) -> bool:
    """Whether it is worth a try: medsoft's own backbones have a table of positions, which fits one size."""
    backbone = getattr(classifier, "backbone", None)
    if isinstance(classifier.spec, BagSpec) or backbone is None or type(backbone).__module__.startswith("medsoft."):
        return False
    return all(size % STRIDE == 0 for size in classifier.spec.image_size)


def _write(path: Path, format: str, network: Network, inputs: Sequence[Input]) -> None:
    example = tuple(torch.randn(one.shape) for one in inputs)
    dims: dict[str, Any] = {}
    for name in (name for one in inputs for name in one.dynamic.values()):
        dims[name] = STRIDE * torch.export.Dim(f"{name}_32") if name in PIXELS else torch.export.Dim(name, min=1)
    shapes = tuple({axis: dims[name] for axis, name in one.dynamic.items()} for one in inputs)
    with torch.no_grad():
        if format == "torch-export":
            torch.export.save(torch.export.export(network, example, dynamic_shapes=shapes), path)
            return
        require_onnx("--format onnx")
        names = [one.name for one in inputs], outputs_of(network.classifier)
        write_onnx(path, network, example, shapes, names)


def _differences(path: Path, format: str, classifier: TableClassifier, inputs: Sequence[Input]) -> dict[str, float]:
    """The largest difference of each output over several sizes: the example's, and others of the dynamic axes."""
    run = _runner(path, format)
    names = outputs_of(classifier)
    found = dict.fromkeys(names, 0.0)
    generator = torch.Generator().manual_seed(0)
    model = Network(classifier).eval()
    for sizes in _sizes(inputs):
        given = [torch.randn(one.resized(sizes), generator=generator) for one in inputs]
        with torch.no_grad():
            expected = model(*given)
        for name, value, right in zip(names, run(given), expected, strict=True):
            scale = 1.0 if name == "probabilities" else max(1.0, float(right.abs().max()))
            difference = float(np.abs(value - right.numpy()).max()) / scale
            found[name] = max(found[name], difference if np.isfinite(difference) else np.inf)
    return found


def _sizes(inputs: Sequence[Input]) -> list[dict[str, int]]:
    """The sizes that are compared."""
    names = {name for one in inputs for name in one.dynamic.values()}
    if "tiles" in names:
        return [{"batch": 2, "tiles": 96}, {"batch": 1, "tiles": 3}, {"batch": 3, "tiles": 1500}]
    found = [{"batch": batch} for batch in (2, 1, 5)]
    if "height" in names:
        shape = inputs[0].shape
        larger = {name: shape[axis] + STRIDE for axis, name in inputs[0].dynamic.items() if axis}
        found.append({"batch": 2, **larger, "width": larger["width"] + STRIDE})
    return found


def _runner(path: Path, format: str) -> Any:
    if format == "torch-export":
        module = torch.export.load(path).module()

        def of_torch(given: list[Tensor]) -> list[np.ndarray]:
            with torch.no_grad():
                return [value.numpy() for value in module(*given)]

        return of_torch
    session = onnx_session(path)
    names = [one.name for one in session.get_inputs()]

    def of_onnx(given: list[Tensor]) -> list[np.ndarray]:
        values: list[np.ndarray] = session.run(
            None, {name: value.numpy() for name, value in zip(names, given, strict=True)}
        )
        return values

    return of_onnx


def _about(path: Path, format: str, inputs: Sequence[Input], found: dict[str, float]) -> dict[str, Any]:
    versions = {"torch": str(torch.__version__)}
    if format == "onnx":
        import onnx
        import onnxruntime

        versions |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": str(OPSET)}
    return {
        "format": format,
        "file": path.name,
        "inputs": {one.name: one.axes for one in inputs},
        "outputs": list(found),
        "compared": [dict(sizes) for sizes in _sizes(inputs)],
        "largest_difference": found,
        "tolerance": {name: TOLERANCE[name] for name in found},
        "versions": versions,
    }
