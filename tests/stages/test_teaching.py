"""What a teacher adds to a loss, what is remembered of it, and when it teaches at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from methods.distillation.features import places
from methods.distillation.losses import attention_loss, feature_loss, kd_loss
from model import HybridCNNTransformer
from stages.deployment import calibrated
from stages.distillation import DistillSpec, distill
from stages.finetuning import FinetuneSpec, finetune
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context, StageError
from stages.state import ModelState, state_of
from stages.teaching import Distillation, Teacher, content_keys
from tests.support.chains import FAST, TWO_KINDS
from tests.support.tiny import tiny
from training.losses import cross_entropy


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


def test_remembered_logits_are_the_online_ones(ctx: Context) -> None:
    teacher = Teacher(state_of(tiny()), ctx, "fp32", [])
    loaders = ctx.loaders(FinetuneSpec(augmentation="none", batch_size=100))
    teacher.remember(ctx.loaders(batch_size=64).calibration)
    loaders.train.set_epoch(3)
    for images, _ in loaders.train:
        torch.testing.assert_close(teacher.logits(images), teacher(images), rtol=1e-5, atol=1e-6)
    others = next(iter(loaders.validation))[0]
    answers = teacher.logits(torch.cat([images[:2], others[:2]]))
    assert answers.isnan().all(1).tolist() == [False, False, True, True]


def test_a_tensor_that_is_filled_anew_is_asked_about_anew(ctx: Context) -> None:
    """As the images of a recorded step; within a step, each early exit gets the same answer."""
    made, student = criterion(ctx)
    first, second = (torch.randn(8, 1, 8, 8) for _ in range(2))
    images, labels = first.clone(), torch.arange(8)
    made(student(images), labels, images)
    answer = made.answer
    made(student.head.weight.new_zeros(8, 10), labels, images)
    assert made.answer is answer and torch.equal(answer, made.teacher(first))
    images.copy_(second)
    made(student(images), labels, images)
    assert made.answer is not None and torch.equal(made.answer, made.teacher(second))


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
        ({"augmentation": "none", "rotation": 5.0}, False),
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


def test_a_teachers_options_need_a_teacher() -> None:
    with pytest.raises(ValidationError, match="alpha needs a teacher"):
        FinetuneSpec(alpha=0.5)
    with pytest.raises(ValidationError, match="finetune between cuts has no teacher"):
        PruneSpec(ratio=0.5, mode="structural", finetune=FinetuneSpec(teacher="current"))
    assert not FinetuneSpec().settings().keys() & {"teacher", "alpha", "temperature"}
    said = FinetuneSpec(teacher="current").settings()
    assert said["alpha"] == 0.9 and "dkd_beta" not in said and "feature_weight" not in said


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


def test_int8_and_masked_teachers_teach_what_they_deploy(ctx: Context) -> None:
    start = state_of(tiny(num_layers=1))
    masked = prune(start, PruneSpec(ratio=0.5), ctx)
    images = next(iter(ctx.loaders(batch_size=32).validation))[0]
    for made in (masked, ptq(masked, PtqSpec(backend="x86", calibration_batches=2), ctx)):
        deployed = calibrated(made, ctx)
        state = deployed.state
        with torch.inference_mode():
            expected = deployed.network(images)
        assert torch.equal(Teacher(state, ctx, "fp32", []).logits(images), expected)
        distill(state, DistillSpec(width=0.5, **FAST), ctx)
    with pytest.raises(
        ValueError, match="'current' is int8 or bfloat16, which shows its logits alone"
    ):
        distill(state, DistillSpec(width=0.5, attention_weight=1.0, **FAST), ctx)


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
