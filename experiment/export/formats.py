"""Networks as files that other programs run: ONNX, AOTInductor packages, OpenVINO IR.

A row of FORMATS says how a file is written and how its own runtime reads it. Every file takes
images with values from 0 to 1, normalises them itself, and says inside what it was made from.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import fx

from engines.inductor import compile_package
from experiment.export.compare import Format, Runtime, Subject
from machine import compiler
from methods.exported import LARGEST_BATCH
from methods.quantization.graph_rewrites import features_as_tokens, scales_that_biases_fit


def missing(format_: Format) -> str | None:
    """What a format lacks on this machine, with the remedy; None where it can be written."""
    absent = [name for name in format_.packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"needs {' and '.join(absent)}; pip install {' '.join(absent)}"
    if format_.compiled and (why := compiler.missing()) is not None:
        return f"{why}; install g++"
    return None


# --- ONNX --------------------------------------------------------------------------------------


ORT_PROVIDER = "CPUExecutionProvider"
# What ONNX Runtime makes of int8 layers; where it does not, they run in float, unsaid.
ORT_INT8 = {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"}


def _write_onnx(subject: Subject, path: Path, batch: int | None) -> None:
    program = _onnx_program(subject)
    program.model.metadata_props.update(subject.about)
    program.save(path)


def _onnx_program(subject: Subject) -> torch.onnx.ONNXProgram:
    """float32, or int8 as QuantizeLinear and DequantizeLinear (QDQ) with our ranges and weights."""
    images = torch.zeros(2, *subject.shape)
    size = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    module = subject.module(torch.contiguous_format)
    network = module.get_submodule("network")
    if isinstance(network, fx.GraphModule):
        scales_that_biases_fit(network)
        features_as_tokens(network)
    with torch.no_grad():
        exported = torch.export.export(module, (images,), dynamic_shapes=({0: size},))
        program = torch.onnx.export(
            exported, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with this machine's paths
    return program


def _read_onnx(path: Path) -> Runtime:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # it warns that an optimised graph is for this machine alone
    with tempfile.TemporaryDirectory() as folder:
        optimised = options.optimized_model_filepath = f"{folder}/optimised.onnx"
        session = onnxruntime.InferenceSession(str(path), options, providers=[ORT_PROVIDER])
        operations = [node.op_type for node in onnx.load(optimised).graph.node]
    return Runtime(
        lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        dict(session.get_modelmeta().custom_metadata_map),
        sum(operation in ORT_INT8 for operation in operations),
    )


# --- AOTInductor -------------------------------------------------------------------------------


def _write_aoti(subject: Subject, path: Path, batch: int | None) -> None:
    """Machine code for this kind of CPU, for `batch` images and as many threads as are set now."""
    assert batch is not None
    images = torch.zeros(batch, *subject.shape)
    with torch.no_grad():
        graph = torch.export.export(subject.module(torch.channels_last), (images,)).module()
    threads = torch.get_num_threads()
    about = {**subject.about, "batch": str(batch), "threads": str(threads)}
    compile_package(graph, [images], path, threads, about)


def _read_aoti(path: Path) -> Runtime:
    package = torch._inductor.aoti_load_package(str(path))
    return Runtime(package, package.get_metadata())


# --- OpenVINO ----------------------------------------------------------------------------------


def _write_openvino(subject: Subject, path: Path, batch: int | None) -> None:
    """By way of ONNX, of which OpenVINO makes the faster graph, and the only one of int8."""
    import openvino

    between = path.with_suffix(".onnx")
    _onnx_program(subject).save(between)
    model = openvino.Core().read_model(between)
    for key, value in subject.about.items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, path, compress_to_fp16=False)
    between.unlink()


def _read_openvino(path: Path) -> Runtime:
    """In float32: where a CPU has bfloat16, OpenVINO would compute in that by default."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    about = model.get_rt_info(["model_info"]).value if model.has_rt_info(["model_info"]) else {}
    return Runtime(
        lambda images: torch.from_numpy(request.infer([images.numpy()])[0]),
        {key: str(getattr(value, "value", value)) for key, value in about.items()},
        sum(
            layer["layerType"].astype(str) in ("Convolution", "FullyConnected")
            and layer["primitiveType"].astype(str).endswith("_I8")
            for layer in layers
        ),
    )


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "onnx-int8": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "aoti": Format(".pt2", (), _write_aoti, _read_aoti, compiled=True),
    "openvino": Format(
        ".xml",
        ("onnx", "onnxscript", "openvino"),
        _write_openvino,
        _read_openvino,
    ),
}
