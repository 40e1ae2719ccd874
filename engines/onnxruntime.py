"""ONNX Runtime: a program as an ONNX model (onnx_file.py), optimised by it for this machine."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engines.program import EngineError, Program, Ready

if TYPE_CHECKING:
    import onnx

FIXED_BATCH = False
COMPILES = False
PROVIDERS = ["CPUExecutionProvider"]
# Its kernel for a sum and the layer norm after it takes longer than the two (seen in 1.32: 18 µs
# against 9 for 16 tokens of 128, 0.87 ms against 0.18 for those of 64 images).
SLOW_FUSIONS = ["SkipLayerNormFusion"]
# What ONNX Runtime makes of int8 layers; where it does not, they run in float, unsaid.
INT8_OPERATIONS = {
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "ConvInteger",
}


def unavailable() -> str | None:
    absent = [n for n in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(n)]
    return f"needs {' and '.join(absent)}; pip install {' '.join(absent)}" if absent else None


def unfit(program: Program) -> str | None:
    """Its kernels for CPUs are in float32 and int8."""
    return "has no bfloat16 kernels for CPUs" if program.precision == "bfloat16" else None


def ready(program: Program, batch: int | None, threads: int) -> Ready:
    """For `batch` images: its optimizer then computes float layers on tokens by faster products.

    Int8 layers are operations from the start, which no optimizer makes float ones of. Raises
    EngineError for a model that ONNX Runtime refuses.
    """
    from engines.onnx_file import onnx_model

    model = onnx_model(program.graph, program.examples(2), for_onnxruntime=True)
    try:
        session, layers = opened(model.SerializeToString(), threads, batch)
    except Exception as error:  # its exceptions share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"ONNX Runtime refuses the network: {reason}") from error
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(values: Sequence[Tensor]) -> Sequence[Tensor]:
        feeds = dict(zip(inputs, (value.numpy() for value in values), strict=True))
        return [torch.from_numpy(found) for found in session.run(outputs, feeds)]

    found = tuple(name for name in program.int8_layers if name in layers)
    return Ready(run, "float32", threads, found)


def opened(model: bytes | Path, threads: int, batch: int | None = None) -> tuple[Any, set[str]]:
    """A session of an ONNX model or file, and the names of the layers that run in int8 there."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # it warns that an optimised graph is for this machine alone
    # Waiting threads spin inside a run, but not on after it, where another engine's turn comes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        source = str(model) if isinstance(model, Path) else model
        session = onnxruntime.InferenceSession(
            source, options, providers=PROVIDERS, disabled_optimizers=SLOW_FUSIONS
        )
        optimised = onnx.load(options.optimized_model_filepath)
    return session, int8_layers(optimised)


def int8_layers(optimised: onnx.ModelProto) -> set[str]:
    """The layers of a model of `onnx_model` that an optimised graph computes in int8.

    They are told by their weights, whose names the optimizer keeps; where torch.onnx.export wrote
    the model, by their nodes' names.
    """
    found: set[str] = set()
    for node in optimised.graph.node:
        if node.op_type in INT8_OPERATIONS:
            weights = [name for name in node.input if name.endswith(".weight")]
            named = [name.removesuffix(".weight") for name in weights]
            found.update(named or [node.name.partition("/")[0]])
    return found
