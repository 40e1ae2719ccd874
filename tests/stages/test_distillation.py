"""Students learn, stay quantized where their teacher was, and go on where they were interrupted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dataset import Dataset
from methods.distillation.students import FROM_DATA, student_args
from methods.quantization.record import Quant
from model import architecture_of, resolved_args
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec, distill
from stages.finetuning import TrainSpec, train
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, build, initial_state, state_of
from tests.support.chains import FAST, TWO_KINDS
from tests.support.memory import Outcome, assert_same_bits, resumed, uninterrupted
from tests.support.tiny import TINY, tiny


@pytest.mark.parametrize("backend", ["x86", "inductor"])
def test_features_of_a_network_with_exits_are_seen_as_well(ctx: Context, backend: str) -> None:
    start = state_of(tiny(exits=["cnn", "layer_0"]))
    ctx.teacher = state_of(tiny())
    quantized = qat(start, QatSpec(backend=backend, teacher="baseline", **TWO_KINDS, **FAST), ctx)
    student = distill(
        quantized, DistillSpec(width=0.5, teacher="baseline", **TWO_KINDS, **FAST), ctx
    )
    assert student.model_args["exits"] == ["cnn", "layer_0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "should say the student"),
        ({"width": 0.0}, "greater than 0"),
        ({"width": 1.5}, "less than or equal to 1"),
        ({"width": 0.5, "alpha": 0.0}, "the teacher has no say"),
        ({"width": 0.5, "logit_loss": "dkd", "mixup": 0.2}, "one label an image"),
        ({"width": 0.5, "temperature": 0.0}, "greater than 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DistillSpec(**options)


def test_a_student_is_new_and_smaller_and_its_input_is_left_alone(ctx: Context) -> None:
    start = state_of(tiny())
    before = {name: value.clone() for name, value in start.weights.items()}
    end = distill(start, DistillSpec(width=0.5, depth=0.5, **FAST), ctx)
    assert end.model_args == student_args(start.model_args, 0.5, 0.5, {})
    assert end.quant is None and deploy(end).network(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert all(torch.equal(start.weights[name], value) for name, value in before.items())
    sizes = [sum(p.numel() for p in build(state).parameters()) for state in (start, end)]
    assert ctx.details["params"] == sizes and sizes[1] < sizes[0]
    assert ctx.details["widths"]["num_layers"] == [2, 1]
    teacher = ctx.details["teacher"]
    assert teacher["name"] == "current" and not teacher["int8"]
    images, labels = zip(*ctx.loaders().validation, strict=True)
    with torch.inference_mode():
        right = deploy(start).network(torch.cat(images)).argmax(1) == torch.cat(labels)
    assert teacher["validation_accuracy"] == pytest.approx(100 * float(right.float().mean()))


def test_a_student_learns_from_its_teacher_alone(ctx: Context) -> None:
    """Without any label: alpha 1."""
    common: dict[str, Any] = {"learning_rate": 1e-2, "precision": "fp32", "batch_size": 64}
    teacher = train(initial_state(TINY, 0), TrainSpec(epochs=8, **common), ctx)
    spec = DistillSpec(student={"num_layers": 1}, alpha=1.0, epochs=8, **common)
    distill(teacher, spec, ctx)
    assert ctx.details["history"][-1]["validation_accuracy"] > 60


def test_a_student_may_start_as_a_part_of_its_teacher(ctx: Context) -> None:
    """Layers alone, at a rate of nearly nothing: it is still what it was cut from."""
    start = state_of(tiny(num_layers=2))
    still: dict[str, Any] = {**FAST, "learning_rate": 1e-9, "weight_decay": 0.0}
    end = distill(start, DistillSpec(depth=0.5, init="teacher", **still), ctx)
    name = "attention.qkv.weight"
    torch.testing.assert_close(
        end.weights[f"transformer.layers.0.{name}"], start.weights[f"transformer.layers.1.{name}"]
    )
    ctx.teacher = state_of(tiny(num_layers=2, ffn_dim=16))
    with pytest.raises(ValueError, match="part of 'baseline', but ffn_dim is"):
        distill(start, DistillSpec(depth=0.5, init="teacher", teacher="baseline", **still), ctx)


@pytest.mark.parametrize("backend", ["x86", "inductor"])
@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_a_student_of_a_quantized_network_is_quantized_as_well(
    ctx: Context, scheme: str, backend: str
) -> None:
    """After qat it trains with fake quantization; after ptq in float, observed at the end."""
    start = state_of(tiny(num_layers=1))
    ctx.teacher = start
    int8 = (
        ptq(start, PtqSpec(backend=backend, calibration_batches=2), ctx)
        if scheme == "ptq"
        else qat(start, QatSpec(backend=backend, **FAST), ctx)
    )
    # With an int8 teacher the inductor compiles for 20 s; test_compiled.py has its logits.
    spec = DistillSpec(width=0.5, teacher="current" if backend == "x86" else "baseline", **FAST)
    student = distill(calibrated(int8, ctx).state, spec, ctx)
    assert ctx.details["teacher"]["int8"] == (backend == "x86")
    assert student.quant is not None and student.quant.scheme == scheme
    assert (student.quant.ranges is not None) == (scheme == "qat")
    images = torch.randn(8, 1, 8, 8)
    network = calibrated(student, ctx).network
    network = network.graph if backend == "inductor" else network
    with torch.inference_mode():
        expected, found = build(student)(images), network(images)
    assert 0 < float((expected - found).norm() / expected.norm()) < 0.2


def test_layers_found_to_stay_float_stay_so_where_the_student_has_them(ctx: Context) -> None:
    found = ("cnn.blocks.1.conv", "transformer.layers.1.fc1")
    quant = Quant("ptq", "x86", float_layers=found)
    start = state_of(tiny()).changed(state_of(tiny()).weights, quant=quant)
    ctx.teacher = state_of(tiny())
    student = distill(start, DistillSpec(depth=0.5, teacher="baseline", **FAST), ctx)
    assert student.quant is not None and student.quant.float_layers == found[:1]
    calibrated(student, ctx)


def _stage(kind: str, context: Context) -> ModelState:
    torch.manual_seed(0)
    start = context.teacher = state_of(tiny(dropout=0.1, num_layers=1))
    common: dict[str, Any] = {
        "epochs": 2, "batch_size": 128, "precision": "fp32", "ema_decay": 0.9, "keep": "best",
    }  # fmt: skip
    if kind == "qat":
        return qat(start, QatSpec(backend="x86", teacher="current", **common), context)
    options = {"augmentation": "none"} if kind == "remembered" else {"mixup": 0.2, **TWO_KINDS}
    return distill(start, DistillSpec(width=0.5, **options, **common), context)


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> Callable[[str], Outcome]:
    return functools.cache(lambda kind: uninterrupted(partial(_stage, kind), digits))


@pytest.mark.parametrize("stop_after", [1, 13, 20])
@pytest.mark.parametrize("kind", ["inside", "remembered", "qat"])
def test_interrupted_and_resumed_equals_uninterrupted(
    digits: Dataset, plain: Callable[[str], Outcome], kind: str, stop_after: int
) -> None:
    expected, details = plain(kind)
    found, found_details = resumed(partial(_stage, kind), digits, stop_after)
    assert_same_bits(found, expected)
    assert found_details == details


RESNET = {"architecture": "resnet_cifar", "depth": 8, "width": 8}


@pytest.mark.parametrize(
    "student",
    [RESNET, {"architecture": "hybrid"} | {k: v for k, v in TINY.items() if k not in FROM_DATA}],
)
def test_networks_teach_others_of_another_architecture(
    ctx: Context, student: dict[str, Any]
) -> None:
    teacher = tiny().model_args
    if student["architecture"] == "hybrid":
        teacher = resolved_args({**RESNET, "image_size": 8, "in_channels": 1})
    start = initial_state(teacher, 1)
    spec = DistillSpec(student=student, feature_weight=1.0, attention_weight=1.0, **FAST)
    spec.check(start.model_args)
    end = distill(start, spec, ctx)
    assert architecture_of(end.model_args) == student["architecture"]
    assert end.model_args["num_classes"] == start.model_args["num_classes"]
    assert all(torch.isfinite(value).all() for value in end.weights.values())
    assert deploy(end).network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
