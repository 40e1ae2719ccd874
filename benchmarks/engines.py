"""What benchmarks/inference.py times: our networks on every engine, and peers' own int8.

A peer gets the same weights, the same calibration images and as many threads, at its own best
documented settings, and is compiled for one batch size. Its images lie ready in the form that it
takes; ours are torch tensors, and what it takes to hand them over counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engines import ENGINES
from machine.noise import silence
from machine.processor import has_vnni
from methods.casting import BFLOAT16
from methods.early_exit.exits import Exits
from methods.early_exit.thresholds import calibrate, exit_macs
from methods.quantization import backends
from model import Network, every_logits
from stages.deployment import Deployed, deploy
from stages.ptq import PtqSpec
from stages.state import ModelState, build, state_of

CALIBRATION_BATCH = 32


class Engine(NamedTuple):
    """`run(place(images))` gives logits; only `run` is timed."""

    place: Callable[[Tensor], Any]
    run: Callable[[Any], Any]


@dataclass
class Subject:
    """A network in eval mode, its calibration images, and what the engines make of it, made once.

    Files go to `folder`. Peers know nothing of early exits: they get the same network without.
    """

    model: Network
    calibration: Tensor  # [N, C, H, W], N a multiple of CALIBRATION_BATCH
    folder: Path
    threads: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration images twice: where labels would be, nothing looks."""
        for images in self.calibration.split(CALIBRATION_BATCH):
            yield images, images

    @cached_property
    def plain(self) -> Network:
        """The network to its end."""
        if not self.model.model_args["exits"]:
            return self.model
        state = state_of(self.model)
        own = {n: value for n, value in state.weights.items() if not n.startswith("exits.")}
        args = {**state.model_args, "exits": []}
        return build(ModelState(args, own))

    @cached_property
    def ours_float(self) -> Deployed:
        return deploy(self.state)

    @cached_property
    def ours_bf16(self) -> Deployed:
        return deploy(replace(self.state, precision=BFLOAT16))

    @cached_property
    def ours_int8(self) -> Deployed:
        spec = PtqSpec(calibration_batches=len(self.calibration))
        quant = backends.with_calibrated_ranges(self.model, spec.quant("ptq"), self.batches())
        return deploy(replace(self.state, quant=quant))

    @cached_property
    def state(self) -> ModelState:
        """With thresholds that save a tenth of the MACs, where there are exits: most is a fifth."""
        state = state_of(self.model)
        if not self.model.model_args["exits"]:
            return state
        with torch.inference_mode():
            every = every_logits(self.model.parts(), self.calibration)
        labels = every[-1].argmax(1)
        exits = calibrate(every, labels, exit_macs(self.model), Exits(saving=0.1))
        return replace(state, exits=exits)

    @cached_property
    def onnx(self) -> Path:
        """Float32, any batch size."""
        path = self.folder / "float32.onnx"
        torch.onnx.export(
            self.plain,
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
            self.plain, example_input=self.calibration[:2], input=[shape], verbose=False
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


def ours(subject: Subject, batch: int, engine: str, form: str) -> Engine:
    """A network of ours on an engine, as it is deployed; `form` names a property of Subject."""
    deployed = getattr(subject, form)
    return Engine(torch.Tensor.contiguous, deployed.on({batch: engine}, subject.threads).network)


def onnxruntime(subject: Subject, batch: int) -> Engine:
    """All graph optimizations, and the batch size known to them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = subject.threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_free_dimension_override_by_name("batch", batch)
    # Waiting threads spin inside a run, but not on after it, where another engine's turn comes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(subject.onnx_int8), options, providers=["CPUExecutionProvider"]
    )
    return Engine(
        lambda images: {"images": images.contiguous().numpy()},
        lambda feeds: session.run(None, feeds)[0],
    )


def openvino(subject: Subject, batch: int, model: str, precision: str | None = None) -> Engine:
    """Latency hint, a fixed batch size; `precision` None leaves OpenVINO's choice for this CPU."""
    import openvino as ov

    from engines.openvino import core

    graph = getattr(subject, model).clone()
    graph.reshape([batch, *subject.calibration.shape[1:]])
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": subject.threads,
    }
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = core().compile_model(graph, "CPU", settings).create_infer_request()

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
TODAY = "int8 ours, inductor"  # what int8 networks ran on before there were engines
PEERS = {
    "int8 ONNX Runtime's own": Variant(INT8, onnxruntime),
    "int8 NNCF": Variant(INT8, lambda s, b: openvino(s, b, "openvino_int8")),
    "int8 NNCF, rest fp32": Variant(INT8, lambda s, b: openvino(s, b, "openvino_int8", "f32")),
    "int8 NNCF, transformer": Variant(INT8, lambda s, b: openvino(s, b, "openvino_transformer")),
}
FORMS = {  # a property of Subject, and how far it may be off
    "float": ("ours_float", FP32),
    "bf16": ("ours_bf16", BF16),
    "int8 ours": ("ours_int8", INT8),
}
OURS = {
    f"{kind}, {engine}": Variant(
        tolerance, lambda s, b, engine=engine, form=form: ours(s, b, engine, form)
    )
    for kind, (form, tolerance) in FORMS.items()
    for engine in ENGINES
}
VARIANTS = {**OURS, **PEERS}


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
