"""Networks as ONNX: written by PyTorch, run by ONNX Runtime. One way for bundles and for encoders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medsoft.errors import InputError

OPSET = 18


def require_onnx(option: str) -> None:
    """Check that what writes and runs ONNX is installed.

    Args:
        option: that asks for it, with its value.

    Raises:
        InputError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"{option}: {error.name} is not installed: pip install 'medsoft[export]'") from None


def write_onnx(
    path: Path,
    network: nn.Module,
    example: tuple[Tensor, ...],
    dynamic_shapes: Any,
    names: tuple[Sequence[str], Sequence[str]],
    external_data: bool = False,
) -> None:
    """Write a network as ONNX.

    Args:
        path: the file.
        network: in evaluation.
        example: of its inputs.
        dynamic_shapes: of each input, as ``torch.export.export`` takes them.
        names: of the inputs, and of the outputs.
        external_data: whether weights go into a file beside it, as they must from 2 GB on.

    Raises:
        Exception: PyTorch cannot export it, which it says by many kinds of exception.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            input_names=list(names[0]),
            output_names=list(names[1]),
            external_data=external_data,
            verbose=False,
        )
        program.save(path, external_data=external_data)


def onnx_session(path: Path, threads: int | None = None) -> Any:
    """A file of ONNX, ready to run on the CPU; what is not an error is not told.

    Args:
        path: the file.
        threads: to compute with; None: as many as ONNX Runtime takes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        # Threads that wait in a loop would take the processor from those that read.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
