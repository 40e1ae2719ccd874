"""Networks as files that other programs run: ONNX, AOTInductor packages, OpenVINO IR.

A row of FORMATS says how a file is written and how its own runtime reads it. Every file takes
images with values from 0 to 1, normalises them itself, and says inside what it was made from.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from engines import onnxruntime
from engines.inductor import compile_package
from experiment.export.compare import Format, Runtime, Subject
from machine import compiler


def missing(format_: Format) -> str | None:
    """What a format lacks on this machine, with the remedy; None where it can be written."""
    absent = [name for name in format_.packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"needs {' and '.join(absent)}; pip install {' '.join(absent)}"
    if format_.compiled and (why := compiler.missing()) is not None:
        return f"{why}; install g++"
    return None


# --- ONNX --------------------------------------------------------------------------------------


def _write_onnx(subject: Subject, path: Path, batch: int | None) -> None:
    """float32, or int8 as QuantizeLinear and DequantizeLinear (QDQ) with our ranges and weights."""
    import onnx

    from engines.onnx_file import onnx_model

    program = subject.program
    model = onnx_model(program.graph, program.examples(2))
    onnx.helper.set_model_props(model, subject.about)
    onnx.save(model, path)


def _read_onnx(path: Path) -> Runtime:
    session, int8_layers = onnxruntime.opened(path, torch.get_num_threads())
    return Runtime(
        lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        dict(session.get_modelmeta().custom_metadata_map),
        len(int8_layers),
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
    import openvino

    from engines.openvino_graph import openvino_model

    model = openvino_model(subject.program, None)
    for key, value in subject.about.items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def _read_openvino(path: Path) -> Runtime:
    """In float32: where a CPU has bfloat16, OpenVINO would compute in that by default."""
    from engines.openvino import core

    model = core().read_model(path)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(model, "CPU", settings)
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
    "openvino": Format(".xml", ("openvino",), _write_openvino, _read_openvino),
}
