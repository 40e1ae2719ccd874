"""The engines that benchmarks/inference.py times, each at its own best documented settings.

Every engine gets a network's weights, the same calibration images and a number of threads, and is
compiled for one batch size. Images lie ready in the layout and type that it takes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from machine.noise import silence
from machine.processor import has_vnni
from methods.quantization import backends
from methods.quantization.compiled import CompiledNetwork
from model import HybridCNNTransformer
from stages.ptq import PtqSpec

CALIBRATION_BATCH = 32


class Engine(NamedTuple):
    """`run(place(images))` gives logits; only `run` is timed."""

    place: Callable[[Tensor], Any]
    run: Callable[[Any], Any]


@dataclass
class Subject:
    """A network in eval mode, its calibration images, and what the engines make of it, made once.

    Files go to `folder`.
    """

    model: HybridCNNTransformer
    calibration: Tensor  # [N, C, H, W], N a multiple of CALIBRATION_BATCH
    folder: Path
    threads: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration images twice: where labels would be, nothing looks."""
        for images in self.calibration.split(CALIBRATION_BATCH):
            yield images, images

    def int8(self, backend: str) -> torch.nn.Module:
        quant = PtqSpec(backend=backend, calibration_batches=len(self.calibration)).quant("ptq")
        quant = backends.with_calibrated_ranges(self.model, quant, self.batches())
        return backends.to_int8(self.model, quant, self.folder)

    @cached_property
    def ours(self) -> torch.nn.Module:
        return self.int8("inductor")

    @cached_property
    def fx(self) -> torch.nn.Module:
        return self.int8("x86")

    @cached_property
    def onnx(self) -> Path:
        """Float32, any batch size."""
        path = self.folder / "float32.onnx"
        torch.onnx.export(
            self.model,
            (self.calibration[:2],),
            path,
            input_names=["images"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            external_data=False,
            verbose=False,
        )
        return path

    @cached_property
    def onnx_int8(self) -> Path:
        """QDQ, uint8 activations and int8 weights a channel, prepared as onnxruntime recommends."""
        from onnxruntime import quantization as ort
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared, path = self.folder / "prepared.onnx", self.folder / "int8.onnx"
        quant_pre_process(str(self.onnx), str(prepared))
        feeds = iter([{"images": images.numpy()} for images, _ in self.batches()])

        class Reader(ort.CalibrationDataReader):
            def get_next(self) -> dict[str, Any] | None:
                return next(feeds, None)

        ort.quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,  # with int8 weights the fastest of four on x86
            weight_type=ort.QuantType.QInt8,
            reduce_range=not has_vnni(),  # as its documentation asks
        )
        return path

    def openvino(self) -> Any:
        """A new float32 model of any batch size."""
        import openvino

        shape = openvino.PartialShape([-1, *self.calibration.shape[1:]])
        return openvino.convert_model(
            self.model, example_input=self.calibration[:2], input=[shape], verbose=False
        )

    @cached_property
    def openvino_int8(self) -> Any:
        return self.nncf(None)

    @cached_property
    def openvino_transformer(self) -> Any:
        import nncf

        return self.nncf(nncf.ModelType.TRANSFORMER)

    def nncf(self, model_type: Any) -> Any:
        """NNCF's post-training quantization for CPUs; without VNNI with its overflow fix."""
        import nncf

        images = [images.numpy() for images, _ in self.batches()]
        more = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
        return nncf.quantize(
            self.openvino(),
            nncf.Dataset(images),
            subset_size=len(images),
            target_device=nncf.TargetDevice.CPU,
            model_type=model_type,
            advanced_parameters=None if has_vnni() else more,
        )


def channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def eager(subject: Subject, batch: int) -> Engine:
    return Engine(torch.Tensor.contiguous, subject.model)


def eager_channels_last(subject: Subject, batch: int) -> Engine:
    model = copy.deepcopy(subject.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine(channels_last, model)


def torch_compile(subject: Subject, batch: int) -> Engine:
    """Inductor with frozen weights, which it may lay out as it likes."""
    from torch._inductor import config

    torch._dynamo.reset()
    model = copy.deepcopy(subject.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(model, dynamic=False)
    images = channels_last(subject.calibration[:1].expand(batch, -1, -1, -1))
    with config.patch(freezing=True), torch.no_grad():
        compiled(images)
    return Engine(channels_last, compiled)


def bf16(subject: Subject, batch: int) -> Engine:
    model = copy.deepcopy(subject.model).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine(lambda images: channels_last(images.bfloat16()), model)


def fx_int8(subject: Subject, batch: int) -> Engine:
    return Engine(channels_last, subject.fx)


def our_int8(subject: Subject, batch: int) -> Engine:
    """Backend `inductor`, compiled for this batch size."""
    network = subject.ours
    assert isinstance(network, CompiledNetwork)
    network.batch_sizes = tuple(sorted({*network.batch_sizes, batch}))
    network.runner(batch)
    return Engine(channels_last, network)


def onnxruntime(subject: Subject, batch: int, *, int8: bool) -> Engine:
    """All graph optimizations, and the batch size known to them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = subject.threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_free_dimension_override_by_name("batch", batch)
    # Waiting threads spin inside a run, but not on after it, where another engine's turn comes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    path = subject.onnx_int8 if int8 else subject.onnx
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Engine(
        lambda images: {"images": images.contiguous().numpy()},
        lambda feeds: session.run(None, feeds)[0],
    )


def openvino(
    subject: Subject, batch: int, *, model: str | None = None, precision: str | None = None
) -> Engine:
    """Latency hint, a fixed batch size; `precision` None leaves OpenVINO's choice for this CPU."""
    import openvino as ov

    graph = subject.openvino() if model is None else getattr(subject, model).clone()
    graph.reshape([batch, *subject.calibration.shape[1:]])
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": subject.threads,
    }
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def place(images: Tensor) -> Any:
        return ov.Tensor(images.contiguous().numpy(), shared_memory=True)

    def run(images: Any) -> Any:
        request.set_input_tensor(images)
        request.infer(share_outputs=True)
        return request.get_output_tensor().data

    return Engine(place, run)


class Variant(NamedTuple):
    """How an engine is made, and how far its logits may be from fp32 eager's.

    `tolerance` is relative to how far logits are from their mean over images.
    """

    tolerance: float
    make: Callable[[Subject, int], Engine]


FP32, BF16, INT8 = 1e-3, 0.1, 0.5  # random weights suffer from rounding; speed does not
OURS, ONNX_INT8 = "int8 inductor (ours)", "ONNX Runtime int8"
OPENVINO_INT8 = ("OpenVINO int8", "OpenVINO int8, rest fp32", "OpenVINO int8, transformer")
VARIANTS = {
    "fp32 eager": Variant(FP32, eager),
    "fp32 channels_last": Variant(FP32, eager_channels_last),
    "fp32 torch.compile": Variant(FP32, torch_compile),
    "bf16 channels_last": Variant(BF16, bf16),
    "int8 FX x86": Variant(INT8, fx_int8),
    OURS: Variant(INT8, our_int8),
    "ONNX Runtime fp32": Variant(FP32, lambda s, b: onnxruntime(s, b, int8=False)),
    ONNX_INT8: Variant(INT8, lambda s, b: onnxruntime(s, b, int8=True)),
    "OpenVINO fp32": Variant(FP32, lambda s, b: openvino(s, b, precision="f32")),
    "OpenVINO bf16": Variant(BF16, lambda s, b: openvino(s, b, precision="bf16")),
    OPENVINO_INT8[0]: Variant(INT8, lambda s, b: openvino(s, b, model="openvino_int8")),
    OPENVINO_INT8[1]: Variant(
        INT8, lambda s, b: openvino(s, b, model="openvino_int8", precision="f32")
    ),
    OPENVINO_INT8[2]: Variant(INT8, lambda s, b: openvino(s, b, model="openvino_transformer")),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantizers talk of themselves; errors still come through as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with silence():
            yield
    finally:
        logging.disable(before)
