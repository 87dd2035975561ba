"""An encoder's graph in ONNX Runtime or OpenVINO: libraries that compute on a CPU what PyTorch would, faster.

They fuse a network's operations into fewer kernels and keep data in the layout that these prefer. In float32 they
compute the same sums in another order.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsoft.encoders.engines.graph import Graph
from medsoft.encoders.engines.onnx_network import onnx_session, require_onnx, write_onnx
from medsoft.errors import InputError
from medsoft.models.fixed_form import with_fixed_form

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Prepared images (B, H, W, C) to the outputs of a graph, float32."""

LARGEST_IN_ONE_FILE = 1_500_000_000
"""Bytes of weights; a file of ONNX holds less than 2 GB."""


def onnx_runtime(graph: Graph, example_BHWC: np.ndarray, dtype: torch.dtype) -> Run:
    """The graph in ONNX Runtime, for images of the example's size.

    Raises:
        InputError: ONNX is not installed, or it has no kernels of this type.
        Exception: the network cannot be exported.
    """
    if dtype != torch.float32:
        raise InputError(f"--engine onnx computes in float32: --precision 32, or --engine torch for {_word(dtype)}")
    require_onnx("--engine onnx")
    fixed = with_fixed_form(graph)
    outputs = ["pooled", "tokens"] if graph.wanted == "both" else [graph.wanted]
    weights = sum(value.numel() * value.element_size() for value in fixed.state_dict().values())
    is_large = weights > LARGEST_IN_ONE_FILE
    batch = ({0: torch.export.Dim("batch", min=1)},)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        # Two images: of one, the axis would be taken for a constant.
        example = torch.from_numpy(np.repeat(example_BHWC[:1], 2, axis=0))
        write_onnx(path, fixed, (example,), batch, (["images"], outputs), is_large)
        session = onnx_session(path, torch.get_num_threads())

    def run(images_BHWC: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, {"images": images_BHWC})
        return found

    return run


def openvino(graph: Graph, example_BHWC: np.ndarray, dtype: torch.dtype) -> Run:
    """The graph in OpenVINO, for images of the example's size.

    Raises:
        InputError: OpenVINO is not installed, or the processor does not compute in this type.
        Exception: the network cannot be converted.
    """
    ov = import_openvino()
    if dtype != torch.float32 and not has_bfloat16():
        raise InputError(
            f"--engine openvino: this processor does not compute in {_word(dtype)}: take --precision 32 (--engine "
            "torch emulates it, slowly)"
        )
    core = ov.Core()
    example = torch.from_numpy(example_BHWC)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = ov.PartialShape([-1, *example.shape[1:]])
        converted = ov.convert_model(with_fixed_form(graph), example_input=(example,), input=[shape])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()
    outputs = range(len(compiled.outputs))

    def run(images_BHWC: np.ndarray) -> list[np.ndarray]:
        request.infer([np.ascontiguousarray(images_BHWC)], share_inputs=True)
        # The next call writes its results where these are.
        return [np.array(request.get_output_tensor(number).data, np.float32) for number in outputs]

    return run


RUNTIMES: dict[str, Callable[[Graph, np.ndarray, torch.dtype], Run]] = {"onnx": onnx_runtime, "openvino": openvino}
"""By the name of the engine, the fastest first, as measured (docs/experiments/performance.md)."""

_MODULES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime", "onnxscript")}


def is_installed(engine: str) -> bool:
    """Whether a runtime's libraries are here; none is loaded."""
    return all(module in sys.modules or find_spec(module) is not None for module in _MODULES[engine])


def import_openvino() -> Any:
    """OpenVINO, without the part of it that reports its use to its makers.

    ``import openvino`` sends an event over the network unless the user has said otherwise. Nothing leaves a hospital
    unasked: the package that sends is made absent, for which OpenVINO has a way of its own.

    Raises:
        InputError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino as ov
    except ImportError:
        raise InputError("--engine openvino: not installed: pip install 'medsoft[openvino]'") from None
    return ov


@cache
def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 by itself, as OpenVINO finds."""
    ov = import_openvino()
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
