"""Attention against torch's own; both ways to write it agree, and the choice between them lasts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from machine import cache
from networks import attention
from networks.attention import (
    Attention,
    ScaledDotProduct,
    attention_written_out,
    trains_faster_written_out,
    written_out,
)


def test_attention_equals_torchs_multihead_attention() -> None:
    ours, theirs = Attention(16, 4, 4).eval(), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    tokens = torch.randn(2, 5, 16)
    expected, _ = theirs(tokens, tokens, tokens)
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-6)


def test_both_attention_paths_agree_in_value_and_gradient() -> None:
    core = ScaledDotProduct()
    results = []
    for by_hand in (True, False):
        torch.manual_seed(1)
        qkv = [torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3)]
        if by_hand:
            with attention_written_out():
                out = core.eval()(*qkv)
        else:
            out = F.scaled_dot_product_attention(*qkv)
        results.append([out, *torch.autograd.grad(out.square().sum(), qkv)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_both_attention_paths_are_equal_and_the_choice_draws_nothing() -> None:
    query, key, value = (torch.randn(4, 2, 9, 8, requires_grad=True) for _ in range(3))
    weights = torch.randn(4, 2, 9, 8)
    expected = F.scaled_dot_product_attention(query, key, value)
    found = written_out(query, key, value)
    torch.testing.assert_close(found, expected)
    theirs = torch.autograd.grad(expected, (query, key, value), weights)
    torch.testing.assert_close(torch.autograd.grad(found, (query, key, value), weights), theirs)
    before = torch.get_rng_state()
    with torch.inference_mode(False), torch.no_grad():
        chosen = trains_faster_written_out(query.shape, query.dtype, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert chosen is trains_faster_written_out(query.shape, query.dtype, 1)


def test_the_choice_of_a_path_outlives_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The paths differ in the last bits: a run that goes on must not choose anew."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    choose, shape = trains_faster_written_out, torch.Size((4, 2, 9, 8))
    for answer in (True, False):
        monkeypatch.setattr(attention, "_written_out_wins", lambda *_, answer=answer: answer)
        choose.cache_clear()  # as a new process has it
        assert choose(shape, torch.float32, 1) is True
    assert choose(shape, torch.float32, 2) is False
    monkeypatch.setenv(cache.VARIABLE, "/proc/none")  # nothing can be kept there
    choose.cache_clear()
    assert choose(shape, torch.float32, 1) is False
    choose.cache_clear()
