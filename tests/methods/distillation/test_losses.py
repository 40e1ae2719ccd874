"""Losses of distillation against formulas written in numpy, and the papers' own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from methods.distillation.losses import (
    attention_loss,
    decoupled_parts,
    dkd_loss,
    feature_loss,
    kd_loss,
)


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
