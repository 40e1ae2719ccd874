"""Tiny networks to be exported, and a runtime that answers wrongly on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from experiment.export.compare import Runtime, Subject
from experiment.export.formats import FORMATS
from methods.quantization import backends
from stages.deployment import deploy
from stages.ptq import PtqSpec
from stages.stage import Context
from stages.state import ModelState, build, state_of
from tests.support.tiny import tiny

ABOUT = {"experiment": "Tiny", "classes": '["0", "猫"]', "mean": "[0.5]"}


def subject(ctx: Context, backend: str | None = None, **model_args: Any) -> Subject:
    """A tiny network, with ranges observed on digits where it is quantized."""
    return subject_of(state_of(tiny(**{"num_layers": 1, **model_args})), ctx, backend)


def subject_of(state: ModelState, ctx: Context, backend: str | None = None) -> Subject:
    """The same of a network that is there."""
    loaders = ctx.loaders(batch_size=64)
    if backend is not None:
        quant = PtqSpec(backend=backend, calibration_batches=2).quant("ptq")
        quant = backends.with_calibrated_ranges(build(state), quant, loaders.calibration)
        state = state.changed(state.weights, quant=quant)
    return Subject(deploy(state), loaders.test, ABOUT)


def altered(logits: Any) -> Any:
    """FORMATS['onnx'], but that what it reads gives `logits(true ones)`."""

    true = FORMATS["onnx"]

    def read(path: Path) -> Runtime:
        real = true.read(path)
        return Runtime(lambda images: logits(real.run(images)), real.about)

    return replace(true, read=read)
