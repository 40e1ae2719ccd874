"""Every stage that trains, recorded by CUDA graphs' rules on the CPU: the losses it has unrecorded.

To the bit, and nothing in a step looks at a value: see tests/support/recorded.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dataset import Dataset
from machine.errors import Failed
from methods.quantization.record import Quant
from stages.ptq import PtqSpec, ptq
from stages.stage import Context
from stages.state import ModelState, initial_state
from stages.trainable import why_not_recorded
from tests.support.fits import FITS, aware, recordings_in
from tests.support.recorded import steps_are
from tests.support.tiny import TINY
from training.recipe import Recipe

GPU = torch.device("cuda")


def run(name: str, digits: Dataset) -> tuple[ModelState, Context]:
    context = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    torch.manual_seed(0)
    return FITS[name](initial_state({**TINY, "dropout": 0.1}, 0), context), context


@pytest.mark.parametrize("name", FITS)
def test_recorded_it_has_the_same_losses_and_weights(name: str, digits: Dataset) -> None:
    with steps_are(recorded=False):
        expected, plainly = run(name, digits)
    with steps_are(recorded=True) as steps:
        found, context = run(name, digits)
    recordings = [step.recording is not None for step in steps if step.calls]
    assert recordings == [True] * recordings_in(name)
    assert context.details["history"] == plainly.details["history"]
    for key, value in expected.weights.items():
        assert torch.equal(found.weights[key], value), key
    if expected.quant is not None and expected.quant.ranges is not None:  # not averaged weights'
        assert found.quant is not None and found.quant.ranges is not None
        for place, value in expected.quant.ranges.items():
            assert torch.equal(found.quant.ranges[place], value), place


@pytest.mark.parametrize("name", ["exits", "qat"])
def test_and_those_of_a_training_as_it_is_on_the_cpu(name: str, digits: Dataset) -> None:
    """Up to the learning rate's rounding to float32."""
    with steps_are(recorded=True):
        _, recorded = run(name, digits)
    _, plainly = run(name, digits)
    assert not plainly.details["recorded"]
    for mine, its in zip(recorded.details["history"], plainly.details["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(its["train_loss"], rel=1e-3)


def test_fake_quantization_of_fx_looks_at_values(ctx: Context) -> None:
    with steps_are(recorded=True), pytest.raises(Failed, match="while a step is recorded"):
        aware(backend="x86")(initial_state(TINY, 0), ctx)


def test_what_a_gpu_records(ctx: Context) -> None:
    state, recipe = initial_state(TINY, 0), Recipe()
    int8 = ptq(state, PtqSpec(backend="x86", calibration_batches=1), ctx)
    qats = {backend: replace(state, quant=Quant("qat", backend, ())) for backend in ("pt2e", "x86")}
    for wanted in (state, qats["pt2e"], int8):  # int8 masters train in float
        assert why_not_recorded(wanted, recipe, GPU, None, True) is None
    assert why_not_recorded(state, recipe, GPU, qats["pt2e"], True) is not None
    for reason, about in {
        "a GPU alone records": (state, recipe, torch.device("cpu"), None, True),
        "compile is False": (state, Recipe(compile=False), GPU, None, True),
        "several processes": (state, recipe, GPU, None, False),
        "the teacher is int8": (state, recipe, GPU, int8, True),
        "backend 'x86' looks at values": (qats["x86"], recipe, GPU, None, True),
    }.items():
        assert (why_not_recorded(*about) or "").startswith(reason)
