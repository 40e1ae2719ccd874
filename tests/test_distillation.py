"""Distillation: losses by hand, what a student is, who teaches it, and when a teacher must run."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.errors import Interrupted
from methods.distillation.features import Watch, places
from methods.distillation.losses import (
    attention_loss,
    decoupled_parts,
    dkd_loss,
    feature_loss,
    kd_loss,
)
from methods.distillation.students import inherited, student_args
from methods.quantization import backends
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec, distill
from stages.finetuning import FinetuneSpec, TrainSpec, finetune, train
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context, StageError
from stages.state import ModelState, build, initial_state, state_of
from stages.teaching import Distillation, Teacher, content_keys
from tests.conftest import TINY, Suites, tiny
from tests.test_training import Memory
from training.losses import cross_entropy

FAST: dict[str, Any] = {"epochs": 1, "batch_size": 256, "precision": "fp32"}
TWO_KINDS = {"feature_weight": 1.0, "attention_weight": 5.0}


def random_logits(seed: int = 0, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student, teacher `[6, 5]` and labels, in double precision."""
    draw = np.random.default_rng(seed)
    return (
        scale * draw.normal(size=(6, 5)),
        scale * draw.normal(size=(6, 5)),
        draw.integers(5, size=6),
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


# --- losses, by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_by_hand(temperature: float) -> None:
    student, teacher, _ = random_logits()
    rows = [
        kl(softmax(t / temperature), softmax(s / temperature))
        for s, t in zip(student, teacher, strict=True)
    ]
    found = kd_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(found) == pytest.approx(temperature**2 * np.mean(rows), rel=1e-12)


def test_t_squared_keeps_the_gradients_size() -> None:
    """d/ds of T²·KL is T·(softmax(s/T) - softmax(t/T))/B, which tends to (s - t)/(K·B)."""
    student, teacher, _ = random_logits()
    student -= student.mean(1, keepdims=True)
    teacher -= teacher.mean(1, keepdims=True)
    for temperature in (1.0, 4.0, 1000.0):
        logits = torch.tensor(student, requires_grad=True)
        kd_loss(logits, torch.tensor(teacher), temperature).backward()
        expected = (
            temperature * (softmax(student / temperature) - softmax(teacher / temperature)) / 6
        )
        assert logits.grad is not None
        np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(logits.grad.numpy(), (student - teacher) / (5 * 6), atol=2e-3)


def paper_dkd(s: np.ndarray, t: np.ndarray, label: int, temperature: float) -> tuple[float, float]:
    """TCKD and NCKD of one image, as arXiv:2203.08679 writes them (equations 1 to 5)."""
    pairs = []
    for scores in (s, t):
        p = softmax(scores / temperature)
        others = np.delete(p, label)
        pairs.append(
            (np.array([p[label], others.sum()]), softmax(np.delete(scores, label) / temperature))
        )
    (b_student, p_student), (b_teacher, p_teacher) = pairs
    return kl(b_teacher, b_student), kl(p_teacher, p_student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_kd_equals_the_papers_formula(temperature: float) -> None:
    student, teacher, labels = random_logits()
    expected = [
        paper_dkd(s, t, y, temperature) for s, t, y in zip(student, teacher, labels, strict=True)
    ]
    tensors = torch.tensor(student), torch.tensor(teacher), torch.tensor(labels)
    target, rest = decoupled_parts(*tensors, temperature)
    np.testing.assert_allclose(target.numpy(), [pair[0] for pair in expected], rtol=1e-6)
    np.testing.assert_allclose(rest.numpy(), [pair[1] for pair in expected], rtol=1e-6)
    whole = temperature**2 * np.mean([1.5 * a + 8 * b for a, b in expected])
    assert float(dkd_loss(*tensors, temperature, 1.5, 8.0)) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_decoupled_kd_with_the_teachers_doubt_as_weight(temperature: float) -> None:
    """KD = TCKD + (1 - p_target of the teacher)·NCKD, the paper's equation 6, and its gradient."""
    student, teacher, labels = random_logits(1)
    t, y = torch.tensor(teacher), torch.tensor(labels)
    doubt = 1 - torch.tensor(softmax(teacher / temperature)[np.arange(6), labels])
    gradients = []
    for decoupled in (True, False):
        logits = torch.tensor(student, requires_grad=True)
        if decoupled:
            target, rest = decoupled_parts(logits, t, y, temperature)
            loss = temperature**2 * (target + doubt * rest).mean()
        else:
            loss = kd_loss(logits, t, temperature)
        loss.backward()
        gradients.append((loss.detach(), logits.grad))
    torch.testing.assert_close(*(loss for loss, _ in gradients), rtol=1e-6, atol=0)
    torch.testing.assert_close(*(g for _, g in gradients), rtol=1e-5, atol=1e-8)


def test_decoupled_kd_stays_finite_with_certain_teachers() -> None:
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    loss = dkd_loss(logits, torch.tensor([[90.0, -90.0]] * 2), torch.tensor([0, 0]), 1.0, 1.0, 8.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(80.0)  # the second row: (0 + 160) / 2
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_attention_transfer_by_hand() -> None:
    draw = np.random.default_rng(0)
    student, teacher = draw.normal(size=(3, 4, 5)), draw.normal(size=(3, 4, 7))
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        maps = [np.array([sum(c * c for c in place) for place in f]) for f in (s, t)]
        maps = [m / math.sqrt(sum(v * v for v in m)) for m in maps]
        expected += sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / 3
    found = attention_loss(torch.tensor(student), torch.tensor(teacher))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_feature_transfer_by_hand() -> None:
    draw = np.random.default_rng(0)
    projected, teacher = 3 * draw.normal(size=(2, 4, 6)), draw.normal(size=(2, 4, 6))
    mean = teacher.mean(-1, keepdims=True)
    white = (teacher - mean) / np.sqrt(teacher.var(-1, keepdims=True) + 1e-5)
    off = np.abs(projected - white)
    huber = np.where(off < 2, off**2 / 4, off - 1)
    found = feature_loss(torch.tensor(projected), torch.tensor(teacher))
    assert float(found) == pytest.approx(huber.mean(), rel=1e-6)
    again = feature_loss(torch.tensor(projected), torch.tensor(100 * teacher))
    assert float(again) == pytest.approx(huber.mean(), rel=1e-4)  # whatever the teacher's scale


# --- the criterion ------------------------------------------------------------------------------


def criterion(ctx: Context, **options: Any) -> tuple[Distillation, HybridCNNTransformer]:
    """A criterion with a tiny teacher of another width, and an attached student."""
    spec = DistillSpec(width=0.5, **options)
    teacher, student = tiny(embed_dim=24), tiny()
    at = places(student.model_args, teacher.model_args) if spec.looks_inside else []
    made = Distillation(
        spec, cross_entropy(spec.label_smoothing), Teacher(state_of(teacher), ctx, "fp32", at), at
    )
    made.attach(student)
    return made, student


def test_labels_and_teacher_are_mixed_by_alpha_on_the_same_mixed_images(ctx: Context) -> None:
    spec = FinetuneSpec(mixup=0.5, batch_size=32)
    images, labels = next(iter(ctx.loaders(spec).train))
    assert labels.ndim == 2  # mixup gives probabilities
    made, student = criterion(ctx, alpha=0.3, temperature=2.0, mixup=0.5, label_smoothing=0.1)
    logits = student(images)
    teacher = tiny(embed_dim=24)
    teacher.load_state_dict(made.teacher.network.state_dict())
    with torch.no_grad():
        expected = 0.7 * F.cross_entropy(logits, labels, label_smoothing=0.1)
        expected += 0.3 * kd_loss(logits, teacher(images), 2.0)
    torch.testing.assert_close(made(logits, labels, images).detach(), expected)


def test_features_and_attention_add_up(ctx: Context) -> None:
    images, labels = next(iter(ctx.loaders(batch_size=16).calibration))
    made, student = criterion(ctx, alpha=0.0, label_smoothing=0.0, **TWO_KINDS)
    loss = made(student(images), labels, images)
    expected = F.cross_entropy(student(images), labels)
    for place, projection in zip(made.at, made.projections, strict=True):
        mine, theirs = made.watch.seen[place.student], made.teacher.features(place.teacher)
        assert mine.shape == (16, place.positions, place.channels[0])
        assert theirs.shape == (16, place.positions, place.channels[1])
        expected = expected + 5 * attention_loss(mine, theirs)
        expected = expected + feature_loss(projection(mine), theirs)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in made.projections.parameters())
    assert all(p.grad is None for p in made.teacher.network.parameters())


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
@pytest.mark.parametrize("backend", ["x86", "inductor"])
def test_features_of_a_network_in_quantization_are_at_the_same_places(
    backend: str, pooling: str
) -> None:
    model, images = tiny(pooling=pooling), torch.randn(4, 1, 8, 8)
    at = [(p.student, p.positions) for p in places(model.model_args, model.model_args)]
    prepared = backends.prepare(model, Quant("ptq", backend))  # it only observes
    one, other = Watch(model, at), Watch(prepared, at)
    with torch.inference_mode():
        model(images)
        prepared(images)
    assert one.seen.keys() == other.seen.keys() == {
        "cnn.blocks.0.pool", "cnn.blocks.1.pool", "transformer.norm",
    }  # fmt: skip
    for name in one.seen:
        torch.testing.assert_close(one.seen[name], other.seen[name], rtol=1e-4, atol=1e-5)
    assert one.seen["transformer.norm"].shape == (4, 16, 16)  # without the class token


@pytest.mark.parametrize("backend", ["x86", "inductor"])
def test_features_of_a_network_with_exits_are_seen_as_well(ctx: Context, backend: str) -> None:
    start = state_of(tiny(exits=["cnn", "layer_0"]))
    ctx.teacher = state_of(tiny())
    quantized = qat(start, QatSpec(backend=backend, teacher="baseline", **TWO_KINDS, **FAST), ctx)
    student = distill(
        quantized, DistillSpec(width=0.5, teacher="baseline", **TWO_KINDS, **FAST), ctx
    )
    assert student.model_args["exits"] == ["cnn", "layer_0"]


def test_places_are_the_ends_of_each_resolution_that_both_have() -> None:
    def args(**more: Any) -> dict[str, Any]:
        return HybridCNNTransformer(**{**TINY, **more}).model_args

    wide = args(cnn_channels=[8, 8, 16], cnn_pools=[1, 1, 2], embed_dim=32)
    assert places(args(), wide) == [
        ("cnn.blocks.0.pool", "cnn.blocks.1.pool", 64, (8, 8)),
        ("cnn.blocks.1.pool", "cnn.blocks.2.pool", 16, (16, 16)),
        ("transformer.norm", "transformer.norm", 16, (16, 32)),
    ]
    beside = places(args(fusion="parallel"), args(fusion="parallel_attention", patch_size=2))
    assert [place.student for place in beside] == ["cnn.blocks.0.pool", "cnn.blocks.1.pool"]
    tokens = places(args(), args(fusion="parallel_attention", patch_size=4))
    assert "transformer.norm" not in [place.student for place in tokens]  # 16 against 4
    nothing = args(cnn_channels=[8], cnn_pools=[4], fusion="parallel")
    with pytest.raises(ValueError, match="no feature map of one size"):
        DistillSpec(width=0.5, feature_weight=1.0).check_teacher(args(), nothing, False)


# --- the teacher's memory -----------------------------------------------------------------------


def test_remembered_logits_are_the_online_ones(ctx: Context) -> None:
    teacher = Teacher(state_of(tiny()), ctx, "fp32", [])
    loaders = ctx.loaders(FinetuneSpec(augmentation="none", batch_size=100))
    teacher.remember(ctx.loaders(batch_size=64).calibration)
    loaders.train.set_epoch(3)
    for images, _ in loaders.train:
        torch.testing.assert_close(teacher.logits(images), teacher(images), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="not asked about one of these images"):
        teacher.logits(next(iter(loaders.validation))[0])


def test_content_keys_tell_images_apart(ctx: Context) -> None:
    images = torch.cat([images for images, _ in ctx.loaders(batch_size=64).calibration])
    different = len(np.unique(images.flatten(1).numpy(), axis=0))
    assert len(content_keys(images).unique()) == different > 1000
    nudged = images.clone()
    nudged[:, 0, 3, 3] = torch.nextafter(nudged[:, 0, 3, 3], torch.tensor(9.0))
    assert not (content_keys(images) == content_keys(nudged)).any()
    assert torch.equal(content_keys(images[5:7].contiguous()), content_keys(images)[5:7])


@pytest.mark.parametrize(
    ("options", "remembered"),
    [
        ({"augmentation": "none"}, True),
        ({"augmentation": "none", "logit_loss": "dkd"}, True),
        ({"augmentation": "none", "mixup": 0.2}, False),
        ({"augmentation": "none", "cutout": 2}, False),
        ({"augmentation": "none", "attention_weight": 1.0}, False),
        ({}, False),
    ],
)
def test_memory_is_used_where_every_epoch_shows_the_same_images(
    ctx: Context, options: dict[str, Any], remembered: bool
) -> None:
    distill(state_of(tiny(num_layers=1)), DistillSpec(width=0.5, **options, **FAST), ctx)
    assert ctx.details["teacher"]["remembered"] == remembered


def test_memory_changes_nothing_but_the_time(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DistillSpec(width=0.5, augmentation="none", **{**FAST, "epochs": 2})

    def run() -> ModelState:
        context = Context(digits, torch.device("cpu"), 0, say=lambda text: None)
        return distill(state_of(tiny(num_layers=1)), spec, context)

    torch.manual_seed(0)
    remembered = run()
    monkeypatch.setattr(Teacher, "remember", lambda self, loader: None)
    torch.manual_seed(0)
    online = run()
    for name, value in online.weights.items():
        torch.testing.assert_close(remembered.weights[name], value, rtol=1e-3, atol=1e-4)


# --- the student --------------------------------------------------------------------------------

DEFAULT = {"cnn_channels": [32, 64, 64, 128], "cnn_pools": [2, 1, 2, 2]}


def resolved(**args: Any) -> dict[str, Any]:
    return HybridCNNTransformer(**args).model_args


def test_half_of_the_default_network() -> None:
    half = student_args(resolved(**DEFAULT), 0.5, 0.5, {})
    assert half["cnn_channels"] == [16, 32, 32, 64]
    assert half["embed_dim"] == 64
    assert (half["num_layers"], half["num_heads"], half["head_dim"]) == (1, [2], [32])
    assert half["ffn_dim"] == [128]
    parallel = student_args(resolved(**DEFAULT, fusion="parallel"), 0.5, 1.0, {})
    assert parallel["mlp_dims"] == [128, 64]


def test_odd_widths_of_a_pruned_network_and_small_shares() -> None:
    pruned = resolved(
        cnn_channels=[9, 17, 61, 100], cnn_pools=[2, 1, 2, 2], embed_dim=100, num_layers=4,
        num_heads=[4, 3, 1, 2], head_dim=[9, 20, 32, 5], ffn_dim=[68, 70, 7, 200],
    )  # fmt: skip
    student = student_args(pruned, 0.4, 0.5, {})
    assert student["cnn_channels"] == [8, 8, 24, 40]
    assert student["embed_dim"] == 40
    assert student["num_layers"] == 2  # from the second and the fourth
    assert (student["num_heads"], student["head_dim"]) == ([1, 1], [20, 5])
    assert student["ffn_dim"] == [32, 80]
    tiny_one = student_args(pruned, 0.01, 0.01, {})
    assert tiny_one["num_layers"] == 1 and tiny_one["embed_dim"] == 8
    assert student_args(pruned, 1.0, 1.0, {}) == pruned
    for args in (student, tiny_one):
        images = torch.zeros(2, 3, 32, 32)
        assert HybridCNNTransformer(**args).eval()(images).shape == (2, 10)


def test_own_arguments_go_over_the_scaled_ones() -> None:
    teacher = resolved(**DEFAULT)
    student = student_args(teacher, 0.5, 1.0, {"ffn_dim": 40, "num_layers": 3, "embed_dim": 48})
    assert student["ffn_dim"] == [40, 40, 40] and student["cnn_channels"] == [16, 32, 32, 64]
    assert (student["num_heads"], student["head_dim"]) == ([2, 2, 2], [24, 24, 24])
    other = student_args(teacher, 1.0, 1.0, {"fusion": "parallel", "mlp_dims": [32]})
    assert other["fusion"] == "parallel" and other["mlp_dims"] == [32]


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


def test_a_teachers_options_need_a_teacher() -> None:
    with pytest.raises(ValidationError, match="alpha needs a teacher"):
        FinetuneSpec(alpha=0.5)
    with pytest.raises(ValidationError, match="finetune between cuts has no teacher"):
        PruneSpec(ratio=0.5, mode="structural", finetune=FinetuneSpec(teacher="current"))
    assert not FinetuneSpec().settings().keys() & {"teacher", "alpha", "temperature"}
    said = FinetuneSpec(teacher="current").settings()
    assert said["alpha"] == 0.9 and "dkd_beta" not in said and "feature_weight" not in said


# --- the stage ----------------------------------------------------------------------------------


def test_a_student_is_new_and_smaller_and_its_input_is_left_alone(ctx: Context) -> None:
    start = state_of(tiny())
    before = {name: value.clone() for name, value in start.weights.items()}
    end = distill(start, DistillSpec(width=0.5, depth=0.5, **FAST), ctx)
    assert end.model_args == student_args(start.model_args, 0.5, 0.5, {})
    assert end.quant is None and deploy(end)(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert all(torch.equal(start.weights[name], value) for name, value in before.items())
    sizes = [sum(p.numel() for p in build(state).parameters()) for state in (start, end)]
    assert ctx.details["params"] == sizes and sizes[1] < sizes[0]
    assert ctx.details["widths"]["num_layers"] == [2, 1]
    teacher = ctx.details["teacher"]
    assert teacher["name"] == "current" and not teacher["int8"]
    images, labels = zip(*ctx.loaders().validation, strict=True)
    with torch.inference_mode():
        right = deploy(start)(torch.cat(images)).argmax(1) == torch.cat(labels)
    assert teacher["validation_accuracy"] == pytest.approx(100 * float(right.float().mean()))


def test_a_student_learns_from_its_teacher_alone(ctx: Context) -> None:
    """Without any label: alpha 1."""
    common: dict[str, Any] = {"learning_rate": 1e-2, "precision": "fp32", "batch_size": 64}
    teacher = train(initial_state(TINY, 0), TrainSpec(epochs=8, **common), ctx)
    spec = DistillSpec(student={"num_layers": 1}, alpha=1.0, epochs=8, **common)
    distill(teacher, spec, ctx)
    assert ctx.details["history"][-1]["validation_accuracy"] > 60


@pytest.mark.parametrize("fusion", ["serial", "parallel", "parallel_attention"])
def test_a_part_of_the_teacher_is_evenly_spaced(fusion: str) -> None:
    teacher = tiny(fusion=fusion, num_layers=4, cnn_channels=[8, 16], embed_dim=24, exits=["cnn"])
    args = student_args(
        teacher.model_args, 0.5, 0.5, {"cnn_channels": [4, 16], "head_dim": [6, 6]}
        if fusion != "parallel" else {"cnn_channels": [4, 16]},
    )  # fmt: skip
    part = inherited(teacher.model_args, teacher.state_dict(), args)
    student = HybridCNNTransformer(**{**args, "exits": []})
    student.load_state_dict(part)
    whole = teacher.state_dict()
    assert torch.equal(part["cnn.blocks.0.conv.weight"], whole["cnn.blocks.0.conv.weight"][1::2])
    assert torch.equal(part["cnn.blocks.1.conv.weight"], whole["cnn.blocks.1.conv.weight"][:, 1::2])
    if fusion == "parallel":
        assert torch.equal(
            part["mlp.0.bias"],
            whole["mlp.0.bias"][[0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23]],
        )
        return
    assert args["num_layers"] == 2 and args["num_heads"] == [1, 1]
    dims = torch.tensor(_evenly(24, args["embed_dim"]))
    assert torch.equal(
        part["transformer.layers.1.norm1.weight"], whole["transformer.layers.3.norm1.weight"][dims]
    )
    heads, own = torch.tensor([1]), torch.tensor(_evenly(12, 6))
    values = whole["transformer.layers.1.attention.qkv.weight"].view(3, 2, 12, 24)[2]
    expected = values[heads][:, own][:, :, dims].reshape(6, -1)
    assert torch.equal(part["transformer.layers.0.attention.qkv.weight"][-6:], expected)


def _evenly(size: int, count: int) -> list[int]:
    return [math.floor(size * (2 * i + 1) / (2 * count)) for i in range(count)]


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


@pytest.mark.parametrize("stage", ["finetune", "qat"])
def test_a_teacher_changes_finetuning_and_qat(ctx: Context, stage: str) -> None:
    start = state_of(tiny(num_layers=1))
    ctx.teacher = state_of(tiny(embed_dim=24))

    def weights(**options: Any) -> Tensor:
        if stage == "qat":
            spec = QatSpec(backend="x86", **FAST, **options)
            return qat(start, spec, ctx).weights["head.weight"]
        return finetune(start, FinetuneSpec(**FAST, **options), ctx).weights["head.weight"]

    plain, again = weights(), weights()
    named, current = weights(teacher="baseline"), weights(teacher="current")
    assert torch.equal(plain, again)
    assert len({float(w.sum()) for w in (plain, named, current)}) == 3
    ctx.teacher = None
    with pytest.raises(StageError, match="teacher 'baseline' is not there"):
        weights(teacher="baseline")


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
        else calibrated(qat(start, QatSpec(backend=backend, **FAST), ctx), ctx)
    )
    # With an int8 teacher the inductor compiles for 20 s; test_int8.py has its logits.
    spec = DistillSpec(width=0.5, teacher="current" if backend == "x86" else "baseline", **FAST)
    student = distill(int8, spec, ctx)
    assert ctx.details["teacher"]["int8"] == (backend == "x86")
    assert student.quant is not None and student.quant.scheme == scheme
    assert (student.quant.ranges is not None) == (scheme == "qat")
    images = torch.randn(8, 1, 8, 8)
    network = deploy(calibrated(student, ctx))
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
    deploy(calibrated(student, ctx))


def test_int8_and_masked_teachers_teach_what_they_deploy(ctx: Context) -> None:
    start = state_of(tiny(num_layers=1))
    masked = prune(start, PruneSpec(ratio=0.5), ctx)
    images = next(iter(ctx.loaders(batch_size=32).validation))[0]
    for state in (masked, ptq(masked, PtqSpec(backend="x86", calibration_batches=2), ctx)):
        with torch.inference_mode():
            expected = deploy(state)(images)
        assert torch.equal(Teacher(state, ctx, "fp32", []).logits(images), expected)
        distill(state, DistillSpec(width=0.5, **FAST), ctx)
    with pytest.raises(ValueError, match="'current' is int8, which shows its logits alone"):
        distill(state, DistillSpec(width=0.5, attention_weight=1.0, **FAST), ctx)


@pytest.mark.parametrize("stop_after", [1, 13, 20])
@pytest.mark.parametrize("kind", ["inside", "remembered", "qat"])
def test_interrupted_and_resumed_equals_uninterrupted(
    digits: Any, kind: str, stop_after: int
) -> None:
    common: dict[str, Any] = {
        "epochs": 2, "batch_size": 128, "precision": "fp32", "ema_decay": 0.9, "keep": "best",
    }  # fmt: skip
    start = state_of(tiny(dropout=0.1, num_layers=1))

    def run(context: Context) -> ModelState:
        context.teacher = start
        if kind == "qat":
            return qat(start, QatSpec(backend="x86", teacher="current", **common), context)
        options = {"augmentation": "none"} if kind == "remembered" else {"mixup": 0.2, **TWO_KINDS}
        return distill(start, DistillSpec(width=0.5, **options, **common), context)

    def context(**more: Any) -> Context:
        return Context(digits, torch.device("cpu"), 0, say=lambda text: None, **more)

    torch.manual_seed(99)
    plain = context()
    expected = run(plain)
    memory, asked = Memory(), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == stop_after

    with pytest.raises(Interrupted):
        run(context(snapshot=memory, stop_requested=stop))
    torch.manual_seed(12345)
    resumed = context(snapshot=memory)
    found = run(resumed)
    for name, value in expected.weights.items():
        assert torch.equal(found.weights[name], value), name
    assert resumed.details == plain.details


def test_projections_train_along_and_are_dropped(ctx: Context) -> None:
    made, seen = [], []
    real = Distillation.attach

    def attach(self: Distillation, student: nn.Module) -> None:
        made.append(self)
        seen.append([p.detach().clone() for p in self.projections.parameters()])
        real(self, student)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "attach", attach)
        end = distill(state_of(tiny()), DistillSpec(width=0.5, feature_weight=1.0, **FAST), ctx)
    assert end.weights.keys() == HybridCNNTransformer(**end.model_args).state_dict().keys()
    for before, after in zip(seen[0], made[0].projections.parameters(), strict=True):
        assert not torch.equal(before, after)


# --- teachers by name ---------------------------------------------------------------------------

TAUGHT = """
D = {"width": 0.5, "epochs": 1}
EXPERIMENT_CONFIGS += [
    chain("Student", {"distill": {**D, "teacher": "Teacher"}}),
    chain("Teacher", {"finetune": {"epochs": 1}}, "ptq"),
    chain("Other", {"finetune": {"epochs": 1}}),
]
"""


def keys(suites: Suites, text: str) -> dict[str, str]:
    """Experiment → key of its last stage."""
    chains = plan(load_suite(suites.write(text)))
    return {chain.experiment.name: chain.steps[-1].key for chain in chains}


def stages_of(suites: Suites, name: str) -> list[dict[str, Any]]:
    return json.loads((suites.results / f"{name}_results.json").read_text())["stages"]


def test_a_named_teacher_runs_first_also_with_only(suites: Suites) -> None:
    assert suites.run(TAUGHT, "--only", "Student") == 0
    printed = suites.capsys.readouterr().out
    assert printed.index("━━ Base") < printed.index("━━ Teacher") < printed.index("━━ Student")
    assert "━━ Other" not in printed
    (stage,) = stages_of(suites, "Student")
    assert stage["stage"] == "distill" and not stage["cached"]
    assert stage["details"]["teacher"]["name"] == "Teacher" and stage["details"]["teacher"]["int8"]
    assert stage["metrics"]["params"] < stages_of(suites, "Teacher")[-1]["metrics"]["params"]
    assert (suites.models / "Student_distilled.pth").exists()
    assert suites.run(TAUGHT, "--only", "Student") == 0
    assert [s["cached"] for s in stages_of(suites, "Student")] == [True]
    assert suites.run(TAUGHT, "--dry-run") == 0
    assert "teacher=Teacher" in suites.capsys.readouterr().out


def test_the_teacher_is_in_the_key_and_its_name_is_not(suites: Suites) -> None:
    first = keys(suites, TAUGHT)
    renamed = keys(suites, TAUGHT.replace("Teacher", "Master"))
    assert renamed["Student"] == first["Student"]
    other = keys(suites, TAUGHT.replace('"teacher": "Teacher"', '"teacher": "Other"'))
    assert other["Student"] != first["Student"]
    longer = keys(
        suites,
        TAUGHT.replace(
            '"Teacher", {"finetune": {"epochs": 1}}', '"Teacher", {"finetune": {"epochs": 2}}'
        ),
    )
    assert longer["Student"] != first["Student"] and longer["Other"] == first["Other"]
    words = [
        keys(suites, TAUGHT.replace('"teacher": "Teacher"', f'"teacher": "{word}"'))["Student"]
        for word in ("baseline", "current", "Base")
    ]
    assert len(set(words)) == 1  # three names of one network


def test_a_teachers_code_does_not_concern_who_has_none(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiment.suite import chains as module

    before = keys(suites, TAUGHT)
    real = module._code_digest
    monkeypatch.setattr(
        module,
        "_code_digest",
        lambda path: "changed" if path.name in ("teacher.py", "transfer.py") else real(path),
    )
    after = keys(suites, TAUGHT)
    assert {name for name in before if before[name] != after[name]} == {"Student"}


def test_other_weights_of_the_teacher_teach_anew(suites: Suites) -> None:
    assert suites.run(TAUGHT, "--only", "Student") == 0
    store, key = Store(suites.models), stages_of(suites, "Teacher")[-1]["key"]
    found = store.load(key)
    assert found is not None
    state, record = found
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["head.bias"] += 1
    store.put(key, state.changed(weights, quant=state.quant), record)
    assert suites.run(TAUGHT, "--only", "Student") == 0
    assert stages_of(suites, "Teacher")[-1]["cached"]
    assert not stages_of(suites, "Student")[-1]["cached"]
    assert "made from other weights than its parent or teacher" in suites.capsys.readouterr().out


def test_a_chain_of_teachers_and_one_that_trains_itself(suites: Suites) -> None:
    text = TAUGHT.replace(
        'chain("Student"',
        'chain("Last", {"finetune": {"epochs": 1, "teacher": "Student"}}),\n    chain("Student"',
    )
    text += """
ALONE = [{"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1, "teacher": "baseline"}}]
EXPERIMENT_CONFIGS.append({"name": "Alone", "compression_args": {"sequence": ALONE}})
"""
    chains = plan(load_suite(suites.write(text), only=["Last", "Alone"]))
    names = [chain.experiment.name for chain in chains]
    assert names == ["Base", "Teacher", "Student", "Last", "Alone"]
    alone = chains[-1].steps
    assert [step.stage for step in alone] == ["train", "prune", "finetune"]
    assert alone[2].teacher is alone[0] and alone[2].before is alone[1]
    last = chains[-2].steps[-1]
    assert last.teacher is chains[2].steps[-1]
    assert [s.stage for s in chains[-2].all_steps()] == [
        "train", "finetune", "ptq", "distill", "finetune",
    ]  # fmt: skip


def test_a_teacher_gets_its_students_seeds(suites: Suites) -> None:
    text = TAUGHT + 'EXPERIMENT_CONFIGS[1]["seeds"] = [0, 3]\n'
    chains = plan(load_suite(suites.write(text)))
    seeds: dict[str, list[int]] = {}
    for chain in chains:
        seeds.setdefault(chain.experiment.name, []).append(chain.seed)
    assert seeds == {"Base": [0, 3], "Teacher": [0, 3], "Student": [0, 3], "Other": [0]}
    assert all(
        step.teacher is None or step.teacher.seed == step.seed
        for chain in chains
        for step in chain.steps
    )
    lines = suites.refused(text + 'EXPERIMENT_CONFIGS[2]["seeds"] = [0]\n')
    assert lines == [
        "Student: seed 3 is not among the seeds [0] of its teacher Teacher; add it there, or "
        "remove the teacher's 'seeds'"
    ]


def test_students_of_a_failed_teacher_are_skipped_with_the_reason(suites: Suites) -> None:
    text = TAUGHT.replace(
        '{"finetune": {"epochs": 1}}, "ptq"',
        '{"finetune": {"epochs": 3, "optimizer": "sgd", "learning_rate": 100.0}}',
    )
    assert suites.run(text) == 1
    result = json.loads((suites.results / "Student_results.json").read_text())
    assert result["status"] == "skipped"
    assert result["errors"][0]["message"].startswith("its teacher Teacher failed: NonFiniteLoss")
    assert stages_of(suites, "Other")


MISTAKES = {
    "chain('C', 'distill')": "C.compression_args.sequence[0]: should say the student",
    "chain('C', {'distill': {'width': 0.5, 'teacher': 'Bas'}})": "C.compression_args.sequence[0]."
    "teacher: 'Bas' is not a teacher; did you mean 'Base'?",
    "chain('C', {'finetune': {'epochs': 1, 'teacher': 'curent'}})": "did you mean 'current'?",
    "chain('C', {'distill': {'width': 0.5, 'teacher': 'C'}})": "C.compression_args: teachers go "
    "round in a circle: C → C",
    "chain('C', {'distill': {'width': 0.5, 'teacher': 'E'}}), chain('E', {'distill': {'width': "
    "0.5, 'teacher': 'C'}})": "teachers go round in a circle: C → E → C",
    "{**BASE, 'name': 'Half', 'dataset_args': {'validation_share': 0.5}}, chain('C', {'distill': "
    "{'width': 0.5, 'teacher': 'Half'}})": "'Half' learned from Digits (10 classes, 1×8×8, "
    "validation_share 0.5), this experiment learns from Digits (10 classes",
    "{**BASE, 'name': 'current'}, chain('C', {'distill': {'width': 0.5}})": "'current' is also an "
    "experiment's name; rename that",
    "chain('C', {'distill': {'student': {'embed_dmi': 8}}})": "C.compression_args.sequence[0]."
    "student.embed_dmi: 'embed_dmi' is not known; did you mean 'embed_dim'?",
    "chain('C', {'distill': {'student': {'embed_dim': 'wide'}}})": "student.embed_dim: 'wide' "
    "should be a valid integer",
    "chain('C', {'distill': {'student': {'embed_dim': 15}}})": "embed_dim 15 is not a multiple of "
    "num_heads 2",
    "chain('C', {'distill': {'student': {'num_classes': 5}}})": "student.num_classes comes from "
    "the data",
    "chain('C', {'distill': {'student': {'exits': ['cnn']}}})": "student.exits: remove the key",
    "chain('C', {'distill': {'student': {'num_layers': 'x'}}})": "student.num_layers: 'x' should "
    "be a valid integer",
    "chain('C', {'distill': {'width': 0.5, 'temperature': -1.0}})": "temperature: -1.0 should be "
    "greater than 0",
    "chain('C', {'ptq': {}}, {'distill': {'width': 0.5, 'feature_weight': 1.0}})": "C.compression_"
    "args.sequence[1].teacher: teacher 'current' is int8, which shows its logits alone",
    "chain('E', 'ptq'), chain('C', {'distill': {'width': 0.5, 'teacher': 'E', 'attention_weight': "
    "1.0}})": "teacher 'E' is int8",
    "chain('C', {'distill': {'student': {'fusion': 'parallel'}, 'init': 'teacher'}})": "sequence"
    "[0].teacher: init 'teacher' needs a student that is a part of 'current', but fusion is",
    "chain('C', {'ptq': {'float_layers': ['cnn.blocks.1.*']}}, {'distill': {'student': {"
    "'cnn_channels': [8], 'cnn_kernels': 3, 'cnn_strides': 1, 'cnn_pools': 2}}})": "C.compression_"
    "args.sequence[1]: float_layers: 'cnn.blocks.1.*' matches no layer",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:70])
def test_mistakes_get_one_clear_line(suites: Suites, text: str) -> None:
    lines = suites.refused(f"EXPERIMENT_CONFIGS += [{text}]")
    assert len(lines) == 1, lines
    assert MISTAKES[text] in lines[0]


def test_depth_of_what_has_no_layers_is_refused(suites: Suites) -> None:
    lines = suites.refused(
        'BASE["model_args"] = {"fusion": "parallel"}\n'
        'EXPERIMENT_CONFIGS.append(chain("C", {"distill": {"depth": 0.5}}))'
    )
    assert len(lines) == 1 and "fusion 'parallel' has not" in lines[0]


def test_stages_after_a_student_are_checked_against_it(suites: Suites) -> None:
    """Its layers, not the baseline's: a pattern of the second layer matches nothing."""
    text = """
        BASE["model_args"] = {"num_layers": 2}
        EXPERIMENT_CONFIGS.append(chain(
            "C", {"distill": {"depth": 0.5}}, {"ptq": {"float_layers": ["transformer.layers.1.*"]}},
        ))
    """
    (line,) = suites.refused(text)
    assert line.startswith("C.compression_args.sequence[1]: float_layers: 'transformer.layers.1.*'")
    assert suites.run(text.replace("layers.1", "layers.0"), "--dry-run") == 0
    auto = 'EXPERIMENT_CONFIGS.append(chain("C", {"ptq": {"float_layers": "auto"}}, STUDENT))'
    assert suites.run(f'STUDENT = {{"distill": {{"width": 0.5}}}}\n{auto}', "--dry-run") == 0
