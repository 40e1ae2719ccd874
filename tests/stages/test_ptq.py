"""Post-training quantization: its observer, layers that stay float, and the search for them."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from methods.quantization import backends
from methods.quantization.record import quantizable_layers
from methods.quantization.sensitivity import Choice
from stages.deployment import calibrated
from stages.ptq import PtqSpec, QuantSpec, ptq
from stages.qat import QatSpec
from stages.stage import Context, StageError
from stages.state import build, state_of
from tests.support.suites import Suites
from tests.support.tiny import tiny


def test_ptq_keeps_its_observer_when_ranges_are_observed_again(ctx: Context) -> None:
    state = ptq(state_of(tiny()), PtqSpec(observer="minmax", calibration_batches=1), ctx)
    assert state.quant is not None and state.quant.observer == "minmax"
    assert torch.equal(build(state).head.weight, state.weights["head.weight"])


def test_ptq_records_the_search(ctx: Context) -> None:
    state = state_of(tiny())
    spec = PtqSpec(backend="x86", float_layers="auto", max_accuracy_drop=0.0)
    found = ptq(state, spec, ctx)
    record = ctx.details["float_layers"]
    assert found.quant is not None and list(found.quant.float_layers) == record["float_layers"]
    assert record["steps"][-1]["accuracy"] >= record["float_accuracy"]
    json.dumps(record)


def test_a_drop_needs_auto(suites: Suites) -> None:
    told = suites.refused(
        'EXPERIMENT_CONFIGS.append(chain("Q", {"ptq": {"max_accuracy_drop": 0.5}}))'
    )
    assert len(told) == 1 and "max_accuracy_drop needs float_layers 'auto'" in told[0]


def test_float_layers_stay_float_and_typos_are_refused(ctx: Context) -> None:
    spec = PtqSpec(backend="x86", float_layers=["head", "cnn.*"], calibration_batches=1)
    network = calibrated(ptq(state_of(tiny()), spec, ctx), ctx).network
    assert type(network.head) is nn.Linear
    int8 = {name for name, m in network.named_modules() if "nn.quantized" in type(m).__module__}
    assert any(name.startswith("transformer.") for name in int8)
    assert not any(name.startswith("cnn.") for name in int8)
    with pytest.raises(ValueError, match=r"'haed' matches no layer; layers: cnn\.blocks"):
        PtqSpec(float_layers=["haed"]).check(tiny().model_args)


@pytest.mark.parametrize("backend", backends.BACKENDS)
@pytest.mark.parametrize("patterns", [["*"], ["cnn.*", "embed", "transformer.*", "head"]])
@pytest.mark.parametrize("spec", [PtqSpec, QatSpec])
def test_float_layers_that_leave_nothing_to_quantize_are_refused(
    spec: type[QuantSpec], patterns: list[str], backend: str
) -> None:
    with pytest.raises(ValueError, match="leaves nothing to quantize"):
        spec(backend=backend, float_layers=patterns).check(tiny().model_args)
    spec(backend=backend, float_layers=[*patterns[:-1], "cnn.*"]).check(tiny().model_args)


def test_a_later_stage_must_leave_something_quantized(suites: Suites) -> None:
    """The student has no encoder layers, and those alone were int8."""
    text = """
    FLOAT = {"float_layers": ["cnn.*", "embed", "head"]}
    EXPERIMENT_CONFIGS += [
        chain("Q", {"ptq": FLOAT}, {"distill": {"student": {"num_layers": 0}}}),
        chain("T", {"qat": {"float_layers": ["*"]}}),
    ]
    """
    later, at_once = suites.refused(text)
    place = "Q.compression_args.sequence[1]: float_layers: 'cnn.*', 'embed', 'head'"
    assert later.startswith(f"{place} leaves nothing to quantize")
    assert at_once.startswith("T.compression_args.sequence[0]: float_layers: '*' leaves nothing")


def test_a_search_that_leaves_nothing_to_quantize_ends_the_stage(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = tuple((layer, 0.0) for layer in ("", *quantizable_layers(tiny())))
    module = sys.modules["stages.ptq"]  # of which `stages` itself holds the function ptq
    monkeypatch.setattr(module, "choose_float_layers", lambda *a: Choice(99.0, (), every))
    spec = PtqSpec(backend="x86", float_layers="auto", max_accuracy_drop=0.0)
    with pytest.raises(StageError, match="leaves nothing to quantize within max_accuracy_drop 0;"):
        ptq(state_of(tiny()), spec, ctx)
