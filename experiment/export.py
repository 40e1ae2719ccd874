"""Networks as files that other programs run: ONNX, AOTInductor packages, OpenVINO IR.

A row of FORMATS says how a file is written and how its own runtime reads it. Every file takes
images with values from 0 to 1, normalises them itself, and says inside what it was made from.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augmentation import BatchLoader
from machine import has_vnni
from stages import quantization
from stages.compiled import compile_package
from stages.quant_pt2e import LARGEST_BATCH, subtract_what_must_stay
from stages.state import ModelState, build

BATCH = 64  # images that a file of any batch size is compared by
# Largest ‖difference‖ / ‖logits‖, and share of images whose class may change.
FLOAT_TOLERANCE = (1e-4, 0.001)
INT8_TOLERANCE = (0.1, 0.02)  # and at most INT8_ROUNDING times what int8 moves the float logits by
INT8_ROUNDING = 2.0


class ExportError(RuntimeError):
    """A file could not be written, or does not compute what it should; the message is one line."""


class Runtime(NamedTuple):
    """A file as its own runtime sees it."""

    run: Callable[[Tensor], Tensor]  # images in 0..1 `[B, C, H, W]` → logits `[B, num_classes]`
    about: dict[str, str]  # what the file says of itself


class Reference(NamedTuple):
    """What files are compared with, and how far they may be from it."""

    logits: Tensor  # the network's own on the test split, `[N, num_classes]`
    relative: float  # largest ‖difference‖ / ‖logits‖
    other_class: float  # largest share of the images, 0 to 1


class Comparison(NamedTuple):
    """A file against the network that it was made from, on the whole test split."""

    largest: float  # difference of a logit
    relative: float  # ‖difference‖ / ‖logits‖
    other_class: float  # share of the images, 0 to 1
    accuracy: float  # of the file, in percent
    network_accuracy: float


@dataclass(frozen=True)
class Subject:
    """A network with all that its files say and are compared with."""

    state: ModelState
    network: nn.Module  # deploy(state)
    test: BatchLoader
    about: dict[str, str]

    @property
    def shape(self) -> tuple[int, int, int]:
        args = self.state.model_args
        return (args["in_channels"], *args["image_size"])

    def module(self, layout: torch.memory_format) -> nn.Module:
        """Images in 0..1 → logits, as operations that exporters read, computed in `layout`."""
        network = self.network
        if self.state.quant is not None:
            network = quantization.exportable(network, self.state.quant.backend)
        network = copy.deepcopy(network).to(memory_format=layout)
        return _Normalizing(network, self.test.mean, self.test.std, layout)


@dataclass(frozen=True)
class Format:
    """A kind of file. `write` may leave more files beside the one that it is told."""

    ending: str
    packages: tuple[str, ...]  # optional ones, to write and to read it
    write: Callable[[Subject, Path, int | None], None]  # with the batch size, where it is fixed
    read: Callable[[Path], Runtime]
    compiled: bool = False  # machine code: for one batch size, and by a C++ compiler


def missing(format_: Format) -> str | None:
    """What a format lacks on this machine, with the remedy; None where it can be written."""
    absent = [name for name in format_.packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"needs {' and '.join(absent)}; pip install {' '.join(absent)}"
    compiler = os.environ.get("CXX", "g++")
    if format_.compiled and shutil.which(compiler) is None:
        return f"needs a C++ compiler, and there is no {compiler}; install g++"
    return None


def export(
    subject: Subject, format_: Format, path: Path, batch: int | None, expected: Reference
) -> Comparison:
    """Write a file, read it again, compare it with the network, and only then put it at `path`.

    Raises ExportError; then there is no new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        try:
            with quiet():
                format_.write(subject, draft, batch)
                runtime = format_.read(draft)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"cannot be written and read again: {reason}") from error
        found = compare(runtime, subject, batch, expected)
        for file in sorted(draft.parent.iterdir(), key=lambda file: file == draft):
            file.replace(path.parent / file.name)  # weights first, then what refers to them
    return found


@torch.inference_mode()
def reference(subject: Subject) -> Reference:
    """The network's logits on the test split, with the tolerance.

    Every runtime sums in its own order, so that some values round to the neighbouring int8 level,
    and what follows from that is of the size of int8's own rounding error.
    """
    logits = torch.cat([subject.network(images) for images, _ in subject.test])
    if subject.state.quant is None:
        return Reference(logits, *FLOAT_TOLERANCE)
    plain = build(subject.state)
    moved = relative_norm(logits, torch.cat([plain(images) for images, _ in subject.test]))
    relative, other_class = INT8_TOLERANCE
    return Reference(logits, min(relative, INT8_ROUNDING * moved), other_class)


@torch.inference_mode()
def compare(
    runtime: Runtime, subject: Subject, batch: int | None, expected: Reference
) -> Comparison:
    """Run the test split through a file. Raises ExportError where it does not give the network's
    logits, or others when it is run again."""
    images, labels = (t[subject.test.index] for t in (subject.test.images, subject.test.labels))
    size = batch or BATCH

    def run(part: Tensor) -> Tensor:
        padding = size - len(part) if batch else 0
        padded = F.pad(part.float().div(255), (0, 0, 0, 0, 0, 0, 0, padding))
        return runtime.run(padded.contiguous())[: len(part)].clone()

    def accuracy(logits: Tensor) -> float:
        return 100 * float((logits.argmax(1) == labels).double().mean())

    first = run(images[:size])
    found = torch.cat([run(part) for part in images.split(size)])
    if found.shape != expected.logits.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.logits.shape)}"
        raise ExportError(f"gives logits {shapes}")
    if not torch.allclose(first, run(images[:size]), atol=1e-5, equal_nan=True):
        raise ExportError("gives other logits when it is run again")
    relative = relative_norm(found, expected.logits)
    other = float((found.argmax(1) != expected.logits.argmax(1)).double().mean())
    if not (relative <= expected.relative and other <= expected.other_class):
        raise ExportError(
            f"differs from the network by {relative:.2%} of its logits (allowed "
            f"{expected.relative:.2%}), at {other:.2%} of the images in the class (allowed "
            f"{expected.other_class:.2%}){_likely_cause(subject)}"
        )
    return Comparison(
        largest=float((found - expected.logits).abs().max()),
        relative=relative,
        other_class=other,
        accuracy=accuracy(found),
        network_accuracy=accuracy(expected.logits),
    )


def relative_norm(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖ over all elements."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def _likely_cause(subject: Subject) -> str:
    quant = subject.state.quant
    if quant is None or quant.reduce_range or has_vnni():
        return ""
    return "; this CPU has no VNNI, without which int8 products saturate: see reduce_range"


class _Normalizing(nn.Module):
    """Images in 0..1, contiguous → logits. The arithmetic of BatchLoader.normalize."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, layout: torch.memory_format):
        super().__init__()
        self.network, self.layout = network, layout
        self.register_buffer("mean", mean.cpu().clone())
        self.register_buffer("std", std.cpu().clone())

    def forward(self, images: Tensor) -> Tensor:
        normal = (images - self.mean) / self.std
        return self.network(normal.contiguous(memory_format=self.layout))


# --- ONNX --------------------------------------------------------------------------------------


def _write_onnx(subject: Subject, path: Path, batch: int | None) -> None:
    program = _onnx_program(subject)
    program.model.metadata_props.update(subject.about)
    program.save(path)


def _onnx_program(subject: Subject) -> torch.onnx.ONNXProgram:
    """float32, or int8 as QuantizeLinear and DequantizeLinear (QDQ) with our ranges and weights."""
    images = torch.zeros(2, *subject.shape)
    size = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    module = subject.module(torch.contiguous_format)
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
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Runtime(
        lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        dict(session.get_modelmeta().custom_metadata_map),
    )


# --- AOTInductor -------------------------------------------------------------------------------


def _write_aoti(subject: Subject, path: Path, batch: int | None) -> None:
    """Machine code for this kind of CPU, for `batch` images and as many threads as are set now."""
    assert batch is not None
    images = torch.zeros(batch, *subject.shape)
    with torch.no_grad():
        graph = torch.export.export(subject.module(torch.channels_last), (images,)).module()
    subtract_what_must_stay(graph)
    about = {**subject.about, "batch": str(batch), "threads": str(torch.get_num_threads())}
    compile_package(graph, [images], path, about)


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
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    about = model.get_rt_info(["model_info"]).value if model.has_rt_info(["model_info"]) else {}
    return Runtime(
        lambda images: torch.from_numpy(request.infer([images.numpy()])[0]),
        {key: str(getattr(value, "value", value)) for key, value in about.items()},
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


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters remark on their own innards, by warnings and by printing."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
